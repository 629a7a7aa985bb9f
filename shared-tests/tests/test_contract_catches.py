"""The suite is tested itself: each of these stores has one bug, and each is caught, by the area named.

The stores are `MemoryStore` with one thing wrong. Where a bug needs a moment between looking and acting, as
between two statements of a database, that is an `await` of nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from conveyor.conformance import (
    advancing,
    claiming,
    crashes,
    events,
    flows,
    groups,
    honesty,
    inserting,
    lifecycle,
    limits,
    model,
    pausing,
    queue_behaviour,
    races,
    renewing,
    round_trips,
    schedules,
    sets,
    settling,
    unique_keys,
)
from conveyor.conformance import (
    area as areas,
)
from conveyor.core.events import Event
from conveyor.core.store import (
    Advanced,
    Beat,
    Change,
    Claim,
    Claimed,
    Feature,
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Lease,
    Limit,
    Order,
    Outcome,
    Pause,
    Rate,
    Renewed,
    Settled,
    Where,
)
from conveyor.store.memory import MemoryStore

pytest_plugins = ["pytester"]

AREAS: dict[str, type] = {
    "inserting": inserting.Inserting,
    "claiming": claiming.Claiming,
    "renewing": renewing.Renewing,
    "settling": settling.Settling,
    "advancing": advancing.Advancing,
    "sets": sets.Sets,
    "pausing": pausing.Pausing,
    "unique keys": unique_keys.UniqueKeys,
    "flows": flows.Flows,
    "groups": groups.Groups,
    "limits": limits.Limits,
    "events": events.AllEvents,
    "round trips": round_trips.RoundTrips,
    "lifecycle": lifecycle.Lifecycle,
    "honesty": honesty.Honesty,
    "races": races.AllRaces,
    "crashes": crashes.Crashes,
    "model": model.Model,
    "queue behaviour": queue_behaviour.QueueBehaviour,
    "schedules": schedules.Schedules,
}

MANY = 100_000
Now = datetime | None


@dataclass(frozen=True)
class Bug:
    """A store with one bug, the area that catches it, and a test there that fails."""

    store: type[MemoryStore]
    area: str
    test: str

    def __str__(self) -> str:
        return f"{self.store.__name__}-{self.area}"


BUGS: list[Bug] = []
Class = type[MemoryStore]


def caught_by(area: str, test: str) -> Callable[[Class], Class]:
    """Say which test of which area catches a store's bug."""

    def decorate(store: Class) -> Class:
        BUGS.append(Bug(store, area, test))
        return store

    return decorate


class Broken(MemoryStore):
    """What the broken stores share: ways to look around."""

    async def look(self, key: JobKey, now: Now) -> JobRecord | None:
        """The job as it is."""
        where = Where(queue=key.queue, ids=frozenset({key.id}))
        return next(iter(await MemoryStore.find(self, where, limit=1, now=now)), None)

    async def current(self, lease: Lease, now: Now) -> Lease:
        """The lease on that job now, whoever holds it."""
        found = await self.look(lease.key, now)
        return lease if found is None or found.token is None else found.lease

    async def to_the_end(self, key: JobKey, now: Now) -> None:
        """Take a job out and put it back in, behind all others."""
        found = await self.look(key, now)
        if found is not None:
            await MemoryStore.delete(self, Where(queue=key.queue, ids=frozenset({key.id})), limit=1, now=now)
            await MemoryStore.insert(self, [found], now=now)

    def row(self, key: JobKey) -> Any:
        """The store's own row."""
        return self._data().row(key.queue, key.id)


def with_lease(outcome: Outcome, lease: Lease) -> Outcome:
    """The same outcome for another lease on the job."""
    return replace(outcome, lease=lease)


# -------------------------------------------------------------------- fencing


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
        return await super().claim(replace(request, token=request.worker), now=now)


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


# ---------------------------------------------------------------------- races


