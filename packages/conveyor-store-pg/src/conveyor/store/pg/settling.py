"""Applying what the holders of leases decided, and keeping their leases alive.

Most outcomes concern nobody but their job: no parent, no unique key, no group, nothing spawned. A batch of
such is one statement; any other goes through the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from conveyor.core.store import Beat, Inserted, JobKey, JobState, Lease, Outcome, Renewed, Settled
from conveyor.store.pg.inserting import moves_of, write
from conveyor.store.pg.ledger import ACTIVE, ENDED, WAITING_CHILDREN, Entry, Ledger
from conveyor.store.pg.rows import MICROSECOND, jsonb, microseconds, moment
from conveyor.store.pg.statements import Session

_NO_TIME: Final = timedelta(0)


def may_be_plain(outcomes: Sequence[Outcome]) -> bool:
    """Whether one statement may be enough: nothing is spawned, and no job goes to its children."""
    leases = {outcome.lease for outcome in outcomes}
    return len(leases) == len(outcomes) and not any(
        outcome.spawn or outcome.state is JobState.WAITING_CHILDREN for outcome in outcomes
    )


async def settle_at_once(
    session: Session, now: datetime | None, outcomes: Sequence[Outcome]
) -> Settled | None:
    """Apply outcomes by one statement; None, and nothing applied, if one of them needs more care."""
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
    step = _Settling(session, await moment(session, now), outcomes)
    await step.load()
    for outcome in outcomes:
        await step.settle(outcome)
    return await step.done()


class _Settling:
    """One call of `settle`."""

    def __init__(self, session: Session, now: datetime, outcomes: Sequence[Outcome]) -> None:
        self._session = session
        self._now = now
        self._outcomes = outcomes
        self._ledger = Ledger(session, now)
        self._applied: set[Lease] = set()
        self._stale: list[Outcome] = []
        self._released: list[JobKey] = []
        self._spawned: list[Inserted] = []
        self._removed: list[JobKey] = []

    async def load(self) -> None:
        await self._ledger.load([(outcome.lease.queue, outcome.lease.id) for outcome in self._outcomes])
        await self._ledger.load_parents()

    async def settle(self, outcome: Outcome) -> None:
        lease = outcome.lease
        entry = await self._ledger.get((lease.queue, lease.id))
        if entry is not None and entry.state == ACTIVE and entry.token == lease.token:
            self._applied.add(lease)
            await self._apply(entry, outcome)
        elif entry is not None and (entry.settled_token, entry.settled_state) == (lease.token, outcome.state):
            self._applied.add(lease)
        else:
            self._stale.append(outcome)

    async def done(self) -> Settled:
        await self._ledger.done()
        if self._stale:
            asked = [outcome.lease for outcome in self._stale]
            found = await self._session.ask(
                "buried",
                queues=[lease.queue for lease in asked],
                ids=[lease.id for lease in asked],
                tokens=[lease.token for lease in asked],
            )
            known = {(Lease(queue, id, token), state) for queue, id, token, state in found}
            self._applied.update(o.lease for o in self._stale if (o.lease, o.state) in known)
        return Settled(
            applied=frozenset(self._applied),
            released=tuple(self._released),
            spawned=tuple(self._spawned),
            removed=tuple(self._removed),
        )

    async def _apply(self, entry: Entry, outcome: Outcome) -> None:
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
            await self._end(entry, outcome)
        elif state == WAITING_CHILDREN:
            ledger.wait_for_children(entry, 0)
        elif entry.pending or (outcome.delay is None and outcome.run_at is None):
            ledger.go_back(entry)
        elif outcome.delay is not None:
            ledger.wait(entry, ledger.after(outcome.delay))
        elif outcome.run_at is not None:
            ledger.wait(entry, outcome.run_at)
        if outcome.spawn:
            await ledger.flush()
            created, told = await write(self._session, self._now, outcome.spawn)
            ledger.tell(moves_of(created))
            self._spawned += told
        if state == WAITING_CHILDREN:
            await self._awake_if_nothing_to_wait_for(entry.key)

    async def _end(self, entry: Entry, outcome: Outcome) -> None:
        parent = await self._ledger.end(entry, str(outcome.state), outcome.release, outcome.retention)
        if parent is not None:
            self._released.append(parent)
        if self._ledger.is_gone(entry):
            self._removed.append(entry.key)

    async def _awake_if_nothing_to_wait_for(self, key: JobKey) -> None:
        entry = await self._ledger.get(key)
        if entry is not None and entry.state == WAITING_CHILDREN and not entry.pending:
            self._ledger.wait(entry)


async def renew(session: Session, now: datetime | None, beats: Sequence[Beat], lease: timedelta) -> Renewed:
    """Prolong the leases that are held, and write what the beats carry."""
    merged: dict[Lease, tuple[str | None, str | None, bool]] = {}
    for beat in beats:
        payload, report, started = merged.get(beat.lease, (None, None, False))
        merged[beat.lease] = (
            payload if beat.payload is None else beat.payload,
            report if beat.report is None else beat.report,
            started or beat.started,
        )
    leases = list(merged)
    found = await session.ask(
        "renew",
        now=now,
        numbers=list(range(len(leases))),
        queues=[each.queue for each in leases],
        ids=[each.id for each in leases],
        tokens=[each.token for each in leases],
        payloads=[None if payload is None else jsonb(payload) for payload, _, _ in merged.values()],
        reports=[report for _, report, _ in merged.values()],
        started=[started for _, _, started in merged.values()],
        lease=lease // MICROSECOND,
    )
    held = frozenset(leases[n] for n, _ in found)
    return Renewed(
        held=held,
        lost=frozenset(leases) - held,
        cancelled=frozenset(leases[n] for n, cancel_requested in found if cancel_requested),
    )
