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

    from conveyor.core._engine.assembly import Parts
    from conveyor.core._engine.worker_context import WorkerContext

_log: Final = logging.getLogger("conveyor.worker")

#: After this long, handlers that ignore their cancellation are left behind.
_CANCEL_GRACE: Final = 2.0


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Closing:
    """Stops the parts of a worker, as fast as is asked for."""

    context: WorkerContext
    parts: Parts
    _hurry: bool = field(init=False, default=False)
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def notice(self) -> None:
        """A handler has ended, or an outcome was written."""
        self._changed.set()

    def hurry(self) -> None:
        """Stop now: handlers are not waited for any longer."""
        self._hurry = True
        self._changed.set()

    async def close(self, limit: float) -> None:
        """Stop everything; handlers may take `limit` seconds. It has stopped also if this raises."""
        parts = self.parts
        try:
            await self._wind_up(limit)
        finally:
            parts.settler.abandon()
            parts.parents.abandon()
            self.context.publisher.abandon()
            parts.heartbeat.stop()
            await parts.executor.close()
            await self._end(self.context.state.tasks)

    async def _wind_up(self, limit: float) -> None:
        """Claim no more, let handlers finish, and write what they came to."""
        poller, executor, state = self.parts.poller, self.parts.executor, self.context.state
        poller.stop()
        self.parts.scheduler.stop()
        self.parts.maintenance.stop()
        give_up = self._now() + limit
        # A claim on its way is waited for: its jobs go back like all that has not started.
        await self._ended([*state.claiming, *state.maintaining], give_up)
        poller.give_back()
        await self._until(lambda: not executor.running, give_up)
        for run in list(executor.running):
            run.halt(Stop.SHUTDOWN)
        grace = self._now() + executor.kill_after + _CANCEL_GRACE
        # A claim that was cut short by the hurry is given as long: what it brings goes back by itself.
        await self._until(
            lambda: not executor.running and all(task.done() for task in state.claiming), grace, hurried=False
        )
        for run in list(executor.running):
            _log.warning(
                "job %s (%s) ignored its cancellation: left behind, it runs again when its lease is over",
                run.record.id,
                run.record.name,
            )
        flushing = asyncio.create_task(self._flush())
        state.others.append(flushing)
        await self._ended([flushing], give_up)
        await self._ended([flushing], max(grace, self._now() + _CANCEL_GRACE / 2), hurried=False)

    async def _flush(self) -> None:
        """Return when all is written and published, what follows is done, and the registration removed."""
        await self.parts.settler.flush()
        await self.parts.parents.flush()
        await self.context.publisher.flush()
        self.parts.registration.leave()
        if self.context.state.registering:
            await asyncio.wait(self.context.state.registering)

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Cancel what has not ended by itself, and log what had failed."""
        for task in tasks:
            task.cancel()
        await self._ended(tasks, self._now() + _CANCEL_GRACE / 2, hurried=False)
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                _log.error("%s: a part of the worker had failed", self.context.worker, exc_info=error)

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
            if not await time.wait(self.context.clock, self._changed, deadline - self._now()):
                return

    def _now(self) -> float:
        return self.context.clock.monotonic()
