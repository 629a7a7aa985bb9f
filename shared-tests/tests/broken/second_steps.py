"""Bugs of stores that make one call in two steps: in between, others see half of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from broken.store import Broken, Now, caught_by
from conveyor.core.errors import GroupFullError
from conveyor.core.store import Claim, Claimed, Inserted, JobRecord, Outcome, Settled


@caught_by("races", "test_no_look_shows_a_child_that_has_ended_and_is_waited_for")
class ReleasesInASecondStep(Broken):
    """A child ends, and then its parent is released."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        assert now is not None  # as in every test
        ends = [(self.row(one.lease.key), one.release) for one in outcomes if one.state.terminal]
        kids = [(row, how) for row, how in ends if row is not None and not row.released]
        for row, _ in kids:
            row.released = True
        settled = await super().settle(outcomes, now=now)
        await asyncio.sleep(0)
        for row, how in kids:
            row.released = False
            self._data().release(row, how, now)
        return settled


@caught_by("races", "test_no_look_shows_an_outcome_without_what_it_spawned")
class AddsTheSpawnedInASecondStep(Broken):
    """A job ends, and then what it spawned is added."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        settled = await super().settle([replace(one, spawn=()) for one in outcomes], now=now)
        await asyncio.sleep(0)
        spawned = [job for one in outcomes if one.lease in settled.applied for job in one.spawn]
        return replace(settled, spawned=await self.insert(spawned, now=now) if spawned else ())


@caught_by("races", "test_a_key_is_free_as_soon_as_its_job_is_seen_to_have_ended")
class FreesKeysInASecondStep(Broken):
    """A job ends, and then its key is given up."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        rows = [self.row(one.lease.key) for one in outcomes]
        keyed = [row for row in rows if row is not None and row.holds_key]
        settled = await super().settle(outcomes, now=now)
        for row in keyed:
            self._data().queue(row.queue).take_key(row)
        await asyncio.sleep(0)
        for row in keyed:
            self._data().queue(row.queue).drop_key(row)
        return settled


@caught_by("races", "test_a_group_has_room_as_soon_as_its_job_is_seen_to_have_started")
class CountsGroupsInASecondStep(Broken):
    """A job starts, and then its group counts one less."""

    def __init__(self) -> None:
        super().__init__()
        self._started: Counter[str | None] = Counter()

    async def claim(self, request: Claim, *, now: Now = None) -> Claimed:
        claimed = await super().claim(request, now=now)
        self._started = Counter(one.group for one in claimed.jobs)
        await asyncio.sleep(0)
        self._started.clear()
        return claimed

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: Now = None
    ) -> Sequence[Inserted]:
        for one in jobs:
            if one.group is not None and one.group_max_size is not None and self._started[one.group]:
                raise GroupFullError(one.queue, one.group, one.group_max_size)
        return await super().insert(jobs, new_only=new_only, now=now)


@caught_by("races", "test_a_repeat_is_known_as_soon_as_its_job_is_seen_to_have_gone")
class RemembersInASecondStep(Broken):
    """A job is removed, and then its outcome is remembered."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        settled = await super().settle(outcomes, now=now)
        for key in settled.removed:
            tombstones: dict[Any, Any] = self._data().queue(key.queue).tombstones
            known = dict(tombstones)
            tombstones.clear()
            await asyncio.sleep(0)
            tombstones.update(known)
        return settled


@caught_by("races", "test_many_adders_fill_a_group_exactly")
class CountsGroupsBeforeTheLock(Broken):
    """Counts the jobs of a group, waits for the lock, and adds by what it counted."""

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: Now = None
    ) -> Sequence[Inserted]:
        for one in jobs:
            if one.group is not None and one.group_max_size is not None:
                before = self._data().queue(one.queue).size(one.group)
                await asyncio.sleep(0)
                if before >= one.group_max_size:
                    raise GroupFullError(one.queue, one.group, one.group_max_size)
        return await super().insert(
            [replace(one, group_max_size=None) for one in jobs], new_only=new_only, now=now
        )