@caught_by("races", "test_many_claimers_get_every_job_once")
class ClaimsTwice(Broken):
    """Chooses jobs, waits for the database, and leases what it chose."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        where = Where(queue=request.queue, states=frozenset({JobState.WAITING}))
        chosen = await self.find(where, limit=request.count, order=Order.CLAIM, now=now)
        await asyncio.sleep(0)
        ids = frozenset(one.id for one in chosen)
        claimed = await super().claim(replace(request, ids=ids), now=now)
        return replace(claimed, jobs=[replace(one, token=request.token) for one in chosen])


@caught_by("races", "test_one_of_two_outcomes_for_one_lease_is_applied")
class LosesUpdates(Broken):
    """Reads the row, waits for the database, and writes over what others wrote meanwhile."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        held = [one for one in outcomes if one.lease == await self.current(one.lease, now)]
        await asyncio.sleep(0)
        for outcome in held:
            row = self.row(outcome.lease.key)
            if row is not None:
                row.state, row.report = outcome.state, outcome.report
        await super().settle(held, now=now)
        return Settled(applied=frozenset(one.lease for one in held))


@caught_by("races", "test_what_a_beat_and_a_change_write_at_once_both_stay")
class WritesWholeRows(Broken):
    """A beat writes the whole row back as it read it."""

    async def renew(self, beats: Sequence[Beat], lease: timedelta, *, now: Now = None) -> Renewed:
        read = {beat.lease: await self.look(beat.lease.key, now) for beat in beats}
        await asyncio.sleep(0)
        whole = [
            replace(beat, payload=found.payload) if (found := read[beat.lease]) is not None else beat
            for beat in beats
        ]
        return await super().renew(whole, lease, now=now)


@caught_by("races", "test_one_of_many_adders_of_one_key_creates_its_job")
class LooksKeysUpFirst(Broken):
    """No unique index: the key is looked up, and then the job is inserted."""

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: Now = None
    ) -> Sequence[Inserted]:
        taken = [
            one.unique_key is not None
            and await self.count(Where(queue=one.queue, unique_key=one.unique_key), now=now)
            for one in jobs
        ]
        await asyncio.sleep(0)
        for one, is_taken in zip(jobs, taken, strict=True):
            if one.unique_key is not None and not is_taken:
                where = Where(queue=one.queue, unique_key=one.unique_key)
                await self.update(where, Change(release_key=True), now=now)
        return await super().insert(jobs, new_only=new_only, now=now)


@caught_by("races", "test_there_are_never_more_active_jobs_than_the_limit")
class CountsBeforeTheLock(Broken):
    """Counts the active jobs, waits for the lock, and claims by what it counted."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        if request.limit is None or request.limit.active is None or request.ids is not None:
            return await super().claim(request, now=now)
        counts = await self.count(Where(queue=request.queue), now=now)
        room = request.limit.active - counts.get((request.queue, JobState.ACTIVE), 0)
        await asyncio.sleep(0)
        limit = Limit(rate=request.limit.rate)
        return await super().claim(
            replace(request, limit=limit, count=max(0, min(room, request.count))), now=now
        )


# ---------------------------------------------------------------------- flows


@caught_by("flows", "test_a_child_that_ends_twice_releases_once")
class ReleasesTwice(Broken):
    """A child that has released its parent does so again when it is removed."""

    async def delete(self, where: Where, *, limit: int, now: Now = None) -> int:
        for found in await self.find(where, limit=limit, now=now):
            self.row(found.key).released = False
        return await super().delete(where, limit=limit, now=now)


@caught_by("flows", "test_a_child_that_is_deleted_releases_its_parent_unless_it_has")
@caught_by("crashes", "test_a_call_cancelled_at_any_await_happened_wholly_or_not_at_all")
class ForgetsTheParentOfADeletedChild(Broken):
    """A parent whose child is deleted waits for ever."""

    async def delete(self, where: Where, *, limit: int, now: Now = None) -> int:
        for found in await self.find(where, limit=limit, now=now):
            self.row(found.key).released = True
            await asyncio.sleep(0)
        return await super().delete(where, limit=limit, now=now)


@caught_by("flows", "test_a_late_child_does_not_resurrect_a_parent_that_has_ended")
class ResurrectsParents(Broken):
    """A child that ends late takes its failed parent back to waiting."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        kids = [await self.look(one.lease.key, now) for one in outcomes if one.state.terminal]
        settled = await super().settle(outcomes, now=now)
        for kid in kids:
            if kid is not None and kid.parent is not None:
                where = Where(queue=kid.parent.queue, ids=frozenset({kid.parent.id}))
                await self.update(where, Change(retry=True), now=now)
        return settled


