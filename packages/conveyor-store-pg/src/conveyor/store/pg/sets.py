"""Reading, changing and removing sets of jobs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from conveyor.core.store import TERMINAL, Change, Deleted, JobKey, JobRecord, JobState, Order, Where
from conveyor.store.pg.groups import follow
from conveyor.store.pg.ledger import ACTIVE, DELAYED, ENDED, WAITING, Entry, Ledger
from conveyor.store.pg.rows import ID, jsonb, moment, record_or_reason
from conveyor.store.pg.statements import Session
from conveyor.store.pg.where import EVERY, counts, locked, rows, seqs

log: Final = logging.getLogger("conveyor.store.pg")


async def find(
    session: Session,
    now: datetime | None,
    where: Where,
    *,
    limit: int,
    after: JobRecord | None,
    order: Order,
) -> list[JobRecord]:
    """The jobs of a set, in order, without those that cannot be read."""
    now = await moment(session, now)
    found: list[JobRecord] = []
    for row in await rows(session, where, now, limit=limit, order=order, after=after):
        record = record_or_reason(row, now)
        if isinstance(record, JobRecord):
            found.append(record)
        else:
            log.warning("job %r of queue %r cannot be read and is left out: %s", row[ID], row[0], record)
    return found


async def count(
    session: Session, now: datetime | None, where: Where, *, by_group: bool, most: int | None = None
) -> dict[tuple[str | None, JobState], int]:
    """How many jobs the set has, by queue (or group) and state."""
    return await counts(session, where, await moment(session, now), by_group=by_group, most=most)


async def update(session: Session, now: datetime | None, where: Where, change: Change) -> frozenset[JobKey]:
    """Apply a change to every job of a set, in the order they were added."""
    now = await moment(session, now)
    ledger = Ledger(session, now)
    concerned = _states(change) if where.states is None else _states(change) & where.states
    where = replace(
        where, states=concerned
    )  # what it does not concern is not locked, so nobody passes over it
    entries = ledger.keep(await locked(session, where, now, await seqs(session, where, now)))
    changed = frozenset([entry.key for entry in entries if await _changed(ledger, entry, change)])
    await ledger.done()
    return changed


def _states(change: Change) -> frozenset[JobState]:
    """The states of the jobs that a change may apply to."""
    found: set[JobState] = set()
    if change.release_key:
        found.update(JobState)
    if change.retry or change.retention is not None:
        found |= TERMINAL
    if change.payload is not None or change.priority is not None:
        found |= set(JobState) - TERMINAL
    if change.delay is not None or change.run_at is not None:
        found |= {JobState.WAITING, JobState.DELAYED}
    if change.cancel:
        found.add(JobState.ACTIVE)
    if change.report is not None:
        found |= set(JobState) - {JobState.ACTIVE}
    return frozenset(found)


async def _changed(ledger: Ledger, entry: Entry, change: Change) -> bool:
    """Do to a job what applies to it, and say whether anything did."""
    applied = change.retry and await ledger.retry(entry)
    if entry.state not in ENDED:
        if change.payload is not None:
            entry.payload = jsonb(change.payload)
            applied = entry.altered = True
        if change.priority is not None:
            entry.rank += change.priority - entry.priority
            entry.priority = change.priority
            applied = entry.altered = True
    if entry.state in {WAITING, DELAYED} and (change.delay is not None or change.run_at is not None):
        ledger.wait(entry, change.run_at if change.delay is None else ledger.after(change.delay))
        applied = True
    if entry.state == ACTIVE and change.cancel:
        entry.cancel_requested = True
        applied = True
    if entry.state in ENDED and change.retention is not None:
        ledger.retain(entry, change.retention)
        applied = True
    if change.release_key and entry.holds(ledger.now):
        entry.holds_key = False
        applied = True
    if entry.state != ACTIVE and change.report is not None:
        entry.report = change.report
        applied = True
    if applied:
        ledger.change(entry)
    return applied


async def delete(session: Session, now: datetime | None, where: Where, limit: int) -> Deleted:
    """Remove jobs of a set, the longest there first."""
    now = await moment(session, now)
    ledger = Ledger(session, now)
    entries = ledger.keep(await locked(session, where, now, await seqs(session, where, now, limit=limit)))
    await ledger.load_parents()
    removed = tuple(entry.key for entry in entries)
    released = [parent for entry in entries if (parent := await ledger.remove(entry)) is not None]
    await ledger.done()
    gone = frozenset(removed)
    return Deleted(removed=removed, released=tuple(key for key in released if key not in gone))


async def forget(session: Session, now: datetime | None, queue: str) -> Sequence[JobKey]:
    """Remove every trace of a queue, and return the parents elsewhere that wait for no child any more."""
    await session.ask("lock_queue_if_any", queue=queue)
    deleted = await delete(session, now, Where(queue=queue), EVERY)
    await session.run("clear", queue=queue)
    left = await session.ask("clear_groups", queue=queue)
    if left:
        await follow(session, [(queue, group) for (group,) in left])
    return deleted.released
