"""The starts of jobs that limits count: the four methods of `StartTable`."""

# ruff: noqa: S608 - statements are put together from what stands in this file

from collections.abc import Collection, Mapping
from datetime import datetime
from itertools import accumulate
from sqlite3 import Connection

from conveyor.core.store import Rate
from conveyor.store.sql import MICROSECOND, Scope
from conveyor_store_plainsql.rows import instant, stored

OF_SCOPE = "queue = :queue and kind = :kind"
REGISTER = """
insert into conveyor_windows (queue, kind, longest) values (:queue, :kind, :longest)
    on conflict (queue, kind) do update set longest = max(conveyor_windows.longest, excluded.longest)
"""
ADD = """
insert into conveyor_starts (queue, kind, target, at, starts) values (:queue, :kind, :target, :at, :starts)
    on conflict (queue, kind, target, at) do update set starts = conveyor_starts.starts + excluded.starts
"""


class Starts:
    """The table of starts. A server locks the queue before any of this, in a row of its own."""

    def __init__(self, db: Connection) -> None:
        self._db = db

    async def count_active(self, queue: str, most: int) -> int:  # noqa: ARG002 - counting may stop there
        sql = "select count(*) from conveyor_jobs where queue = ? and state = 'active'"
        count: int = self._db.execute(sql, (queue,)).fetchone()[0]
        return count

    async def register_window(self, scope: Scope, rate: Rate, now: datetime) -> None:
        self._db.execute(REGISTER, scope._asdict() | {"longest": stored(rate.per)})
        forget_starts(self._db, scope, now)

    async def count_starts(
        self, scope: Scope, targets: Collection[str], rate: Rate, now: datetime
    ) -> list[tuple[str, int, datetime | None]]:
        sql = f"select at, starts from conveyor_starts where {OF_SCOPE} and target = :target"
        sql += " and at > :since and at <= :now order by at"
        window = scope._asdict() | {"since": stored(now - rate.per), "now": stored(now)}
        found: list[tuple[str, int, datetime | None]] = []
        for target in targets:
            starts = self._db.execute(sql, window | {"target": target}).fetchall()
            sums = list(accumulate(number for _, number in starts))
            if sums:  # when it is full, one more may start when so many of the first have left
                leaving = max(1, sums[-1] - rate.max + 1)
                at = next(at for (at, _), number in zip(starts, sums, strict=True) if number >= leaving)
                found.append((target, sums[-1], instant(at)))
        return found

    async def add_starts(self, scope: Scope, starts: Mapping[str, int], now: datetime) -> None:
        values = scope._asdict() | {"at": stored(now)}
        self._db.executemany(ADD, [values | {"target": of, "starts": n} for of, n in starts.items()])


def forget_starts(db: Connection, scope: Scope, now: datetime) -> None:
    """Forget the starts that no window needs, by the longest that any claim has asked for."""
    row = db.execute(f"select longest from conveyor_windows where {OF_SCOPE}", scope._asdict()).fetchone()
    if row is not None:
        horizon = {"horizon": stored(now - row[0] * MICROSECOND)}
        db.execute(
            f"delete from conveyor_starts where {OF_SCOPE} and at <= :horizon", scope._asdict() | horizon
        )
