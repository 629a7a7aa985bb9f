"""Noticing that the event loop was blocked: for how long, and which jobs ran."""

from __future__ import annotations

import logging
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from conveyor.core.clock import Clock, Timer
    from conveyor.core.store import JobRecord

_log: Final = logging.getLogger("conveyor.worker")

#: How often to look, in seconds. A block may have begun that much before the loop is late.
_EVERY: Final = 0.25
#: A loop that comes this much too late was blocked.
_LAG: Final = 1.0
#: The most jobs that are named: of those that run, and of those that have ended.
_SHOWN: Final = 10


class LagWatch:
    """While handlers run, looks whether the event loop comes in time, and warns if it does not.

    The length that it reports is too short by a quarter of a second at most. The jobs are those that may have
    blocked the loop: they run, or have ended since the latest look. Without handlers it does nothing.
    """

    def __init__(self, clock: Clock, running: Callable[[], Iterable[JobRecord]]) -> None:
        self._clock = clock
        self._running = running
        #: Latest first. One that blocked the loop may end before a timer can go off.
        #: Pinned by test_a_job_that_blocked_the_loop_and_ended_is_named.
        self._ended: deque[JobRecord] = deque(maxlen=_SHOWN)
        self._timer: Timer | None = None
        self._due = 0.0

    def watch(self) -> None:
        """Look from now on: a handler starts."""
        if self._timer is None:
            self._due = self._clock.monotonic() + _EVERY
            self._timer = self._clock.call_later(_EVERY, self._look)

    def end(self, job: JobRecord) -> None:
        """Remember a job that has ended, until the next look."""
        self._ended.appendleft(job)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        late = self._clock.monotonic() - self._due
        running = list(islice(self._running(), _SHOWN))
        if late >= _LAG:
            _log.warning(
                "the event loop was blocked for %.1f s, so leases could not be renewed; running: %s. "
                "A handler that blocks should be a plain function, which runs in a thread",
                late,
                ", ".join(f"{job.name} ({job.id})" for job in (*self._ended, *running)),
            )
        self._ended.clear()
        if running:
            self.watch()
