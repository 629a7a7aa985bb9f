"""Keeping the opening and the closing of a store apart."""

from __future__ import annotations

import asyncio


class LoopLock:
    """A lock of whichever event loop is running: a store may be opened on one after another."""

    def __init__(self) -> None:
        """Belong to no event loop yet."""
        self._of: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    def __call__(self) -> asyncio.Lock:
        """The lock of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._of is None or self._of[0] is not loop:
            self._of = loop, asyncio.Lock()
        return self._of[1]
