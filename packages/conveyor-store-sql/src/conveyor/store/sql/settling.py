"""Apply the outcomes of leased jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from conveyor.core.store import Inserted, JobKey, JobRecord, JobState, Lease, Outcome, Settled, transitions
from conveyor.store.sql.work import UnitOfWork

#: Inserts the records that an outcome brings.
Spawn = Callable[[Sequence[JobRecord]], Awaitable[Sequence[Inserted]]]


async def settle(work: UnitOfWork, outcomes: Sequence[Outcome], spawn: Spawn) -> Settled:
    """Apply the outcomes whose leases are held, in order."""
    await work.load([outcome.lease[:2] for outcome in outcomes])
    await work.load_parents()
    step = _Settling(work, spawn)
    for outcome in outcomes:
        await step.settle(outcome)
    return await step.done()


class _Settling:
    """One call of `settle`."""

    def __init__(self, work: UnitOfWork, spawn: Spawn) -> None:
        self._work = work
        self._spawn = spawn
        self._applied: set[Lease] = set()
        self._stale: list[Outcome] = []
        self._released: list[JobKey] = []
        self._spawned: list[Inserted] = []
        self._removed: list[JobKey] = []

    async def settle(self, outcome: Outcome) -> None:
        lease = outcome.lease
        row = await self._work.get(lease[:2])
        if row is not None and row.state is JobState.ACTIVE and row.token == lease.token:
            self._applied.add(lease)
            parent = await self._work.settle(row, outcome)
            if parent is not None:
                self._released.append(parent)
            if self._work.is_removed(row):
                self._removed.append(row.key)
            if outcome.spawn or outcome.state is JobState.WAITING_CHILDREN:
                await self._spawn_all(row.key, outcome)
        elif row is not None and (row.settled_token, row.settled_state) == (lease.token, outcome.state):
            self._applied.add(lease)
        else:
            self._stale.append(outcome)

    async def done(self) -> Settled:
        await self._work.done()
        if self._stale:
            known = await self._work.table.find_tombstones([outcome.lease for outcome in self._stale])
            self._applied.update(o.lease for o in self._stale if (o.lease, o.state.value) in known)
        return Settled(
            applied=frozenset(self._applied),
            released=tuple(self._released),
            spawned=tuple(self._spawned),
            removed=tuple(self._removed),
        )

    async def _spawn_all(self, key: JobKey, outcome: Outcome) -> None:
        if outcome.spawn:
            await self._work.flush()
            self._spawned += await self._spawn(outcome.spawn)
        if outcome.state is JobState.WAITING_CHILDREN:
            await self._wait_for_what_was_created(key)

    async def _wait_for_what_was_created(self, key: JobKey) -> None:
        row = await self._work.get(key)
        if row is not None and row.state is JobState.WAITING_CHILDREN and not row.pending:
            self._work.put(row, transitions.waiting(self._work.now))
