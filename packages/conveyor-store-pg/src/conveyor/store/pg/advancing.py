"""Letting time pass: due jobs, lost leases, and what need not be remembered any more."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from conveyor.core.jobs import JobKey, JobState
from conveyor.core.store import Advanced
from conveyor.store.pg.groups import Move, end_pauses, moved
from conveyor.store.pg.ledger import REMEMBERED
from conveyor.store.pg.rows import known_instant, moment
from conveyor.store.pg.statements import Session


async def advance(session: Session, now: datetime | None, queues: Collection[str], limit: int) -> Advanced:
    """Move what is due and what has stalled, and tidy up."""
    now = await moment(session, now)
    names = sorted(queues)
    due = await session.ask("due", queues=names, now=now, limit=limit)
    stalled = await session.ask("stalled", queues=names, now=now, limit=limit)
    moves = [
        Move(queue, group, name, JobState.DELAYED.value, JobState.WAITING.value)
        for queue, _, name, group in due
        if group is not None
    ] + [
        Move(queue, group, name, JobState.ACTIVE.value, state)
        for queue, _, name, group, state in stalled
        if group is not None
    ]
    await moved(session, moves)
    await _tidy(session, names, now)
    wait: timedelta | None = timedelta(0)
    if limit not in {len(due), len(stalled)}:
        [(following,)] = await session.ask("next", queues=names)
        wait = None if following is None else max(known_instant(following) - now, timedelta(0))
    return Advanced(
        due=[JobKey(queue, id) for queue, id, *_ in due],
        stalled=[JobKey(queue, id) for queue, id, *_ in stalled],
        wait=wait,
    )


async def _tidy(session: Session, queues: list[str], now: datetime) -> None:
    await session.run("tidy", queues=queues, now=now, horizon=now - REMEMBERED)
    await session.run("forget_starts", queues=queues, kinds=["queue", "group"], now=now)
    for (queue,) in await session.ask("grouped_queues", queues=queues):
        await end_pauses(session, queue, now)
        await session.run("forget_groups", queue=queue)
        await session.run("forget_turns", queue=queue)
        await session.run("forget_queue", queue=queue)
