"""What a worker does about the events that it receives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from conveyor.core import events as happened
from conveyor.core._engine.run import Stop
from conveyor.core.store import Pause

if TYPE_CHECKING:
    import asyncio

    from conveyor.core._engine.error_backoff import ErrorBackoff
    from conveyor.core._engine.heartbeat import Heartbeat
    from conveyor.core._engine.poller import Poller
    from conveyor.core._engine.scheduler import Scheduler
    from conveyor.core._engine.worker_context import WorkerContext
    from conveyor.core.events import Event

_WAKING: Final = frozenset(
    {
        happened.JobWaiting,
        happened.JobDelayed,
        happened.CancelRequested,
        happened.QueuePaused,
        happened.QueueResumed,
        happened.Gap,
    }
)


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class EventSubscriber:
    """Wakes the poller and the scheduler by events. Without any, polling finds everything."""

    context: WorkerContext
    poller: Poller
    scheduler: Scheduler
    heartbeat: Heartbeat
    backoff: ErrorBackoff

    async def loop(self, subscribed: asyncio.Event) -> None:
        """Receive events until cancelled; `subscribed` is set once it does, or cannot."""
        try:
            while True:
                try:
                    await self._subscribe(subscribed)
                except Exception as error:  # noqa: BLE001 - logged, and tried again: polling goes on meanwhile
                    subscribed.set()
                    await self.backoff.wait(error)
                else:
                    return
        finally:
            subscribed.set()

    async def _subscribe(self, subscribed: asyncio.Event) -> None:
        """Receive events until the subscription ends."""
        queues = {self.context.queue, self.scheduler.queue}
        async with self.context.store.bus.subscribe(queues, kinds=_WAKING) as events:
            subscribed.set()
            self.poller.wake()  # what was published before this may have been missed
            async for event in events:
                self._receive(event)
                self.backoff.succeeded()

    def _receive(self, event: Event) -> None:
        if event.queue_name == self.scheduler.queue:
            self.scheduler.wake()
            return
        match event:
            case happened.JobDelayed():
                self.poller.wake_for_time()
            case happened.CancelRequested(job_id=job_id):
                run = self.heartbeat.find(job_id)
                if run is None:
                    self.poller.cancel_received(job_id)
                else:
                    run.halt(Stop.CANCELLED)
                    self.poller.freed()
            case happened.QueuePaused(job_name=job_name, group=group):
                self.poller.pause_received(Pause(name=job_name, group=group))
            case _:
                self.poller.wake()
