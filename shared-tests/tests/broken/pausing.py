"""Bugs about pauses."""

from __future__ import annotations

from datetime import timedelta

from broken.store import Broken, Now, caught_by
from conveyor.core.store import (
    Claim,
    Claimed,
    Pause,
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
