"""Apply the outcomes of leased jobs, and renew leases."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from sqlite3 import Connection

from conveyor.core.store import Beat, Inserted, JobRecord, Outcome, Renewed, Settled
from conveyor.store import sql
from conveyor.store.sql import UnitOfWork, merged_beats, renewed, run_now
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
    merged = merged_beats(beats)
    found = ask(db, "find_held_leases", leases=text([beat.lease for beat in merged]))
    held = [(merged[n], seq, cancel_requested) for n, seq, cancel_requested in found]
    if held:
        run(db, "renew", seqs=text([seq for _, seq, _ in held]), lease_until=written(now + lease))
        started = [seq for beat, seq, _ in held if beat.started]
        if started:
            run(db, "mark_started", seqs=text(started))
        documents = [(seq, beat.payload, beat.report) for beat, seq, _ in held]
        write(db, "write_documents", [row for row in documents if row[1:] != (None, None)])
    return renewed(merged, ((beat.lease, cancel_requested) for beat, _, cancel_requested in held))
