"""What all parts of a worker have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from conveyor.core._engine.error_backoff import ErrorBackoff

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from conveyor.core._engine.event_publisher import EventPublisher
    from conveyor.core._engine.worker_state import WorkerState
    from conveyor.core.clock import Clock
    from conveyor.core.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """The store and the queue that a worker works on, and what else each of its parts needs."""

    store: Store
    queue: str
    #: The worker's name: what it is called in the store and in the log.
    worker: str
    #: How long it leases jobs.
    lease: timedelta
    clock: Clock
    #: Gives numbers from 0 up to 1.
    random: Callable[[], float]
    publisher: EventPublisher
    state: WorkerState

    def backoff(self, what: str) -> ErrorBackoff:
        """How long to wait while calls of one kind fail; `what` is what they do."""
        return ErrorBackoff(f"{what} for queue {self.queue!r}", self.clock, self.random)
