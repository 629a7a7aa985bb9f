"""Apply the outcomes of leased jobs, and renew leases."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from sqlite3 import Connection

from conveyor.core.store import Beat, Inserted, JobRecord, Lease, Outcome, Renewed, Settled
from conveyor.store import sql
from conveyor.store.sql import UnitOfWork, run_now
from conveyor.store.sqlite.inserting import insert
from conveyor.store.sqlite.jobs import Jobs
from conveyor.store.sqlite.rows import written
from conveyor.store.sqlite.statements import ask, run, text, write


def settle(db: Connection, now: datetime, outcomes: Sequence[Outcome]) -> Settled:
    """Apply the outcomes whose leases are held, in order."""

    async def spawn(records: Sequence[JobRecord]) -> Sequence[Inserted]:
        return insert(db, now, records, group_limits=False)

    return run_now(sql.settle(UnitOfWork(Jobs(db), now), outcomes, spawn))


def renew(db: Connection, now: datetime, beats: Sequence[Beat], lease: timedelta) -> Renewed:
    """Prolong the leases that are held, and write what the beats carry."""
    leases = [beat.lease for beat in beats]
    seqs: dict[int, tuple[str | None, str | None]] = {}
    started: set[int] = set()
    held: set[Lease] = set()
    cancelled: set[Lease] = set()
    for n, seq, cancel_requested in sorted(ask(db, "find_held_leases", leases=text(leases))):
        held.add(leases[n])
        if cancel_requested:
            cancelled.add(leases[n])
        payload, report = seqs.get(seq, (None, None))
        beat = beats[n]
        if beat.started:
            started.add(seq)
        seqs[seq] = (
            payload if beat.payload is None else beat.payload,
            report if beat.report is None else beat.report,
        )
    if seqs:
        run(db, "renew", seqs=text(list(seqs)), lease_until=written(now + lease))
        if started:
            run(db, "mark_started", seqs=text(sorted(started)))
        write(
            db,
            "write_documents",
            [(seq, *documents) for seq, documents in seqs.items() if documents != (None, None)],
        )
    return Renewed(held=frozenset(held), lost=frozenset(leases) - held, cancelled=frozenset(cancelled))
