"""What a worker does for its queue now and then: retention."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from conveyor.core._engine.retention import sweep
from conveyor.core._engine.service import Wakeup, run_service
from conveyor.core._inspect import workers
from conveyor.core.store import JobState, Order, Where

if TYPE_CHECKING:
    from conveyor.core._engine.error_backoff import ErrorBackoff
    from conveyor.core.clock import Clock
    from conveyor.core.store import Store

_log: Final = logging.getLogger("conveyor.worker")
_LOOK: Final = 100


class Maintenance:
    """Removes finished jobs whose retention is over, in bounded steps, and what dead workers left."""

    def __init__(
        self,
        *,
        store: Store,
        queue: str,
        names: frozenset[str] | None,
        interval: float,
        clock: Clock,
        backoff: ErrorBackoff,
    ) -> None:
        self._store = store
        self._queue = queue
        self._names = names
        self._interval = interval
        self._clock = clock
        self._backoff = backoff
        self._wakeup = Wakeup()
        self._warned: set[str] = set()

    def stop(self) -> None:
        """Let `loop` end."""
        self._wakeup.stop()

    async def loop(self) -> None:
        """Do so until `stop`, once in each interval. The store's troubles are waited out."""
        await run_service(self.tick, self._wakeup, self._backoff)

    async def tick(self) -> float:
        """Remove what is over and who is gone; warn of jobs that wait for a handler that is not here.

        Returns the seconds until it is time to do so again.
        """
        await sweep(self._store, self._queue, self._clock, lambda: self._wakeup.stopping)
        if self._names is not None:
            await self._warn_of_unknown_names(self._names)
        await workers.sweep(self._store, self._queue)
        return self._interval

    async def _warn_of_unknown_names(self, known: frozenset[str]) -> None:
        waiting = Where(queue=self._queue, states=frozenset({JobState.WAITING}))
        for record in await self._store.find(waiting, limit=_LOOK, order=Order.CLAIM):
            if record.name not in known and record.name not in self._warned:
                self._warned.add(record.name)
                _log.warning(
                    "queue %r has jobs named %r, which this worker has no handler for: left to others",
                    self._queue,
                    record.name,
                )
