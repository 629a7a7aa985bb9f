"""Bugs that need two calls at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from broken.store import Broken, Now, caught_by
from conveyor.core.store import (
    Beat,
    Change,
    Claim,
    Claimed,
    Inserted,
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
