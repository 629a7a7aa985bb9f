"""Apply the outcomes of leased jobs, and renew leases.

Most outcomes concern no other job: no parent, no unique key, no group, nothing spawned. A batch of
such is one statement; any other goes through a unit of work.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from conveyor.core.store import Beat, Inserted, JobRecord, JobState, Outcome, Renewed, Settled
from conveyor.store import sql
from conveyor.store.pg.inserting import transitions_of, write
from conveyor.store.pg.jobs import UnitOfWork
from conveyor.store.pg.rows import jsonb, moment
from conveyor.store.pg.statements import Session
from conveyor.store.sql import MICROSECOND, merged_beats, microseconds, renewed

_NO_TIME: Final = timedelta(0)


def may_fit_fast_path(outcomes: Sequence[Outcome]) -> bool:
    """Whether one statement may be enough: nothing is spawned, and no job goes to its children."""
    leases = {outcome.lease for outcome in outcomes}
    return len(leases) == len(outcomes) and not any(
        outcome.spawn or outcome.state is JobState.WAITING_CHILDREN for outcome in outcomes
    )


async def settle_fast(session: Session, now: datetime | None, outcomes: Sequence[Outcome]) -> Settled | None:
    """Apply outcomes by one statement; None, and nothing applied, if one of them needs the slow path."""
    leases = [outcome.lease for outcome in outcomes]
    ends = [outcome.retention if outcome.state.terminal else None for outcome in outcomes]
    removed = [end is not None and end.age is not None and end.age <= _NO_TIME for end in ends]
    [(done,)] = await session.ask(
        "settle",
        now=now,
        queues=[lease.queue for lease in leases],
        ids=[lease.id for lease in leases],
        tokens=[lease.token for lease in leases],
        states=[outcome.state.value for outcome in outcomes],
        ended=[outcome.state.terminal for outcome in outcomes],
        attempts=[outcome.attempt for outcome in outcomes],
        stalls=[outcome.stalls for outcome in outcomes],
        reports=[outcome.report for outcome in outcomes],
        delays=[microseconds(outcome.delay) for outcome in outcomes],
        run_at=[outcome.run_at for outcome in outcomes],
        ages=[None if end is None else microseconds(end.age) for end in ends],
        counts=[None if end is None else end.count for end in ends],
        removed=removed,
    )
    if not done:
        return None
    return Settled(
        applied=frozenset(leases),
        removed=tuple(lease.key for lease, gone in zip(leases, removed, strict=True) if gone),
    )


async def settle(session: Session, now: datetime | None, outcomes: Sequence[Outcome]) -> Settled:
    """Apply the outcomes whose leases are held, in order."""
    at = await moment(session, now)
    work = UnitOfWork(session, at)

    async def spawn(records: Sequence[JobRecord]) -> Sequence[Inserted]:
        created, answers = await write(session, at, records)
        work.add_transitions(transitions_of(created))
        return answers

    return await sql.settle(work, outcomes, spawn)


async def renew(session: Session, now: datetime | None, beats: Sequence[Beat], lease: timedelta) -> Renewed:
    """Prolong the leases that are held, and write what the beats carry."""
    merged = merged_beats(beats)
    leases = [beat.lease for beat in merged]
    found = await session.ask(
        "renew",
        now=now,
        numbers=list(range(len(leases))),
        queues=[each.queue for each in leases],
        ids=[each.id for each in leases],
        tokens=[each.token for each in leases],
        payloads=[None if beat.payload is None else jsonb(beat.payload) for beat in merged],
        reports=[beat.report for beat in merged],
        started=[beat.started for beat in merged],
        lease=lease // MICROSECOND,
    )
    return renewed(merged, ((leases[n], cancel_requested) for n, cancel_requested in found))
