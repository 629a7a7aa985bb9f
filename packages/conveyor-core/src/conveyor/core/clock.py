"""Time as core sees it: passed in, so that tests can turn it by hand.

Deadlines of leases, due times and rate windows are the store's; this clock only says how long to
wait, and stamps events and attempts.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer(Protocol):
    """A call to come."""

    def cancel(self) -> None:
        """Do not make the call, if it has not been made yet."""
        ...


class Clock(Protocol):
    """The present, and calls at a later time."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Make a call from the event loop, not before that many seconds from now."""
        ...


class SystemClock:
    """The machine's clock and the running event loop's timers."""

    def now(self) -> datetime:
        """The present instant by the machine's clock."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds by the event loop's clock."""
        return asyncio.get_running_loop().time()

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Make a call from the event loop later."""
        return asyncio.get_running_loop().call_later(seconds, call)


async def wait(clock: Clock, event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until `event` is set or that time has passed, and say whether it is set."""
    if event.is_set() or (seconds is not None and seconds <= 0):
        return event.is_set()
    waiter = asyncio.ensure_future(event.wait())
    timer = None if seconds is None else clock.call_later(seconds, waiter.cancel)
    try:
        await asyncio.wait([waiter])
    finally:
        if timer is not None:
            timer.cancel()
        waiter.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            if waiter.done():
                waiter.result()
    return event.is_set()


async def sleep(clock: Clock, seconds: float) -> None:
    """Wait until that much time has passed."""
    await wait(clock, asyncio.Event(), seconds)
