"""Reading, changing and removing sets of jobs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from sqlite3 import Connection
from typing import Final

from conveyor.core.store import Change, Deleted, JobKey, JobRecord, JobState, Order, Where
from conveyor.store import sql
from conveyor.store.sql import Read, UnitOfWork, read_page, run_now
from conveyor.store.sqlite.jobs import Jobs
from conveyor.store.sqlite.rows import records, written
from conveyor.store.sqlite.statements import ask, execute, statement
from conveyor.store.sqlite.where import counts, seqs

log: Final = logging.getLogger("conveyor.store.sqlite")
_EVERY: Final = (1 << 63) - 1


def find(
    db: Connection, now: datetime, where: Where, *, limit: int, after: JobRecord | None, order: Order
) -> list[JobRecord]:
    """The jobs of a set, in order, without those that cannot be read."""

    async def read(count: int) -> Sequence[Read]:
        return records(db, seqs(db, where, now, limit=count, order=order, after=after), written(now))

    return run_now(read_page(read, limit, log))


def count(
    db: Connection, now: datetime, where: Where, *, by_group: bool, most: int | None = None
) -> dict[tuple[str | None, JobState], int]:
    """How many jobs the set has, by queue (or group) and state."""
    return counts(db, where, now, by_group=by_group, most=most)


def update(db: Connection, now: datetime, where: Where, change: Change) -> frozenset[JobKey]:
    """Apply a change to every job of a set, in the order they were added."""
    jobs = Jobs(db)
    rows = jobs.read_by_seq(seqs(db, where, now, limit=_EVERY))
    return run_now(sql.update(UnitOfWork(jobs, now), rows, change))


def delete(db: Connection, now: datetime, where: Where, limit: int) -> Deleted:
    """Remove jobs of a set, the longest there first."""
    return _remove(db, now, seqs(db, where, now, limit=limit))


def forget(db: Connection, now: datetime, queue: str) -> Sequence[JobKey]:
    """Remove every trace of a queue, and return the parents elsewhere that wait for no child any more."""
    deleted = _remove(db, now, ask(db, "find_all_of_queue", queue=queue))
    for table in _TRACES:
        execute(db, statement("delete_traces").replace("{table}", table), {"queue": queue})
    return deleted.released


_TRACES: Final = (
    "conveyor_groups",
    "conveyor_queues",
    "conveyor_starts",
    "conveyor_windows",
    "conveyor_pauses",
    "conveyor_tombstones",
)


def _remove(db: Connection, now: datetime, wanted: Sequence[int]) -> Deleted:
    jobs = Jobs(db)
    return run_now(sql.delete(UnitOfWork(jobs, now), jobs.read_by_seq(wanted)))