@caught_by("flows", "test_a_parent_that_failed_is_reopened")
class LeavesFailedParentsClosed(Broken):
    """A retried child does not reopen its failed parent."""

    async def update(self, where: Where, change: Change, *, now: Now = None) -> frozenset[JobKey]:
        kids = await self.find(where, limit=MANY, now=now) if change.retry else []
        parents = [self.row(kid.parent) for kid in kids if kid.parent is not None]
        failed = [row for row in parents if row is not None and row.state is JobState.FAILED]
        for row in failed:
            row.state = JobState.COMPLETED
        changed = await super().update(where, change, now=now)
        for row in failed:
            row.state = JobState.FAILED
        return changed


# ---------------------------------------------------------------- unique keys


@caught_by("unique keys", "test_a_key_with_a_time_is_held_exactly_until_it_is_over")
class LapsesEarly(Broken):
    """The time of a key is over a microsecond early."""

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: Now = None
    ) -> Sequence[Inserted]:
        short = timedelta(microseconds=1)
        early = [
            one if one.unique_for is None else replace(one, unique_for=one.unique_for - short) for one in jobs
        ]
        return await super().insert(early, new_only=new_only, now=now)


@caught_by("unique keys", "test_a_key_with_a_time_is_held_though_its_job_has_ended")
@caught_by("model", "test_random_histories_give_the_same_answers_as_the_memory_store")
class LapsesWithTheJob(Broken):
    """A key is given up when its job ends, whatever time it has left."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        settled = await super().settle(outcomes, now=now)
        for outcome in outcomes:
            if outcome.state.terminal and outcome.lease in settled.applied:
                where = Where(queue=outcome.lease.queue, ids=frozenset({outcome.lease.id}))
                await self.update(where, Change(release_key=True), now=now)
        return settled


# --------------------------------------------------------------------- limits


@caught_by("limits", "test_a_start_counts_up_to_and_not_including_the_end_of_its_window")
class WindowOffByOne(Broken):
    """A start is forgotten a microsecond before its window is over."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        if request.limit is not None and request.limit.rate is not None:
            rate = request.limit.rate
            shorter = Rate(max=rate.max, per=rate.per - timedelta(microseconds=1))
            request = replace(request, limit=replace(request.limit, rate=shorter))
        return await super().claim(request, now=now)


