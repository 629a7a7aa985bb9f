"""Bugs that queues and workers meet: about sizes, answers, and counts kept beside the jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from broken.store import MANY, Broken, Now, caught_by
from conveyor.core.store import (
    Advanced,
    Beat,
    Change,
    Claim,
    Claimed,
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Order,
    Outcome,
    Release,
    Renewed,
    Settled,
    Where,
)
from conveyor.store.memory.rows import EPOCH


@caught_by("flow behaviour", "test_a_flows_events_are_published")
class TellsNoParent(Broken):
    """What was released is done, and not told: nobody looks at the parent before somebody polls."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        return replace(await super().settle(outcomes, now=now), released=())


@caught_by("flow behaviour", "test_a_parent_released_too_early_does_not_run_before_its_children_have_ended")
class ReleasesOneForAll(Broken):
    """Every end of a child is one child fewer, whatever its outcome says."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        return await super().settle([replace(one, release=Release.ONE) for one in outcomes], now=now)


@caught_by("batches", "test_every_job_of_a_batch_is_a_start")
class CountsClaimsAsStarts(Broken):
    """A claim of many jobs is one start."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        claimed = await super().claim(request, now=now)
        if request.limit is not None and request.limit.rate is not None:
            starts = self._data().queue(request.queue).starts._by_key.get(None)
            for _ in claimed.jobs[1:]:
                starts.remove(claimed.now)  # type: ignore[union-attr]
        return claimed


@caught_by("batches", "test_by_group_jobs_of_one_group_fill_a_batch")
class ClaimsOneById(Broken):
    """A claim by ids returns one job, however many were asked for."""

    async def take(self, queue: str, ids: Collection[str], **how: Any) -> Claimed:
        return await super().take(queue, sorted(ids)[:1], **how)


@caught_by("dead letters", "test_a_job_that_fails_for_good_is_added_to_its_dead_letter_queue")
class SpawnsFromCompletedOnly(Broken):
    """A job that fails spawns nothing."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        spawning = [one if one.state is not JobState.FAILED else replace(one, spawn=()) for one in outcomes]
        return await super().settle(spawning, now=now)


@caught_by("dead letters", "test_a_dead_letter_comes_though_the_job_is_removed_in_the_same_step")
class SpawnsFromRowsThatStay(Broken):
    """What a job spawns is read from its row, which may have been removed by then."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        staying = [
            replace(one, spawn=()) if one.retention and one.retention.age == timedelta(0) else one
            for one in outcomes
        ]
        return await super().settle(staying, now=now)


@caught_by("explain", "test_a_long_line_is_counted_up_to_a_thousand")
class PagesByRank(Broken):
    """A page in the order of claims begins behind the sort key of the last job, and misses its equals."""

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: Now = None,
    ) -> Sequence[JobRecord]:
        if order is not Order.CLAIM or after is None:
            return await super().find(where, limit=limit, after=after, order=order, now=now)
        rest = await super().find(where, limit=MANY, after=after, order=order, now=now)
        return [one for one in rest if one.sort_key != after.sort_key][:limit]


@caught_by("deduplication", "test_a_time_counts_for_a_job_that_still_waits_when_it_is_over")
class CountsTheTimeFromTheRun(Broken):
    """The time of a key begins when its job may run, as with a delay."""

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: Now = None
    ) -> Sequence[Inserted]:
        later = [
            replace(one, unique_for=one.unique_for + one.delay)
            if one.unique_for is not None and one.delay is not None
            else one
            for one in jobs
        ]
        return await super().insert(later, new_only=new_only, now=now)


@caught_by("deduplication", "test_a_holder_that_starts_meanwhile_is_a_plain_duplicate")
class ChangesInAnyState(Broken):
    """A change of jobs that are given by name reaches them in every state that it can apply to."""

    async def update(self, where: Where, change: Change, *, now: Now = None) -> frozenset[JobKey]:
        wide = where if where.ids is None else replace(where, states=None)
        return await super().update(wide, change, now=now)


@caught_by("worker registry", "test_what_it_runs_is_registered_with_its_heartbeat")
class RenewsOneQueue(Broken):
    """The leases of a call are taken to be of one queue."""

    async def renew(self, beats: Sequence[Beat], lease: timedelta, *, now: Now = None) -> Renewed:
        own = [beat for beat in beats if beat.lease.queue == beats[0].lease.queue]
        renewed = await super().renew(own, lease, now=now)
        return replace(renewed, held=renewed.held | {beat.lease for beat in beats if beat not in own})


@caught_by("group behaviour", "test_finished_groups_are_listed_when_asked_for")
class CountsLiveGroups(Broken):
    """Counts by group come from the counters that limits need: what has ended is not in them."""

    async def count(
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: Now = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        counts = await super().count(where, by_group=by_group, most=most, now=now)
        return {key: number for key, number in counts.items() if not (by_group and key[1].terminal)}


class Slots(Broken):
    """Active jobs are counted by a number, that something forgets to lower."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.lost: Counter[str] = Counter()

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        limit = request.limit
        if limit is not None and limit.active is not None:
            left = max(0, limit.active - self.lost[request.queue])
            request = replace(request, limit=replace(limit, active=left))
        return await super().claim(request, now=now)


@caught_by("limit behaviour", "test_the_capacity_of_a_dead_worker_comes_back_when_its_leases_are_over")
class KeepsSlotsOfTheDead(Slots):
    """A slot is given back by settling only."""

    async def advance(self, queues: Collection[str], *, limit: int = 1000, now: Now = None) -> Advanced:
        advanced = await super().advance(queues, limit=limit, now=now)
        self.lost.update(key.queue for key in advanced.stalled)
        return advanced


@caught_by("limit behaviour", "test_a_worker_of_other_names_counts_for_the_limit")
class CountsItsOwnNames(Broken):
    """A claim counts the active jobs among those that it may take."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        limit = request.limit
        if request.names is not None and limit is not None and limit.active is not None:
            active = Where(queue=request.queue, states=frozenset({JobState.ACTIVE}))
            found = await self.find(active, limit=MANY, now=now)
            others = sum(one.name not in request.names for one in found)
            request = replace(request, limit=replace(limit, active=limit.active + others))
        return await super().claim(request, now=now)


def begin_to_age(store: Broken, key: JobKey, now: datetime) -> None:
    """Give a job the sort key that it would have if it were added now."""
    row = store.row(key)
    if row is not None and row.ageing is not None:
        queue = store._data().queues[row.queue]
        queue.leave(row)
        row.sort_key = row.priority + (now - EPOCH) / row.ageing
        queue.enter(row)


@caught_by("ageing", "test_a_retried_job_keeps_the_age_it_has")
@caught_by("claiming", "test_with_ageing_a_job_that_waits_again_keeps_its_age")
class AgesFromTheLastRun(Broken):
    """A job that waits again begins to age anew."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        settled = await super().settle(outcomes, now=now)
        for one in outcomes:
            if not one.state.terminal and now is not None:
                begin_to_age(self, one.lease.key, now)
        return settled


@caught_by("ageing", "test_a_changed_priority_keeps_the_age")
class ForgetsTheAge(Broken):
    """A changed priority is the new sort key."""

    async def update(self, where: Where, change: Change, *, now: Now = None) -> frozenset[JobKey]:
        changed = await super().update(where, change, now=now)
        for key in changed if change.priority is not None else ():
            row = self.row(key)
            queue = self._data().queues[row.queue]
            queue.leave(row)
            row.sort_key = float(row.priority)
            queue.enter(row)
        return changed
