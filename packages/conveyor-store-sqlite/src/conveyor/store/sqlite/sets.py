"""Reading, changing and removing sets of jobs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from sqlite3 import Connection
from typing import Final

from conveyor.core.store import Change, Deleted, JobKey, JobRecord, JobState, Order, Where
from conveyor.store.sqlite.ledger import ACTIVE, DELAYED, ENDED, WAITING, Entry, Ledger
from conveyor.store.sqlite.rows import ID, rank_key, rank_of, records, written
from conveyor.store.sqlite.statements import ask, run
from conveyor.store.sqlite.where import counts, seqs

log: Final = logging.getLogger("conveyor.store.sqlite")
_EVERY: Final = (1 << 63) - 1


def find(
    db: Connection, now: datetime, where: Where, *, limit: int, after: JobRecord | None, order: Order
) -> list[JobRecord]:
    """The jobs of a set, in order, without those that cannot be read."""
    wanted = seqs(db, where, now, limit=limit, order=order, after=after)
    found: list[JobRecord] = []
    for row, record in records(db, wanted, written(now)):
        if isinstance(record, JobRecord):
            found.append(record)
        else:
            log.warning("job %r of queue %r cannot be read and is left out: %s", row[ID], row[0], record)
    return found


def count(
    db: Connection, now: datetime, where: Where, *, by_group: bool, most: int | None = None
) -> dict[tuple[str | None, JobState], int]:
    """How many jobs the set has, by queue (or group) and state."""
    return counts(db, where, now, by_group=by_group, most=most)


def update(db: Connection, now: datetime, where: Where, change: Change) -> frozenset[JobKey]:
    """Apply a change to every job of a set, in the order they were added."""
    ledger = Ledger(db, now)
    entries = ledger.load_rows(seqs(db, where, now, limit=_EVERY))
    changed = frozenset(entry.key for entry in entries if _changed(ledger, entry, change))
    ledger.flush()
    return changed


def _changed(ledger: Ledger, entry: Entry, change: Change) -> bool:
    """Do to a job what applies to it, and say whether anything did."""
    applied = change.retry and ledger.retry(entry)
    if entry.state not in ENDED:
        if change.payload is not None:
            entry.payload = change.payload
            applied = entry.altered = True
        if change.priority is not None:
            entry.rank = rank_key(rank_of(entry.rank) + (change.priority - entry.priority))
            entry.priority = change.priority
            applied = entry.altered = True
    if entry.state in {WAITING, DELAYED} and (change.delay is not None or change.run_at is not None):
        run_at = None if change.run_at is None else written(change.run_at)
        ledger.wait(entry, run_at if change.delay is None else ledger.after(change.delay))
        applied = True
    if entry.state == ACTIVE and change.cancel:
        entry.cancel_requested = 1
        applied = True
    if entry.state in ENDED and change.retention is not None:
        ledger.retain(entry, change.retention)
        applied = True
    if change.release_key and entry.holds(ledger.now):
        entry.holds_key = 0
        applied = True
    if entry.state != ACTIVE and change.report is not None:
        entry.report = change.report
        applied = True
    if applied:
        ledger.change(entry)
    return applied


def delete(db: Connection, now: datetime, where: Where, limit: int) -> Deleted:
    """Remove jobs of a set, the longest there first."""
    return _remove(db, now, seqs(db, where, now, limit=limit))


def forget(db: Connection, now: datetime, queue: str) -> Sequence[JobKey]:
    """Remove every trace of a queue, and return the parents elsewhere that wait for no child any more."""
    deleted = _remove(db, now, ask(db, "all_of_queue", queue=queue))
    for table in _TRACES:
        run(db, table, queue=queue)
    return deleted.released


_TRACES: Final = (
    "clear_groups",
    "clear_queues",
    "clear_starts",
    "clear_windows",
    "clear_pauses",
    "clear_tombstones",
)


def _remove(db: Connection, now: datetime, wanted: Sequence[int]) -> Deleted:
    ledger = Ledger(db, now)
    entries = ledger.load_rows(wanted)
    ledger.load_parents()
    removed = tuple(entry.key for entry in entries)
    released = [parent for entry in entries if (parent := ledger.remove(entry)) is not None]
    ledger.flush()
    gone = frozenset(removed)
    return Deleted(removed=removed, released=tuple(key for key in released if key not in gone))
