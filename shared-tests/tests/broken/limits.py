"""Bugs about the book-keeping of limits."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from broken.store import Broken, Now, caught_by
from conveyor.core.store import (
    Claim,
    Claimed,
    Deleted,
    JobState,
    Rate,
    Where,
)


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
        if rate is None or now is None:
            return await super().claim(request, now=now)
        self.starts = [start for start in self.starts if now < start + rate.per]
        room = max(0, min(request.count, rate.max - len(self.starts)))
        claimed = await super().claim(replace(request, limit=None, count=room), now=now)
        self.starts += [now] * len(claimed.jobs)
        return claimed


@caught_by("limits", "test_a_group_with_room_again_goes_on")
class KeepsGroupsBusy(Broken):
    """An active job that is deleted goes on counting for its group."""

    async def delete(self, where: Where, *, limit: int, now: Now = None) -> Deleted:
        active = replace(where, states=frozenset({JobState.ACTIVE}))
        found = await self.find(active, limit=limit, now=now)
        deleted = await super().delete(where, limit=limit, now=now)
        for one in found:
            if one.group is not None:
                self._data().queue(one.queue)._group(one.group).active += 1
        return deleted