@caught_by("limits", "test_a_short_window_does_not_make_a_long_one_forget")
class PrunesByTheShorterWindow(Broken):
    """Each claim forgets the starts that its own window does not need."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.starts: list[datetime] = []

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        rate = None if request.limit is None else request.limit.rate
        if rate is None or request.ids is not None or now is None:
            return await super().claim(request, now=now)
        self.starts = [start for start in self.starts if now < start + rate.per]
        room = max(0, min(request.count, rate.max - len(self.starts)))
        claimed = await super().claim(replace(request, limit=None, count=room), now=now)
        self.starts += [now] * len(claimed.jobs)
        return claimed


# ---------------------------------------------------------------------- order


@caught_by("claiming", "test_a_due_job_keeps_its_place")
class DueJobsGoToTheEnd(Broken):
    """A job that becomes due loses its place."""

    async def advance(self, queues: Collection[str], *, limit: int = 1000, now: Now = None) -> Advanced:
        advanced = await super().advance(queues, limit=limit, now=now)
        for key in advanced.due:
            await self.to_the_end(key, now)
        return advanced


@caught_by("claiming", "test_a_promoted_job_keeps_its_place")
class PromotedJobsGoToTheEnd(Broken):
    """A job that is promoted loses its place."""

    async def update(self, where: Where, change: Change, *, now: Now = None) -> frozenset[JobKey]:
        changed = await super().update(where, change, now=now)
        if change.delay == timedelta(0):
            for key in changed:
                await self.to_the_end(key, now)
        return changed


@caught_by("claiming", "test_a_stalled_job_keeps_its_place")
class StalledJobsGoToTheEnd(Broken):
    """A job whose lease ran out loses its place."""

    async def advance(self, queues: Collection[str], *, limit: int = 1000, now: Now = None) -> Advanced:
        advanced = await super().advance(queues, limit=limit, now=now)
        for key in advanced.stalled:
            await self.to_the_end(key, now)
        return advanced


@caught_by("claiming", "test_lifo_jobs_go_ahead_of_their_priority_newest_first")
@caught_by("model", "test_random_histories_give_the_same_answers_as_the_memory_store")
class IgnoresLifo(Broken):
    """`lifo` is stored, and not looked at."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        where = Where(queue=request.queue, states=frozenset({JobState.WAITING}))
        for found in await self.find(where, limit=MANY, now=now):
            if found.lifo and request.ids is None:
                queue = self._data().queues[found.queue]
                row = self.row(found.key)
                queue.leave(row)
                row.lifo = False
                if hasattr(row, "place"):
                    row.place = row.seq
                queue.enter(row)
        return await super().claim(request, now=now)


@caught_by("claiming", "test_with_ageing_a_job_that_waits_gains_on_later_ones")
class IgnoresAgeing(Broken):
    """`ageing` is stored, and not looked at."""

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: Now = None
    ) -> Sequence[Inserted]:
        return await super().insert([replace(one, ageing=None) for one in jobs], new_only=new_only, now=now)


@caught_by("groups", "test_groups_take_turns")
class TakesNoTurns(Broken):
    """Groups are stored, and jobs are claimed as they came."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        where = Where(queue=request.queue, states=frozenset({JobState.WAITING}))
        found = await self.find(where, limit=request.count, order=Order.CLAIM, now=now)
        ids = frozenset(one.id for one in found) if request.ids is None else request.ids
        return await super().claim(replace(request, ids=ids), now=now)


@caught_by("sets", "test_pages_of_any_size_give_the_same_jobs_in_the_same_order")
class PagesByTheMoment(Broken):
    """A page begins behind the moment of the last job, and misses the others of that moment."""

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: Now = None,
    ) -> Sequence[JobRecord]:
        if order is not Order.FINISHED or after is None:
            return await super().find(where, limit=limit, after=after, order=order, now=now)
        rest = await super().find(where, limit=MANY, after=after, order=order, now=now)
        return [one for one in rest if one.finished_at != after.finished_at or one.finished_at is None][
            :limit
        ]


# ----------------------------------------------------------------------- time


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


# ---------------------------------------------------------------------- whole


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
        )


@caught_by("sets", "test_counts_are_by_queue_and_state_and_exact")
class CountsOffByOne(Broken):
    """Counts are kept beside the jobs, and drift."""

    async def count(
        self, where: Where, *, by_group: bool = False, now: Now = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        counts = await super().count(where, by_group=by_group, now=now)
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


# -------------------------------------------------------------------- pausing


@caught_by("pausing", "test_a_paused_queue_gives_no_job")
class IgnoresPauses(Broken):
    """Pauses are kept, and no claim looks at them."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        for what in await self.paused(request.queue, now=now):
            await self.resume(request.queue, what, now=now)
        return await super().claim(request, now=now)


@caught_by("pausing", "test_the_later_of_two_ends_holds")
class ShortensPauses(Broken):
    """The last pause holds, though an earlier one would have lasted longer."""

    async def pause(self, queue: str, what: Pause, for_: timedelta | None = None, *, now: Now = None) -> None:
        await self.resume(queue, what, now=now)
        await super().pause(queue, what, for_, now=now)


