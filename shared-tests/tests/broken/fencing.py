"""Bugs about leases: who may settle and renew, and what an outcome does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from broken.store import Broken, Now, caught_by, with_lease
from conveyor.core.store import (
    Beat,
    Claim,
    Claimed,
    JobRecord,
    JobState,
    Outcome,
    Renewed,
    Settled,
)


@caught_by("settling", "test_a_stale_outcome_changes_nothing")
@caught_by("model", "test_random_histories_give_the_same_answers_as_the_memory_store")
class SettlesByIdAlone(Broken):
    """No token is looked at: a worker that lost its lease can finish another's run."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        current = [with_lease(one, await self.current(one.lease, now)) for one in outcomes]
        settled = await super().settle(current, now=now)
        return replace(settled, applied=frozenset(one.lease for one in outcomes))


@caught_by("renewing", "test_a_lease_that_another_claim_has_now_is_lost_and_writes_nothing")
class RenewsByIdAlone(Broken):
    """No token is looked at: a worker that lost its lease can extend another's run and write to it."""

    async def renew(self, beats: Sequence[Beat], lease: timedelta, *, now: Now = None) -> Renewed:
        current = [replace(beat, lease=await self.current(beat.lease, now)) for beat in beats]
        return await super().renew(current, lease, now=now)


@caught_by("settling", "test_a_worker_that_lost_its_lease_cannot_complete_the_job")
@caught_by("renewing", "test_a_lease_that_another_claim_has_now_is_lost_and_writes_nothing")
class FencesByWorker(Broken):
    """The token is the worker's name: two claims of one worker cannot be told apart."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        return await super().claim(replace(request, token=request.worker or request.token), now=now)


@caught_by("settling", "test_a_stale_outcome_fails_no_other")
class StaleOutcomeFailsTheBatch(Broken):
    """One stale outcome, and none is applied."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        for outcome in outcomes:
            found = await self.look(outcome.lease.key, now)
            if found is None or (found.state is JobState.ACTIVE and found.token != outcome.lease.token):
                return Settled(applied=frozenset())
        return await super().settle(outcomes, now=now)


@caught_by("settling", "test_a_repeated_outcome_is_reported_as_applied_and_changes_nothing")
class ForgetsWhatItSettled(Broken):
    """A repeated outcome is called stale, and its job runs again."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        held: list[Outcome] = []
        for outcome in outcomes:
            found = await self.look(outcome.lease.key, now)
            if found is not None and found.state is JobState.ACTIVE:
                held.append(outcome)
        return await super().settle(held, now=now)


@caught_by("settling", "test_a_stale_outcome_spawns_nothing")
class SpawnsFirst(Broken):
    """Spawned jobs are inserted before anybody knows whether the outcome applies."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        for outcome in outcomes:
            await self.insert(outcome.spawn, now=now)
        return await super().settle(outcomes, now=now)


@caught_by("schedules", "test_a_worker_killed_at_any_call_neither_loses_nor_repeats_a_run")
class SpawnsInASecondStep(Broken):
    """What an outcome spawns is inserted by another call, which is never made if the caller dies."""

    _left: tuple[JobRecord, ...] = ()

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        settled = await super().settle([replace(one, spawn=()) for one in outcomes], now=now)
        left, self._left = self._left, tuple(job for one in outcomes for job in one.spawn)
        return replace(settled, spawned=await super().insert(left, now=now))


@caught_by("claiming", "test_what_time_has_done_shows_at_the_next_advance")
class StealsLeases(Broken):
    """A claim helps itself to leases that ran out, though their holders may still settle."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        await self.advance({request.queue}, now=now)
        return await super().claim(request, now=now)


@caught_by("renewing", "test_a_job_that_should_be_cancelled_is_renewed_and_written_like_any_other")
class LetsCancelledLeasesRunOut(Broken):
    """A lease whose job is to be cancelled is called held, and not prolonged."""

    async def renew(self, beats: Sequence[Beat], lease: timedelta, *, now: Now = None) -> Renewed:
        rows = [self.row(beat.lease.key) for beat in beats]
        before = [(row, row.lease_until) for row in rows if row is not None and row.cancel_requested]
        renewed = await super().renew(beats, lease, now=now)
        for row, until in before:
            queue = self._data().queues[row.queue]
            queue.leave(row)
            row.lease_until = until
            queue.enter(row)
        return renewed


@caught_by("renewing", "test_a_job_that_should_be_cancelled_is_renewed_and_written_like_any_other")
class WritesNothingOfCancelledRuns(Broken):
    """What a handler writes is lost from the moment its job should be cancelled."""

    async def renew(self, beats: Sequence[Beat], lease: timedelta, *, now: Now = None) -> Renewed:
        rows = [self.row(beat.lease.key) for beat in beats]
        silent = [
            replace(beat, report=None, payload=None) if row is not None and row.cancel_requested else beat
            for beat, row in zip(beats, rows, strict=True)
        ]
        return await super().renew(silent, lease, now=now)


@caught_by("settling", "test_a_job_that_ends_has_its_outcome_and_no_lease")
class KeepsTheHolder(Broken):
    """A finished job still names the worker that held it."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        rows = [self.row(one.lease.key) for one in outcomes]
        before = [(row, row.locked_by) for row in rows if row is not None]
        settled = await super().settle(outcomes, now=now)
        for row, worker in before:
            row.locked_by = worker
        return settled
