"""What a worker does about the events that it receives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from conveyor.core import events as told
from conveyor.core._engine.run import Stop
from conveyor.core.store import Pause

if TYPE_CHECKING:
    import asyncio

    from conveyor.core._engine.error_backoff import ErrorBackoff
    from conveyor.core._engine.heartbeat import Heartbeat
    from conveyor.core._engine.poller import Poller
    from conveyor.core._engine.scheduler import Scheduler
    from conveyor.core.events import Event
    from conveyor.core.store import Store

_WAKING: Final = frozenset(
    {
        told.JobWaiting,
        told.JobDelayed,
        told.CancelRequested,
        told.QueuePaused,
        told.QueueResumed,
        told.Gap,
    }
)


class Listener:
    """Wakes the poller and the scheduler by events. Without any, polling finds everything."""

    def __init__(
        self,
        *,
        store: Store,
        queue: str,
        worker: str,
        poller: Poller,
        scheduler: Scheduler,
        heartbeat: Heartbeat,
        backoff: ErrorBackoff,
    ) -> None:
        self._store = store
        self._queue = queue
        self._worker = worker
        self._poller = poller
        self._scheduler = scheduler
        self._heartbeat = heartbeat
        self._backoff = backoff

    async def loop(self, listening: asyncio.Event) -> None:
        """Listen until cancelled; `listening` is set once this does, or cannot."""
        try:
            while True:
                try:
                    await self._listen(listening)
                except Exception as error:  # noqa: BLE001 - told, and tried again: polling goes on meanwhile
                    listening.set()
                    await self._backoff.wait(error)
                else:
                    return
        finally:
            listening.set()

    async def _listen(self, listening: asyncio.Event) -> None:
        """Listen until the subscription ends."""
        queues = {self._queue, self._scheduler.queue}
        async with self._store.bus.subscribe(queues, kinds=_WAKING) as events:
            listening.set()
            self._poller.wake()  # what was published before this may have been missed
            async for event in events:
                self._receive(event)
                self._backoff.succeeded()

    def _receive(self, event: Event) -> None:
        if event.queue_name == self._scheduler.queue:
            self._scheduler.wake()
            return
        match event:
            case told.JobDelayed():
                self._poller.wake_for_time()
            case told.CancelRequested(job_id=job_id):
                run = self._heartbeat.find(job_id)
                if run is None:
                    self._poller.cancel_received(job_id)
                else:
                    run.halt(Stop.CANCELLED)
                    self._poller.freed()
            case told.QueuePaused(job_name=job_name, group=group):
                self._poller.pause_received(Pause(name=job_name, group=group))
            case _:
                self._poller.wake()
