"""Changing and removing sets of jobs that were read."""

from __future__ import annotations

from collections.abc import Sequence

from conveyor.core.store import Change, Deleted, JobKey, transitions
from conveyor.store.sql.jobs import Row
from conveyor.store.sql.work import UnitOfWork


async def update(work: UnitOfWork, rows: Sequence[Row], change: Change) -> frozenset[JobKey]:
    """Apply a change to these jobs, in this order, and return those that it applied to."""
    work.keep(rows)
    changed = frozenset([row.key for row in rows if await _changed(work, row, change)])
    await work.done()
    return changed


async def _changed(work: UnitOfWork, row: Row, change: Change) -> bool:
    retried = change.retry and await work.retry(row)
    fields = transitions.changed(row, change, work.now)
    if fields:
        work.change(row, fields)
    return retried or bool(fields)


async def delete(work: UnitOfWork, rows: Sequence[Row]) -> Deleted:
    """Remove these jobs, in this order."""
    work.keep(rows)
    await work.load_parents()
    removed = tuple(row.key for row in rows)
    released = [parent for row in rows if (parent := await work.remove(row)) is not None]
    await work.done()
    gone = frozenset(removed)
    return Deleted(removed=removed, released=tuple(key for key in released if key not in gone))
