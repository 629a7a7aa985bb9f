"""The loop of a worker's background services: poller, scheduler, maintenance and heartbeat."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from conveyor.core import clock as time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from conveyor.core._engine.error_backoff import ErrorBackoff

#: Seconds between two tries, at least, while the store is in trouble.
MIN_RETRY_DELAY: Final = 0.05


class Wakeup(asyncio.Event):
    """Wakes a service that waits, when it is set; or stops it."""

    def __init__(self) -> None:
        super().__init__()
        self.stopping = False

    def stop(self) -> None:
        """Let the service end after what it does now."""
        self.stopping = True
        self.set()


async def run_service(tick: Callable[[], Awaitable[float]], wakeup: Wakeup, backoff: ErrorBackoff) -> None:
    """Call `tick` until the service is stopped, each time after the seconds that it returned, or a wakeup.

    Whatever it raises is logged, and it is called again, after a little longer each time.
    """
    while not wakeup.stopping:
        wakeup.clear()
        try:
            pause = await tick()
        except Exception as error:  # noqa: BLE001 - nothing may end a service in silence: logged, and tried again
            pause = backoff.failed(error)
            # Not even wakeups may make it hammer a store that is in trouble.
            await time.sleep(backoff.clock, min(pause, MIN_RETRY_DELAY))
        else:
            backoff.succeeded()
        if not wakeup.stopping:
            await time.wait(backoff.clock, wakeup, pause)
