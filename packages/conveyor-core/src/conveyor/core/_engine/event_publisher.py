"""Publishing events to the worker's own callbacks and to the store's bus, in order, off the hot path."""

from __future__ import annotations

import asyncio
import inspect
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from conveyor.core._engine.worker_state import WorkerState
    from conveyor.core.events import Event
    from conveyor.core.store import Store

_log: Final = logging.getLogger("conveyor.worker")


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class EventPublisher:
    """Gathers events, and publishes them in batches. Nothing that a callback does reaches the worker."""

    store: Store
    state: WorkerState
    _callbacks: dict[type[Event], list[Callable[[Any], object]]] = field(init=False, default_factory=dict)
    _unpublished: list[Event] = field(init=False, default_factory=list)
    _uncalled: list[Event] = field(init=False, default_factory=list)
    _publishing: asyncio.Task[None] | None = field(init=False, default=None)
    _calling: asyncio.Task[None] | None = field(init=False, default=None)

    def on(self, kind: type[Event], callback: Callable[[Any], object]) -> None:
        """Call back with every event of this kind that this worker publishes."""
        self._callbacks.setdefault(kind, []).append(callback)

    def publish(self, events: Iterable[Event]) -> None:
        """Publish these soon; when the event loop ends, never."""
        for event in events:
            self._unpublished.append(event)
            if type(event) in self._callbacks:
                self._uncalled.append(event)
        publish = self._unpublished and (self._publishing is None or self._publishing.done())
        call = self._uncalled and (self._calling is None or self._calling.done())
        if (publish or call) and not self.state.loop_ends:
            loop = asyncio.get_running_loop()
            if publish:
                self._publishing = loop.create_task(self._publish())
            if call:
                self._calling = loop.create_task(self._call())

    async def flush(self) -> None:
        """Return when every event so far has been passed on."""
        while busy := self._tasks():
            await asyncio.wait(busy)

    def abandon(self) -> None:
        """Pass on nothing more."""
        for task in self._tasks():
            task.cancel()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for task in (self._publishing, self._calling) if task is not None and not task.done()]

    async def _publish(self) -> None:
        while self._unpublished:
            events, self._unpublished = self._unpublished, []
            try:
                await self.store.bus.publish(events)
            except Exception:  # noqa: BLE001 - events are hints: a bus in trouble must not stop a worker
                _log.warning("events could not be published", exc_info=True)

    async def _call(self) -> None:
        while self._uncalled:
            events, self._uncalled = self._uncalled, []
            for event in events:
                for callback in self._callbacks[type(event)]:
                    await self._call_back(callback, event)

    async def _call_back(self, callback: Callable[[Any], object], event: Event) -> None:
        try:
            result = callback(event)
            if inspect.isawaitable(result):
                await result
        except (Exception, asyncio.CancelledError) as error:
            # A callback can cancel its own task, too: the others are called all the same.
            if isinstance(error, asyncio.CancelledError) and self.state.is_ending:
                raise
            _log.exception("a callback for %s failed", type(event).__name__)
