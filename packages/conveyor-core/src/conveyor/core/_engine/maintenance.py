"""What a worker does for its queue now and then: retention."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from conveyor.core._engine.retention import sweep
from conveyor.core._engine.service_loop import Wakeup, run_service
from conveyor.core._inspect import worker_registry
from conveyor.core.store import JobState, Order, Where

if TYPE_CHECKING:
    from conveyor.core._engine.error_backoff import ErrorBackoff
    from conveyor.core._engine.worker_context import WorkerContext

_log: Final = logging.getLogger("conveyor.worker")
_LOOK: Final = 100


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Maintenance:
    """Removes finished jobs whose retention is over, in bounded steps, and what dead workers left."""

    context: WorkerContext
    #: The job names that the worker has handlers for; None: it takes any.
    names: frozenset[str] | None
    #: Seconds between two sweeps.
    interval: float
    backoff: ErrorBackoff
    _wakeup: Wakeup = field(init=False, default_factory=Wakeup)
    _warned: set[str] = field(init=False, default_factory=set)

    def stop(self) -> None:
        """Let `loop` end."""
        self._wakeup.stop()

    async def loop(self) -> None:
        """Do so until `stop`, once in each interval. The store's troubles are waited out."""
        await run_service(self.tick, self._wakeup, self.backoff)

    async def tick(self) -> float:
        """Remove expired jobs and dead workers' registrations; warn of jobs that have no handler here.

        Returns the seconds until it is time to do so again.
        """
        await sweep(self.context.store, self.context.queue, self.context.clock, lambda: self._wakeup.stopping)
        if self.names is not None:
            await self._warn_of_unknown_names(self.names)
        await worker_registry.sweep(self.context.store, self.context.queue)
        return self.interval

    async def _warn_of_unknown_names(self, known: frozenset[str]) -> None:
        waiting = Where(queue=self.context.queue, states=frozenset({JobState.WAITING}))
        for record in await self.context.store.find(waiting, limit=_LOOK, order=Order.CLAIM):
            if record.name not in known and record.name not in self._warned:
                self._warned.add(record.name)
                _log.warning(
                    "queue %r has jobs named %r, which this worker has no handler for: left to others",
                    self.context.queue,
                    record.name,
                )