# --------------------------------------------------------------- the rest of it


@caught_by("honesty", "test_a_declared_feature_is_there_and_an_undeclared_one_is_refused")
class AcceptsInSilence(Broken):
    """Groups are not declared, and accepted without a word."""

    @property
    def features(self) -> frozenset[Feature]:
        return super().features - {Feature.GROUPS}


@caught_by("events", "test_an_event_arrives_as_it_was_published")
class LosesEvents(Broken):
    """Nothing that is published ever arrives."""

    async def open(self) -> None:
        await super().open()
        monkey(self, _nothing)


def monkey(store: MemoryStore, publish: Callable[[Sequence[Event]], Awaitable[None]]) -> None:
    """Replace what a store's bus does with what is published."""
    vars(store._bus)["publish"] = publish


async def _nothing(_: Sequence[Event]) -> None:
    """Deliver no event."""


@caught_by("queue behaviour", "test_waiting_for_a_job_that_does_not_finish_ends_in_time")
class BlocksListeners(Broken):
    """A subscription begins when the first event comes: who waits for a job waits for ever if none does."""

    async def open(self) -> None:
        await super().open()
        subscribe = self._bus.subscribe

        @contextlib.asynccontextmanager
        async def late(queues: Collection[str], **options: Any) -> AsyncIterator[AsyncIterator[Event]]:
            async with subscribe(queues, **options) as events:
                await anext(events)
                yield events

        vars(self._bus)["subscribe"] = late


@caught_by("events", "test_an_event_is_heard_once")
class RepeatsEvents(Broken):
    """Its own notification comes back to the publisher, who hears everything twice."""

    async def open(self) -> None:
        await super().open()
        publish = self._bus.publish

        async def twice(published: Sequence[Event]) -> None:
            await publish([*published, *published])

        monkey(self, twice)


@caught_by("lifecycle", "test_a_closed_store_refuses_every_call")
class WorksWhenClosed(Broken):
    """A closed store goes on as if nothing were."""

    async def close(self) -> None:
        pass


# ------------------------------------------------------------------ the tests


def failures(pytester: pytest.Pytester, area: str, store: type[MemoryStore], *options: str) -> set[str]:
    """Run one area on a store, and return the names of the tests that failed."""
    pytester.makepyfile(
        f"""
        import sys
        import pytest
        from conveyor.conformance.contract import Fixtures

        catches = sys.modules[{__name__!r}]

        class TestStore(catches.AREAS[{area!r}], Fixtures):
            @pytest.fixture
            async def store(self):
                async with catches.STORES[{store.__name__!r}]() as store:
                    yield store
        """
    )
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    run = pytester.inline_run("-q", "--tb=no", "-p", "no:cacheprovider", *options)
    passed, _, failed = run.listoutcomes()
    assert passed or failed, "nothing ran"
    return {report.nodeid.rpartition("::")[2].partition("[")[0] for report in failed}


STORES: dict[str, type[MemoryStore]] = {
    "MemoryStore": MemoryStore,
    **{bug.store.__name__: bug.store for bug in BUGS},
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests that would hang fail at once."""
    monkeypatch.setattr(areas, "PATIENCE", 3.0)
    monkeypatch.setattr(events, "SOON", 0.5)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_store_with_one_bug_is_caught(pytester: pytest.Pytester, bug: Bug) -> None:
    assert failures(pytester, bug.area, bug.store, "-x", "-k", bug.test) == {bug.test}


@pytest.mark.slow
@pytest.mark.parametrize("area", sorted({bug.area for bug in BUGS}))
def test_a_store_without_a_bug_is_not(pytester: pytest.Pytester, area: str) -> None:
    assert failures(pytester, area, MemoryStore) == set()


def test_every_area_catches_a_bug() -> None:
    assert {bug.area for bug in BUGS} == set(AREAS)


def test_every_bug_is_another() -> None:
    assert len({bug.store for bug in BUGS}) >= 35
