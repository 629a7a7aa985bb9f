"""Bugs about pauses."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from broken.store import MANY, Broken, Now, caught_by
from conveyor.core.store import (
    Claim,
    Claimed,
    Pause,
    Where,
)


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


@caught_by("pausing", "test_a_job_of_a_paused_group_is_claimed_by_its_id")
class PausesGroupsById(Broken):
    """A claim by ids looks at groups that are paused: a job there can be neither cancelled nor changed."""

    async def take(self, queue: str, ids: Collection[str], *, now: Now = None, **how: Any) -> Claimed:
        stopped: set[str] = set()
        for what in await self.paused(queue, now=now):
            if what.group is not None:
                where = Where(queue=queue, group=what.group)
                stopped.update(one.id for one in await self.find(where, limit=MANY, now=now))
        return await super().take(queue, set(ids) - stopped, now=now, **how)
