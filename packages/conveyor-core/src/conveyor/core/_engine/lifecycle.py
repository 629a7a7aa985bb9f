"""Starting a worker's parts, and stopping them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from conveyor.core._engine.os_signals import stopping_on_signals
from conveyor.core._engine.shutdown import Closing
from conveyor.core._inspect import follow
from conveyor.core.errors import WorkerClosedError

if TYPE_CHECKING:
    from conveyor.core._engine.assembly import Parts
    from conveyor.core._engine.worker_context import WorkerContext

_log: Final = logging.getLogger("conveyor.worker")


class Lifecycle:
    """Takes a worker from new to running, and to closed. What its methods promise, `Worker`'s do."""

    def __init__(self, context: WorkerContext, parts: Parts) -> None:
        self._context = context
        self._state = context.state
        self._parts = parts
        self.closing = Closing(context=context, parts=parts)
        self._closed: asyncio.Task[None] | None = None
        self._stop_requested = asyncio.Event()
        self.started_at: datetime = context.clock.now()

    async def start(self) -> None:
        """Start to claim and run jobs. A second call does nothing."""
        self._refuse_closed()
        state, parts = self._state, self._parts
        if state.phase == "running":
            return
        state.phase = "running"
        try:
            await follow.refuse_closed(self._context.store, self._context.queue)
        except BaseException:
            if self._closed is None:
                state.phase = "new"
            raise
        if self._closed is not None:
            return  # closed meanwhile
        subscribed, start = asyncio.Event(), asyncio.create_task
        state.others += [start(parts.subscriber.loop(subscribed)), start(parts.heartbeat.loop())]
        state.maintaining.append(start(parts.maintenance.loop()))
        self.started_at = self._context.clock.now()
        # Subscribed before it claims: a job that is added in between is not missed.
        try:
            await parts.executor.open()
            await subscribed.wait()
        except BaseException:
            await self.close(0)
            raise
        state.claiming += [start(parts.poller.loop()), start(parts.scheduler.loop())]
        state.registering.append(start(parts.registration.loop()))
        self._log("started")

    async def run(self, grace: float, *, signals: bool) -> None:
        """Run until a signal, or until `close` is called, or this is cancelled; then close."""
        signalled = False

        def stop() -> None:
            nonlocal signalled
            if signalled:
                _log.warning("%s: told to stop again: stopping now", self._context.worker)
                self.closing.hurry()
            else:
                signalled = True
                self._parts.poller.stop()
                self._request_stop()

        with stopping_on_signals(stop) if signals else nullcontext():
            await self.start()
            try:
                await self._stop_requested.wait()
            finally:
                await self.close(grace)

    async def run_until_idle(self) -> None:
        """Run every job that can run now, those included that this makes runnable; then return."""
        self._refuse_closed()
        self._state.idler = asyncio.current_task()
        poller, executor, settler = self._parts.poller, self._parts.executor, self._parts.settler
        await executor.open()
        poller.stop_lingering()
        await self._parts.scheduler.tick()
        while True:
            poller.wake_for_time()
            poller.wake()
            await poller.tick()
            running: list[asyncio.Future[Any]] = [
                run.task for run in executor.running if run.task is not None
            ]
            if not running and not executor.free:
                # Threads past their timeouts have every slot: only then are they waited for.
                # Or processes are still to start.
                running = executor.coming()
            if running:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            elif not poller.ready and not settler.backlog and not self._parts.parents.busy:
                break
            await settler.flush()
            await self._parts.parents.flush()
        await self._context.publisher.flush()
        await executor.close()

    async def close(self, limit: float) -> None:
        """Stop: claim no more, give back what has not started, let running handlers finish for that long."""
        self._request_stop()
        state = self._state
        if state.phase == "new":
            state.phase = "closed"
            self._parts.poller.stop()
            await self._parts.executor.close()
        if self._closed is None:
            if state.phase == "closed":
                return
            state.phase = "closed"
            self._closed = asyncio.create_task(self._stop(limit))
        elif limit == 0:
            self.closing.hurry()
        cancelled = False
        while not self._closed.done():
            try:
                await asyncio.wait([self._closed])
            except asyncio.CancelledError:
                cancelled = True
                self.closing.hurry()
        self._closed.result()
        if cancelled:
            raise asyncio.CancelledError

    def _refuse_closed(self) -> None:
        if self._state.phase == "closed":
            raise WorkerClosedError(self._context.worker)

    def _request_stop(self) -> None:
        if self._state.phase == "running" and not self._stop_requested.is_set():
            self._log("told to stop: running handlers may finish")
        self._stop_requested.set()

    async def _stop(self, limit: float) -> None:
        try:
            await self.closing.close(limit)
        finally:
            self._log("stopped")

    def _log(self, what: str) -> None:
        worker, queue = self._context.worker, self._context.queue
        _log.info("worker %s of queue %r: %s", worker, queue, what, extra={"worker": worker, "queue": queue})
