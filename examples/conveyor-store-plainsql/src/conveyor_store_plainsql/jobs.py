"""The table of jobs, as a unit of work asks for it: the eight methods of `JobTable`."""

# ruff: noqa: S608 - statements are put together from what stands in this file

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from itertools import chain
from sqlite3 import Connection
from typing import Any

from conveyor.core.store import Lease
from conveyor.store.sql import Key, Row
from conveyor_store_plainsql.rows import OF_ROWS, all_stored, row, stored

SAVE = """
update conveyor_jobs
   set state = :state,
       attempt = :attempt,
       stalled = :stalled,
       cancel_requested = :cancel_requested,
       run_at = :run_at,
       delay = :delay,
       pending = :pending,
       released = :released,
       holds_key = :holds_key,
       finished_at = :finished_at,
       expires_at = :expires_at,
       keep_count = :keep_count,
       settled_token = :settled_token,
       settled_state = :settled_state,
       settled_at = :settled_at,
       report = coalesce(:report, report),
       token = case when :state = 'active' then token end,
       lease_until = case when :state = 'active' then lease_until end,
       locked_by = case when :state = 'active' then locked_by end,
       started = case when :state = 'active' then started else 0 end
 where seq = :seq
"""
REWRITE = """
update conveyor_jobs
   set priority = :priority,
       sort_key = :sort_key,
       payload = coalesce(:payload, payload),
       processed_at = case when :reset then null else processed_at end
 where seq = :seq
"""


class Jobs:
    """The table of jobs, in a transaction that nobody else changes."""

    def __init__(self, db: Connection) -> None:
        self._db = db

    async def read(self, keys: Collection[Key]) -> list[Row]:
        return [row(found) for found in by_key(self._db, keys)]

    async def save(self, rows: Sequence[Row]) -> None:
        self._db.executemany(SAVE, [_columns(job) for job in rows])

    async def rewrite(self, rows: Sequence[Row]) -> None:
        self._db.executemany(REWRITE, [_columns(job) | {"reset": job.reset} for job in rows])

    async def remove(self, rows: Sequence[Row]) -> None:
        self._db.executemany("delete from conveyor_jobs where seq = ?", [(job.seq,) for job in rows])

    async def write_tombstones(self, rows: Sequence[Row], now: datetime) -> None:
        self._db.executemany(
            "insert into conveyor_tombstones (queue, id, token, state, at) values (?, ?, ?, ?, ?)",
            [(job.queue, job.id, job.settled_token, job.settled_state, stored(now)) for job in rows],
        )

    async def find_tombstones(self, leases: Collection[Lease]) -> set[tuple[Lease, str]]:
        found = self._db.execute(
            "select queue, id, token, state from conveyor_tombstones"
            f" where (queue, id, token) in (values {marks(leases, 3)})",
            flat(leases),
        )
        return {(Lease(queue, job_id, token), state) for queue, job_id, token, state in found}

    async def holder(self, queue: str, unique_key: str) -> str | None:
        found = self._db.execute(
            "select id from conveyor_jobs where queue = ? and unique_key = ? and holds_key = 1",
            (queue, unique_key),
        ).fetchone()
        return None if found is None else found[0]

    async def count_unreleased(self, parent: Key) -> int:
        count: int = self._db.execute(
            "select count(*) from conveyor_jobs where parent_queue = ? and parent_id = ? and released = 0",
            parent,
        ).fetchone()[0]
        return count


def by_key(db: Connection, keys: Collection[Key]) -> list[Any]:
    """The rows of these jobs, whole. A server would lock them: `order by queue, id for update`."""
    if not keys:
        return []
    sql = f"select * from conveyor_jobs where (queue, id) in (values {marks(keys, 2)}) order by queue, id"
    return db.execute(sql, flat(keys)).fetchall()


def marks(values: Collection[object], width: int) -> str:
    """A place for each value of a list of tuples."""
    return ", ".join(["(" + ", ".join("?" * width) + ")"] * len(values))


def flat(values: Iterable[Iterable[object]]) -> list[Any]:
    return list(chain.from_iterable(values))


def _columns(job: Row) -> dict[str, Any]:
    return all_stored({name: getattr(job, name) for name in OF_ROWS})
