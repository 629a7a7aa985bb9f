"""A clock that is turned by hand, for tests."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core.durations import Duration, duration, instant

if TYPE_CHECKING:
    from collections.abc import Callable

#: Where a ManualClock stands when it is made.
START: Final = datetime(2026, 1, 1, tzinfo=UTC)


#: The most turns of the event loop that are waited for, and how many of them, one after the other, without
#: anything to run are enough. Most timers wake nobody, and an hour of a running handler has 14,400 of them.
_TURNS: Final = 50
_IDLE_TURNS: Final = 3


class ManualClock:
    """A clock that stands still until it is turned."""

    def __init__(self, start: datetime = START) -> None:
        """Stand at `start`."""
        self._start = instant(start, "start")
        self._passed = timedelta(0)
        self._timers: list[tuple[timedelta, int, _Timer]] = []
        self._number = itertools.count()

    def now(self) -> datetime:
        """Where the clock stands."""
        return self._start + self._passed

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._passed.total_seconds()

    def call_later(self, seconds: float, call: Callable[[], object]) -> _Timer:
        """Make a call when the clock has been turned that far."""
        timer = _Timer(call)
        wait = timedelta(seconds=max(0.0, seconds))
        if seconds > 0:
            # What is left of a sum of floats must pass, too, or a caller that waits for it never gets on.
            wait = max(wait, timedelta.resolution)
        due = self._passed + wait
        heapq.heappush(self._timers, (due, next(self._number), timer))
        return timer

    async def advance(self, by: Duration) -> None:
        """Turn the clock on: every timer on the way goes off at its time, and what it wakes runs."""
        goal = self._passed + duration(by, "by")
        await self.settle()
        while self._timers and self._timers[0][0] <= goal:
            due, _, timer = heapq.heappop(self._timers)
            if timer.cancelled:
                continue
            self._passed = max(self._passed, due)
            timer.call()
            await self.settle()
        self._passed = goal
        await self.settle()

    async def settle(self) -> None:
        """Let everything run that can run without time passing.

        What waits for another thread, or for a server, may run later: wait for that by its own event.
        """
        idle = 0
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            idle = 0 if _pending() else idle + 1
            if idle == _IDLE_TURNS:
                return


def _pending() -> bool:
    """Whether the event loop has more to run at once. Of a loop that cannot say it, always."""
    return bool(getattr(asyncio.get_running_loop(), "_ready", True))


class _Timer:
    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
