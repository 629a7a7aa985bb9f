"""Bugs about what comes back, and about a call being one step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from broken.store import MANY, Broken, Now, caught_by
from conveyor.core.store import (
    Advanced,
    Change,
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Outcome,
    Retention,
    Settled,
    Where,
)


@caught_by("round trips", "test_documents_come_back_equal")
class ReadsDocuments(Broken):
    """Documents pass through a JSON library that has floats only."""

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: Now = None
    ) -> Sequence[Inserted]:
        def through(text: str) -> str:
            try:
                return json.dumps(json.loads(text, parse_int=float))
            except OverflowError:
                return "null"

        changed = [replace(one, payload=through(one.payload)) for one in jobs]
        return await super().insert(changed, new_only=new_only, now=now)


@caught_by("round trips", "test_jobs_of_any_id_live_their_lives")
class FoldsNames(Broken):
    """Ids are compared without regard to case, as some databases' collations do."""

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: Now = None
    ) -> Sequence[Inserted]:
        folded = [replace(one, id=one.id.lower()) for one in jobs]
        return await super().insert(folded, new_only=new_only, now=now)


@caught_by("groups", "test_a_refused_call_adds_nothing_anywhere")
class InsertsOneByOne(Broken):
    """A bulk whose last job is refused leaves the others in."""

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: Now = None
    ) -> Sequence[Inserted]:
        found: list[Inserted] = []
        for one in jobs:
            found += await super().insert([one], new_only=new_only, now=now)
        return found


@caught_by("crashes", "test_a_call_cancelled_at_any_await_happened_wholly_or_not_at_all")
class InsertsInSteps(Broken):
    """A bulk that is cancelled half-way is half in."""

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: Now = None
    ) -> Sequence[Inserted]:
        await super().insert(jobs[:1], new_only=new_only, now=now)
        await asyncio.sleep(0)
        return await super().insert(jobs, new_only=new_only, now=now)


@caught_by("crashes", "test_a_call_cancelled_at_any_await_happened_wholly_or_not_at_all")
class SettlesInSteps(Broken):
    """A batch of outcomes that is cancelled half-way is half applied."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        settled: list[Settled] = []
        for outcome in outcomes:
            settled.append(await super().settle([outcome], now=now))
            await asyncio.sleep(0)
        return Settled(
            applied=frozenset(lease for one in settled for lease in one.applied),
            released=[key for one in settled for key in one.released],
            spawned=[answer for one in settled for answer in one.spawned],
            removed=[key for one in settled for key in one.removed],
        )


@caught_by("settling", "test_a_retention_of_age_zero_removes_the_job_at_once")
class RemovesInSilence(Broken):
    """What goes in the step that ends it is told of to nobody."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        return replace(await super().settle(outcomes, now=now), removed=())


@caught_by("settling", "test_only_what_is_removed_at_once_is_reported_as_removed")
class TellsTheRetainedAsRemoved(Broken):
    """Whatever is kept for a time only is told as removed at once."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        settled = await super().settle(outcomes, now=now)
        gone = [o.lease.key for o in outcomes if o.retention is not None and o.lease in settled.applied]
        return replace(settled, removed=gone)


@caught_by("settling", "test_a_job_is_reported_as_removed_once")
@caught_by("unique keys", "test_a_job_that_still_holds_its_key_is_removed_only_when_that_lapses")
class TellsRemovedByRetention(Broken):
    """What was asked to be removed is told as removed: again by a repeat, and though it holds its key."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        settled = await super().settle(outcomes, now=now)
        at_once = Retention(age=timedelta(0))
        gone = [o.lease.key for o in outcomes if o.retention == at_once and o.lease in settled.applied]
        return replace(settled, removed=gone)


@caught_by("sets", "test_counts_are_by_queue_and_state_and_exact")
class CountsOffByOne(Broken):
    """Counts are kept beside the jobs, and drift."""

    async def count(
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: Now = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        counts = await super().count(where, by_group=by_group, most=most, now=now)
        return {key: number + (key[1] is JobState.FAILED) for key, number in counts.items()}


@caught_by("sets", "test_a_finished_job_can_be_retried")
@caught_by("model", "test_random_histories_give_the_same_answers_as_the_memory_store")
class RetriesHalfway(Broken):
    """A retried job keeps the attempts it has used up."""

    async def update(self, where: Where, change: Change, *, now: Now = None) -> frozenset[JobKey]:
        before = {one.key: one.attempt for one in await self.find(where, limit=MANY, now=now)}
        changed = await super().update(where, change, now=now)
        if change.retry:
            for key in changed:
                self.row(key).attempt = before[key]
        return changed


@caught_by("inserting", "test_an_id_that_exists_is_not_created_and_changes_nothing")
class OverwritesJobs(Broken):
    """A job whose id exists takes its place, even while it runs."""

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: Now = None
    ) -> Sequence[Inserted]:
        for one in jobs:
            await self.delete(Where(queue=one.queue, ids=frozenset({one.id})), limit=1, now=now)
        return await super().insert(jobs, new_only=new_only, now=now)


@caught_by("transitions", "test_an_insert_makes_of_a_job_what_the_rules_say")
class TakesTheLaterOfTwoTimes(Broken):
    """A new job that has a delay and a time waits for the time."""

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: Now = None
    ) -> Sequence[Inserted]:
        timed = [job if job.run_at is None else replace(job, delay=None) for job in jobs]
        return await super().insert(timed, new_only=new_only, now=now)


@caught_by("transitions", "test_a_job_whose_time_has_come_is_what_the_rules_say")
class KeepsTheTimeOfDueJobs(Broken):
    """A job that is due still says when it was to run."""

    async def advance(self, queues: Collection[str], *, limit: int = 1000, now: Now = None) -> Advanced:
        times = {record.key: record.run_at for record in await self.find(Where(), limit=MANY, now=now)}
        advanced = await super().advance(queues, limit=limit, now=now)
        for key in advanced.due:
            self.row(key).run_at = times[key]
        return advanced


@caught_by("transitions", "test_an_outcome_makes_of_a_job_what_the_rules_say")
class KeepsRequestsInBatches(Broken):
    """Outcomes that come together are applied by a statement of their own, which forgets a field."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        rows = [self.row(one.lease.key) for one in outcomes]
        asked = [row for row in rows if row is not None and row.cancel_requested]
        settled = await super().settle(outcomes, now=now)
        for row in asked if len(outcomes) > 1 else ():
            row.cancel_requested = True
        return settled


@caught_by("transitions", "test_a_change_makes_of_a_job_what_the_rules_say")
class RetriesFinishedYesterday(Broken):
    """A retry leaves behind when the job had finished."""

    async def update(self, where: Where, change: Change, *, now: Now = None) -> frozenset[JobKey]:
        before = {one.key: one.finished_at for one in await self.find(where, limit=MANY, now=now)}
        changed = await super().update(where, change, now=now)
        for key in changed if change.retry else ():
            self.row(key).finished_at = before[key]
        return changed


@caught_by("transitions", "test_a_child_that_ends_makes_of_its_parent_what_the_rules_say")
class ForgetsTheDelayOfHeldParents(Broken):
    """The last child of a parent that is held leaves its delay as it is."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        parents = {record.parent for one in outcomes if (record := self.row(one.lease.key)) is not None}
        rows = [self.row(key) for key in parents if key is not None]
        held = [(row, row.delay, row.run_at) for row in rows if row is not None and row.token is not None]
        settled = await super().settle(outcomes, now=now)
        for row, delay, run_at in held:
            row.delay, row.run_at = delay, run_at
        return settled
