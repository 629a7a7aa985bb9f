"""Bugs that need two calls at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from broken.store import MANY, Broken, Now, caught_by
from conveyor.core.errors import StoreError
from conveyor.core.store import (
    Beat,
    Change,
    Claim,
    Claimed,
    Deleted,
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Limit,
    Order,
    Outcome,
    Renewed,
    Settled,
    Where,
)


@caught_by("races", "test_many_claimers_get_every_job_once")
class ClaimsTwice(Broken):
    """Chooses jobs, waits for the database, and leases what it chose."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        where = Where(queue=request.queue, states=frozenset({JobState.WAITING}))
        chosen = await self.find(where, limit=request.count, order=Order.CLAIM, now=now)
        await asyncio.sleep(0)
        claimed = await self.lease(request, [one.id for one in chosen], now)
        return replace(claimed, jobs=[replace(one, token=request.token) for one in chosen])


@caught_by("races", "test_what_is_found_is_in_the_set")
class ReadsWhatHasLeft(Broken):
    """Chooses the jobs of a set, waits for the database, and reads what it chose."""

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: Now = None,
    ) -> Sequence[JobRecord]:
        chosen = await super().find(where, limit=limit, after=after, order=order, now=now)
        await asyncio.sleep(0)
        read = [await self.look(JobKey(one.queue, one.id), now) for one in chosen]
        return [one for one in read if one is not None]


@caught_by("races", "test_a_job_on_its_way_is_counted_once")
class CountsStateByState(Broken):
    """Counts the jobs of one state after those of another."""

    async def count(
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: Now = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        found: dict[tuple[str | None, JobState], int] = {}
        for state in JobState if where.states is None else where.states:
            one = replace(where, states=frozenset({state}))
            found |= await super().count(one, by_group=by_group, most=most, now=now)
            await asyncio.sleep(0)
        return found


@caught_by("races", "test_a_job_that_has_left_the_set_is_not_changed")
class ChangesWhatHasLeft(Broken):
    """Chooses the jobs of a set, waits for the database, and changes what it chose."""

    async def update(self, where: Where, change: Change, *, now: Now = None) -> frozenset[JobKey]:
        chosen = frozenset(one.id for one in await self.find(where, limit=MANY, now=now))
        await asyncio.sleep(0)
        return await super().update(Where(queue=where.queue, ids=chosen), change, now=now)


@caught_by("races", "test_a_job_that_has_left_the_set_is_not_removed")
class RemovesWhatHasLeft(Broken):
    """Chooses the jobs of a set, waits for the database, and removes what it chose."""

    async def delete(self, where: Where, *, limit: int, now: Now = None) -> Deleted:
        chosen = frozenset(one.id for one in await self.find(where, limit=limit, now=now))
        await asyncio.sleep(0)
        return await super().delete(Where(queue=where.queue, ids=chosen), limit=limit, now=now)


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
        if request.limit is None or request.limit.active is None:
            return await super().claim(request, now=now)
        counts = await self.count(Where(queue=request.queue), now=now)
        room = request.limit.active - counts.get((request.queue, JobState.ACTIVE), 0)
        await asyncio.sleep(0)
        limit = Limit(rate=request.limit.rate)
        return await super().claim(
            replace(request, limit=limit, count=max(0, min(room, request.count))), now=now
        )


@caught_by("races", "test_one_of_a_retry_and_others_of_its_key_gets_the_key")
class FailsWhoWasSlower(Broken):
    """A retry that loses a race for its key is an error of the database."""

    async def update(self, where: Where, change: Change, *, now: Now = None) -> frozenset[JobKey]:
        before = await self._holders(now)
        await asyncio.sleep(0)
        if change.retry and await self._holders(now) != before:
            raise StoreError("23505: duplicate key value violates unique constraint")
        return await super().update(where, change, now=now)

    async def _holders(self, now: Now) -> set[JobKey]:
        return {one.key for one in await self.find(Where(queue="q"), limit=MANY, now=now) if one.holds_key}


@caught_by("races", "test_jobs_of_a_paused_name_stay_while_claims_look_for_others")
class LooksNamesUpFirst(Broken):
    """Where no waiting job is of a paused name, a claim takes whatever it then finds."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        waiting = Where(queue=request.queue, states=frozenset({JobState.WAITING}))
        paused = [what for what in await self.paused(request.queue, now=now) if what.name is not None]
        there = {one.name for one in await self.find(waiting, limit=MANY, now=now)}
        await asyncio.sleep(0)
        if any(what.name in there for what in paused):
            return await super().claim(request, now=now)
        paused = [what for what in await self.paused(request.queue, now=now) if what.name is not None]
        for what in paused:
            await self.resume(request.queue, what)
        claimed = await super().claim(request, now=now)
        for what in paused:
            await self.pause(request.queue, what, now=now)
        return claimed


@caught_by("races", "test_the_next_job_of_a_group_is_found_while_the_last_one_ends")
class LooksGroupsUpFirst(Broken):
    """Groups are chosen by how many of their jobs are active, and passed over if that is no longer so."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        active = await self._active(request.queue, now)
        await asyncio.sleep(0)
        moved = set(active) ^ set(await self._active(request.queue, now))
        if not moved:
            return await super().claim(request, now=now)
        waiting = Where(queue=request.queue, states=frozenset({JobState.WAITING}))
        found = await self.find(waiting, limit=MANY, order=Order.CLAIM, now=now)
        left = [one.id for one in found if one.group not in moved]
        return await self.lease(request, left[: request.count], now)

    async def _active(self, queue: str, now: Now) -> list[str | None]:
        active = Where(queue=queue, states=frozenset({JobState.ACTIVE}))
        return [one.group for one in await self.find(active, limit=MANY, now=now)]


@caught_by("races", "test_the_first_jobs_of_a_group_keep_to_its_active_limit")
@caught_by("races", "test_the_first_jobs_of_a_group_keep_to_its_rate")
class LooksForGroupsFirst(Broken):
    """Looks whether the queue has groups, waits for the lock, and claims as if none had come meanwhile."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        found = await self.find(Where(queue=request.queue), limit=MANY, now=now)
        grouped = any(one.group is not None for one in found)
        await asyncio.sleep(0)
        return await super().claim(request if grouped else replace(request, group_limit=None), now=now)


@caught_by("races", "test_claims_keep_to_the_first_pause_of_a_group")
@caught_by("races", "test_claims_keep_to_the_first_pause_of_a_name")
class LooksForPausesFirst(Broken):
    """Looks whether anything is paused, waits for the lock, and claims as if nothing had been meanwhile."""

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        found = await self.paused(request.queue, now=now)
        await asyncio.sleep(0)
        missed = [] if found else list(await self.paused(request.queue, now=now))
        for what in missed:
            await self.resume(request.queue, what)
        claimed = await super().claim(request, now=now)
        for what in missed:
            await self.pause(request.queue, what, now=now)
        return claimed
