"""Bugs about the order of jobs, claimed and found."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta

from broken.store import MANY, Broken, Now, caught_by
from conveyor.core.store import (
    Advanced,
    Change,
    Claim,
    Claimed,
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Order,
    Stalled,
    Where,
)


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


@caught_by("claiming", "test_jobs_that_have_stalled_come_alone_or_are_left_if_that_is_asked_for")
@caught_by("groups", "test_jobs_that_are_left_because_one_has_stalled_take_no_turn")
@caught_by("limits", "test_jobs_that_are_left_because_one_has_stalled_are_no_start")
@caught_by("limits", "test_jobs_that_are_left_because_one_has_stalled_do_not_count")
class ReturnsStalledJobsWithOthers(Broken):
    """A claim returns jobs in their order, whatever has become of them before."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        return await super().claim(replace(request, stalled=Stalled.ALIKE), now=now)


@caught_by("claiming", "test_jobs_that_have_stalled_come_alone_or_are_left_if_that_is_asked_for")
class ReturnsStalledJobsThatAreToBeLeft(Broken):
    """Jobs that have stalled come by themselves, though they are to be left."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        alone = Stalled.ALONE if request.stalled is Stalled.LEFT else request.stalled
        return await super().claim(replace(request, stalled=alone), now=now)


@caught_by("claiming", "test_jobs_that_have_stalled_come_with_others_if_nothing_else_is_asked_for")
class ReturnsStalledJobsAlone(Broken):
    """Jobs that have stalled come by themselves, whether that is asked for or not."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        return await super().claim(replace(request, stalled=Stalled.ALONE), now=now)


@caught_by("claiming", "test_lifo_jobs_go_ahead_of_their_priority_newest_first")
@caught_by("model", "test_random_histories_give_the_same_answers_as_the_memory_store")
class IgnoresLifo(Broken):
    """`lifo` is stored, and not looked at."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        where = Where(queue=request.queue, states=frozenset({JobState.WAITING}))
        for found in await self.find(where, limit=MANY, now=now):
            if found.lifo:
                queue = self._data().queues[found.queue]
                row = self.row(found.key)
                queue.leave(row)
                row.lifo = False
                if hasattr(row, "place"):
                    row.place = row.seq
                queue.enter(row)
        return await super().claim(request, now=now)


@caught_by("ageing", "test_a_job_gains_one_step_of_priority_for_each_period")
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
        return await self.lease(request, [one.id for one in found], now)


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
