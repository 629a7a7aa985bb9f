"""The starts of jobs that limits count, as this store keeps them.

Exact, because a claim with a limit locks its queue (lock_queue.sql) before it counts, and because nothing but
a claim adds to what is counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from conveyor.core.store import Rate
from conveyor.store.pg.rows import instant
from conveyor.store.pg.statements import Session
from conveyor.store.sql import Scope, microseconds


class Starts:
    """The table of starts, for the limits of claims."""

    def __init__(self, session: Session) -> None:
        """Use a session in a transaction."""
        self._session = session

    async def count_active(self, queue: str, most: int) -> int:
        """How many jobs of a queue are active, up to that many."""
        [(count,)] = await self._session.ask("count_active", queue=queue, limit=most)
        return int(count)

    async def register_window(self, scope: Scope, rate: Rate, now: datetime) -> None:
        """Note that a claim asks for this window, and forget the starts that no window needs."""
        await self._session.run("register_window", **scope._asdict(), longest=microseconds(rate.per))
        await self._session.run("forget_starts", queues=[scope.queue], kinds=[scope.kind], now=now)

    async def count_starts(
        self, scope: Scope, targets: Collection[str], rate: Rate, now: datetime
    ) -> list[tuple[str, int, datetime | None]]:
        """How many starts of each target are in a window, and the one that must leave it when it is full."""
        counted = await self._session.ask(
            "count_starts",
            **scope._asdict(),
            targets=list(targets),
            since=now - rate.per,
            now=now,
            max=rate.max,
        )
        return [(target, starts, instant(leaves)) for target, starts, leaves in counted]

    async def add_starts(self, scope: Scope, starts: Mapping[str, int], now: datetime) -> None:
        """Note that so many jobs of each target have started."""
        counted = {"targets": list(starts), "starts": list(starts.values())}
        await self._session.run("shift_later_starts", **scope._asdict(), **counted, now=now)
        await self._session.run("add_starts", **scope._asdict(), **counted, now=now)
