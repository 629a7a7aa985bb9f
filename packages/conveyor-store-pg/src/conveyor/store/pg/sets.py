"""Reading, changing and removing sets of jobs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from conveyor.core.store import Change, Deleted, JobKey, JobRecord, JobState, Order, Where, transitions
from conveyor.store import sql
from conveyor.store.pg.groups import copy_to_subqueues
from conveyor.store.pg.jobs import UnitOfWork, row_of
from conveyor.store.pg.rows import moment, record_or_reason
from conveyor.store.pg.statements import Session
from conveyor.store.pg.where import EVERY, counts, locked, seqs
from conveyor.store.pg.where import rows as rows_of
from conveyor.store.sql import Read, read_page

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
    instant = await moment(session, now)

    async def read(count: int) -> Sequence[Read]:
        found = await rows_of(session, where, instant, limit=count, order=order, after=after)
        return [(row, record_or_reason(row, instant)) for row in found]

    return await read_page(read, limit, log)


async def count(
    session: Session, now: datetime | None, where: Where, *, by_group: bool, most: int | None = None
) -> dict[tuple[str | None, JobState], int]:
    """How many jobs the set has, by queue (or group) and state."""
    return await counts(session, where, await moment(session, now), by_group=by_group, most=most)


async def update(session: Session, now: datetime | None, where: Where, change: Change) -> frozenset[JobKey]:
    """Apply a change to every job of a set, in the order they were added."""
    now = await moment(session, now)
    states = transitions.concerned(change)
    # What it does not concern is not locked, so that no claim passes over it.
    where = replace(where, states=states if where.states is None else states & where.states)
    rows = await locked(session, where, now, await seqs(session, where, now))
    return await sql.update(UnitOfWork(session, now), [row_of(row) for row in rows], change)


async def delete(session: Session, now: datetime | None, where: Where, limit: int) -> Deleted:
    """Remove jobs of a set, the longest there first."""
    now = await moment(session, now)
    rows = await locked(session, where, now, await seqs(session, where, now, limit=limit))
    return await sql.delete(UnitOfWork(session, now), [row_of(row) for row in rows])


async def forget(session: Session, now: datetime | None, queue: str) -> Sequence[JobKey]:
    """Remove every trace of a queue, and return the parents elsewhere that wait for no child any more."""
    await session.ask("lock_queue_if_any", queue=queue)
    deleted = await delete(session, now, Where(queue=queue), EVERY)
    await session.run("delete_traces", queue=queue)
    left = await session.ask("reset_groups", queue=queue)
    if left:
        await copy_to_subqueues(session, [(queue, group) for (group,) in left])
    return deleted.released
