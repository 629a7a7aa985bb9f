"""Applying what the holders of leases decided, and keeping their leases alive."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from sqlite3 import Connection

from conveyor.core.store import Beat, Inserted, JobKey, Lease, Outcome, Renewed, Settled
from conveyor.store.sqlite.inserting import insert
from conveyor.store.sqlite.ledger import ACTIVE, ENDED, WAITING_CHILDREN, Entry, Ledger
from conveyor.store.sqlite.rows import written
from conveyor.store.sqlite.statements import ask, run, text, write


def settle(db: Connection, now: datetime, outcomes: Sequence[Outcome]) -> Settled:
    """Apply the outcomes whose leases are held, in order."""
    step = _Settling(db, now, outcomes)
    for outcome in outcomes:
        step.settle(outcome)
    return step.done()


class _Settling:
    """One call of `settle`."""

    def __init__(self, db: Connection, now: datetime, outcomes: Sequence[Outcome]) -> None:
        self._db = db
        self._now = now
        self._ledger = Ledger(db, now)
        self._ledger.load([(outcome.lease.queue, outcome.lease.id) for outcome in outcomes])
        self._ledger.load_parents()
        self._applied: set[Lease] = set()
        self._stale: list[Outcome] = []
        self._released: list[JobKey] = []
        self._spawned: list[Inserted] = []
        self._removed: list[JobKey] = []

    def settle(self, outcome: Outcome) -> None:
        lease = outcome.lease
        entry = self._ledger.get((lease.queue, lease.id))
        if entry is not None and entry.state == ACTIVE and entry.token == lease.token:
            self._applied.add(lease)
            self._apply(entry, outcome)
        elif entry is not None and (entry.settled_token, entry.settled_state) == (lease.token, outcome.state):
            self._applied.add(lease)
        else:
            self._stale.append(outcome)

    def done(self) -> Settled:
        self._ledger.flush()
        if self._stale:
            asked = [outcome.lease for outcome in self._stale]
            known = {
                (Lease(queue, id, token), state)
                for queue, id, token, state in ask(self._db, "buried", leases=text(asked))
            }
            self._applied.update(o.lease for o in self._stale if (o.lease, o.state) in known)
        return Settled(
            applied=frozenset(self._applied),
            released=tuple(self._released),
            spawned=tuple(self._spawned),
            removed=tuple(self._removed),
        )

    def _apply(self, entry: Entry, outcome: Outcome) -> None:
        ledger = self._ledger
        state = str(outcome.state)
        entry.attempt = outcome.attempt
        entry.stalls = outcome.stalls
        entry.settled_token = outcome.lease.token
        entry.settled_state = state
        entry.settled_at = ledger.now
        if outcome.report is not None:
            entry.report = outcome.report
        if state in ENDED:
            self._end(entry, outcome)
        elif state == WAITING_CHILDREN:
            ledger.wait_for_children(entry, 0)
        elif entry.pending or (outcome.delay is None and outcome.run_at is None):
            ledger.go_back(entry)
        elif outcome.delay is not None:
            ledger.wait(entry, ledger.after(outcome.delay))
        elif outcome.run_at is not None:
            ledger.wait(entry, written(outcome.run_at))
        if outcome.spawn:
            ledger.flush()
            self._spawned += insert(self._db, self._now, outcome.spawn, group_limits=False)
        if state == WAITING_CHILDREN:
            self._awake_if_nothing_to_wait_for(entry.key)

    def _end(self, entry: Entry, outcome: Outcome) -> None:
        parent = self._ledger.end(entry, str(outcome.state), outcome.release, outcome.retention)
        if parent is not None:
            self._released.append(parent)
        if self._ledger.is_gone(entry):
            self._removed.append(entry.key)

    def _awake_if_nothing_to_wait_for(self, key: JobKey) -> None:
        entry = self._ledger.get(key)
        if entry is not None and entry.state == WAITING_CHILDREN and not entry.pending:
            self._ledger.wait(entry)


def renew(db: Connection, now: datetime, beats: Sequence[Beat], lease: timedelta) -> Renewed:
    """Prolong the leases that are held, and write what the beats carry."""
    leases = [beat.lease for beat in beats]
    seqs: dict[int, tuple[str | None, str | None]] = {}
    started: set[int] = set()
    held: set[Lease] = set()
    cancelled: set[Lease] = set()
    for n, seq, cancel_requested in sorted(ask(db, "held", leases=text(leases))):
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
        run(db, "renew", seqs=text(list(seqs)), until=written(now + lease))
        if started:
            run(db, "mark_started", seqs=text(sorted(started)))
        write(
            db, "write", [(seq, *documents) for seq, documents in seqs.items() if documents != (None, None)]
        )
    return Renewed(held=frozenset(held), lost=frozenset(leases) - held, cancelled=frozenset(cancelled))
