"""The starts of jobs that limits count, as this store keeps them: exact, for only one writes at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from sqlite3 import Connection

from conveyor.core.store import Rate
from conveyor.store.sql import MICROSECOND, Scope, microseconds
from conveyor.store.sqlite.rows import read, written
from conveyor.store.sqlite.statements import ask, fetch, run, text


class Starts:
    """The table of starts, for the limits of claims."""

    def __init__(self, db: Connection) -> None:
        """Use a connection whose transaction writes."""
        self._db = db

    async def count_active(self, queue: str, most: int) -> int:
        """How many jobs of a queue are active, up to that many."""
        count: int = fetch(self._db, "count_active", queue=queue, limit=most)[0]
        return count

    async def register_window(self, scope: Scope, rate: Rate, now: datetime) -> None:
        """Note that a claim asks for this window, and forget the starts that no window needs."""
        run(self._db, "register_window", **scope._asdict(), longest=microseconds(rate.per))
        forget_starts(self._db, scope, now)

    async def count_starts(
        self, scope: Scope, targets: Collection[str], rate: Rate, now: datetime
    ) -> list[tuple[str, int, datetime | None]]:
        """How many starts of each target are in a window, and the one that must leave it when it is full."""
        counted = ask(
            self._db,
            "count_starts",
            **scope._asdict(),
            targets=text(list(targets)),
            since=written(now - rate.per),
            now=written(now),
            max=rate.max,
        )
        return [
            (target, starts, None if leaves is None else read(leaves)) for target, starts, leaves in counted
        ]

    async def add_starts(self, scope: Scope, starts: Mapping[str, int], now: datetime) -> None:
        """Note that so many jobs of each target have started."""
        targets = text(list(starts.items()))
        run(self._db, "shift_later_starts", **scope._asdict(), targets=targets, now=written(now))
        run(self._db, "add_starts", **scope._asdict(), targets=targets, now=written(now))


def forget_starts(db: Connection, scope: Scope, now: datetime) -> None:
    """Forget the starts that no window needs any more."""
    row = fetch(db, "longest_window", **scope._asdict())
    if row is not None:
        horizon = written(now - max(row[0], 0) * MICROSECOND)
        run(db, "forget_starts", **scope._asdict(), horizon=horizon)
