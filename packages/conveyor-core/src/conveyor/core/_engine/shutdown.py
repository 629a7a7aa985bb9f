"""Stopping a worker, in order: claim no more, let handlers finish, write what they came to."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from conveyor.core import clock as time
from conveyor.core._engine.run import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from conveyor.core._engine.executor import Executor
    from conveyor.core._engine.heartbeat import Heartbeat
    from conveyor.core._engine.maintenance import Maintenance
    from conveyor.core._engine.parents import Parents
    from conveyor.core._engine.poller import Poller
    from conveyor.core._engine.publisher import Announcer
    from conveyor.core._engine.registration import Presence
    from conveyor.core._engine.scheduler import Scheduler
    from conveyor.core._engine.settler import Settler
    from conveyor.core.clock import Clock

_log: Final = logging.getLogger("conveyor.worker")

#: After this long, handlers that ignore their cancellation are left behind.
_CANCEL_GRACE: Final = 2.0


@dataclass(slots=True)
class Tasks:
    """The tasks of a running worker; of one that could not start, some of them."""

    #: What may have a claim on its way.
    claiming: list[asyncio.Task[None]] = field(default_factory=list)
    maintaining: list[asyncio.Task[None]] = field(default_factory=list)
    #: What keeps the worker's entry, and ends by removing it.
    announcing: list[asyncio.Task[None]] = field(default_factory=list)
    #: What goes on until the end.
    others: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def cancelled(self) -> bool:
        """Whether one of them was cancelled, as when the event loop ends: by nothing that a handler does.

        A loop that ends (`asyncio.run`) cancels the tasks that there are, once. One that began after that
        would never end, and be complained of. Pinned by test_a_store_that_nobody_closed_ends_without_a_word.
        """
        every = (*self.claiming, *self.maintaining, *self.announcing, *self.others)
        return any(task.cancelling() > 0 for task in every)


class Closing:
    """Stops the parts of a worker, as fast as is asked for."""

    def __init__(
        self,
        *,
        worker: str,
        poller: Poller,
        executor: Executor,
        settler: Settler,
        parents: Parents,
        scheduler: Scheduler,
        maintenance: Maintenance,
        heartbeat: Heartbeat,
        presence: Presence,
        announcer: Announcer,
        clock: Clock,
    ) -> None:
        self._worker = worker
        self._poller = poller
        self._executor = executor
        self._settler = settler
        self._parents = parents
        self._scheduler = scheduler
        self._maintenance = maintenance
        self._heartbeat = heartbeat
        self._presence = presence
        self._announcer = announcer
        self._clock = clock
        self._hurry = False
        self._changed = asyncio.Event()

    def notice(self) -> None:
        """A handler has ended, or an outcome was written."""
        self._changed.set()

    def hurry(self) -> None:
        """Stop now: handlers are not waited for any longer."""
        self._hurry = True
        self._changed.set()

    async def close(self, limit: float, tasks: Tasks) -> None:
        """Stop everything; handlers may take `limit` seconds. It has stopped also if this raises."""
        try:
            await self._wind_up(limit, tasks)
        finally:
            self._settler.abandon()
            self._parents.abandon()
            self._announcer.abandon()
            self._heartbeat.stop()
            await self._executor.close()
            await self._end([*tasks.claiming, *tasks.maintaining, *tasks.announcing, *tasks.others])

    async def _wind_up(self, limit: float, tasks: Tasks) -> None:
        """Claim no more, let handlers finish, and write what they came to."""
        poller, executor = self._poller, self._executor
        poller.stop()
        self._scheduler.stop()
        self._maintenance.stop()
        give_up = self._clock.monotonic() + limit
        # A claim on its way is waited for: its jobs go back like all that has not started.
        await self._ended([*tasks.claiming, *tasks.maintaining], give_up)
        poller.give_back()
        await self._until(lambda: not executor.running, give_up)
        for run in list(executor.running):
            run.halt(Stop.SHUTDOWN)
        grace = self._clock.monotonic() + executor.kill_after + _CANCEL_GRACE
        # A claim that was cut short by the hurry is given as long: what it brings goes back by itself.
        await self._until(
            lambda: not executor.running and all(task.done() for task in tasks.claiming), grace, hurried=False
        )
        for run in list(executor.running):
            _log.warning(
                "job %s (%s) ignored its cancellation: left behind, it runs again when its lease is over",
                run.record.id,
                run.record.name,
            )
        telling = asyncio.create_task(self._told(tasks))
        tasks.others.append(telling)
        await self._ended([telling], give_up)
        await self._ended([telling], max(grace, self._clock.monotonic() + _CANCEL_GRACE / 2), hurried=False)

    async def _told(self, tasks: Tasks) -> None:
        """Return when all is written, done and told that follows from it, and the worker's entry removed."""
        await self._settler.flush()
        await self._parents.flush()
        await self._announcer.flush()
        self._presence.leave()
        if tasks.announcing:
            await asyncio.wait(tasks.announcing)

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Cancel what has not ended by itself, and tell what had failed."""
        for task in tasks:
            task.cancel()
        await self._ended(tasks, self._clock.monotonic() + _CANCEL_GRACE / 2, hurried=False)
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                _log.error("%s: a part of the worker had failed", self._worker, exc_info=error)

    async def _ended(
        self, tasks: Sequence[asyncio.Task[None]], deadline: float, *, hurried: bool = True
    ) -> None:
        for task in tasks:
            task.add_done_callback(lambda _: self._changed.set())
        await self._until(lambda: all(task.done() for task in tasks), deadline, hurried=hurried)

    async def _until(self, done: Callable[[], bool], deadline: float, *, hurried: bool = True) -> None:
        """Wait until `done`, the deadline, or (if `hurried`) the order to hurry."""
        while not done() and not (hurried and self._hurry):
            self._changed.clear()
            if not await time.wait(self._clock, self._changed, deadline - self._clock.monotonic()):
                return
