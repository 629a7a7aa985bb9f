"""Who may have a connection next: a few places, and those who wait for one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """Places for connections; urgent callers go first, and one place (of two or more) is kept for them.

    A lease that is not renewed in time is lost, so hundreds of adders, or a few who wait for a lock,
    must not stand in the way.
    """

    def __init__(self, size: int) -> None:
        """Have that many places."""
        self._free = size
        self._kept = 1 if size > 1 else 0
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def taken(self, *, urgent: bool, until: float) -> AsyncIterator[None]:
        """Hold a place while inside; raises TimeoutError if there was none by then (the loop's time)."""
        await self._take(urgent=urgent, until=until)
        try:
            yield
        finally:
            self._free += 1
            self._hand_out()

    async def _take(self, *, urgent: bool, until: float) -> None:
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        line = self._urgent if urgent else self._others
        line.append(waiter)
        self._hand_out()
        if waiter.done():
            return
        timer = loop.call_at(until, _give_up, waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._free += 1  # it was handed over while its taker was being cancelled
                self._hand_out()
            raise
        finally:
            timer.cancel()

    def _hand_out(self) -> None:
        while self._free > 0 and (waiter := _next(self._urgent)):
            self._free -= 1
            waiter.set_result(None)
        while self._free > self._kept and (waiter := _next(self._others)):
            self._free -= 1
            waiter.set_result(None)


def _next(line: deque[asyncio.Future[None]]) -> asyncio.Future[None] | None:
    """The first who still waits."""
    while line:
        waiter = line.popleft()
        if not waiter.done():
            return waiter
    return None


def _give_up(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
