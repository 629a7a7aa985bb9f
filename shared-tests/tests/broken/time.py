"""Bugs about what time does."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from broken.store import Broken, Now, caught_by
from conveyor.core.store import Advanced, Beat, Claim, Claimed, Outcome, Renewed, Settled


@caught_by("advancing", "test_a_job_is_due_at_its_run_at_and_not_before")
class DueEarly(Broken):
    """Delayed jobs are due a second early."""

    async def advance(self, queues: Collection[str], *, limit: int = 1000, now: Now = None) -> Advanced:
        return await super().advance(queues, limit=limit, now=now and now + timedelta(seconds=1))


@caught_by("advancing", "test_a_stalled_job_loses_its_lease_and_counts_it_apart_from_attempts")
class StallsCountAsNothing(Broken):
    """A lost lease is not counted: a job that kills its workers runs for ever."""

    async def advance(self, queues: Collection[str], *, limit: int = 1000, now: Now = None) -> Advanced:
        advanced = await super().advance(queues, limit=limit, now=now)
        for key in advanced.stalled:
            self.row(key).stalled = 0
        return advanced


@caught_by("advancing", "test_a_job_that_has_stalled_is_charged_again_only_once_it_has_started")
class EveryLapseIsAStall(Broken):
    """A job that was only claimed is charged for the death of its neighbour's worker, each time."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        claimed = await super().claim(request, now=now)
        for held in claimed.jobs:
            self.row(held.key).started = True
        return claimed


@caught_by("advancing", "test_a_claim_that_starts_nothing_is_charged_nothing")
class ClaimsAlwaysStart(Broken):
    """A job that is held for a moment, to decide about it, is charged as if it had run."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        return await super().claim(replace(request, started=True), now=now)


@caught_by("advancing", "test_a_claim_that_starts_nothing_is_charged_nothing")
@caught_by("claiming", "test_a_job_that_is_taken_by_its_id_has_a_lease_of_its_own")
class TakingAlwaysStarts(Broken):
    """A job that is taken by its id is charged as if it had run."""

    async def take(self, queue: str, ids: Collection[str], *, started: bool = True, **how: Any) -> Claimed:
        del started
        return await super().take(queue, ids, started=True, **how)


@caught_by("advancing", "test_advancing_says_what_time_it_is_by_the_stores_clock")
class TellsNoTime(Broken):
    """The answer of an advance is of the time at which the store was opened."""

    _opened: datetime | None = None

    async def advance(self, queues: Collection[str], *, limit: int = 1000, now: Now = None) -> Advanced:
        advanced = await super().advance(queues, limit=limit, now=now)
        self._opened = self._opened or advanced.now
        return replace(advanced, now=self._opened)


@caught_by("advancing", "test_a_job_that_has_stalled_is_charged_again_only_once_it_has_started")
class StartsAreNotKept(Broken):
    """The next renewal forgets that the job runs."""

    async def renew(self, beats: Sequence[Beat], lease: timedelta, *, now: Now = None) -> Renewed:
        renewed = await super().renew(beats, lease, now=now)
        for beat in beats:
            if beat.lease in renewed.held:
                self.row(beat.lease.key).started = beat.started
        return renewed


@caught_by("settling", "test_an_outcome_that_says_so_is_one_stall_more")
class StalledOutcomesCountAsNothing(Broken):
    """A living worker's word that its job's process died is not counted."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        return await super().settle([replace(outcome, stalls=0) for outcome in outcomes], now=now)
