"""Ending what time has ended: pauses and throttling of groups, and what need not be remembered.

Each step here is a transaction of its own. It takes groups, pauses or a queue's row before others that it may
have to wait for, and whoever moves jobs takes them in another order: in one transaction, each would wait for
the other (test_pg_races.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

from conveyor.core.store import Claim
from conveyor.store.pg.connections import Connections
from conveyor.store.pg.groups import end_pauses, unthrottle
from conveyor.store.pg.statements import Session
from conveyor.store.sql import REMEMBERED


async def resume_groups(connections: Connections, request: Claim, now: datetime | None) -> None:
    """Resume groups for a claim: those whose pauses are over, and those that were throttled until now."""
    await connections.call(partial(end_pauses, queue=request.queue, now=now))
    if request.group_limit is not None and request.group_limit.rate is not None:
        rate = request.group_limit.rate
        await connections.call(partial(unthrottle, queue=request.queue, now=now, rate=rate))


async def forget_ended(connections: Connections, queues: Sequence[str], now: datetime) -> None:
    """Remove what is over in these queues, so much of it at a time."""

    async def run(statement: str, **values: Any) -> None:
        async def step(session: Session) -> int:
            return await session.run(statement, **values)

        await connections.call(step, single=True)

    async def grouped(session: Session) -> list[str]:
        return [queue for (queue,) in await session.ask("grouped_queues", queues=list(queues))]

    await run("forget_ended", queues=list(queues), now=now, horizon=now - REMEMBERED)
    await run("forget_starts", queues=list(queues), kinds=["queue", "group"], now=now)
    for queue in await connections.call(grouped, single=True, reads=True):
        await connections.call(partial(end_pauses, queue=queue, now=now))
        for statement in ("forget_groups", "forget_picks", "forget_queue"):
            await run(statement, queue=queue)
