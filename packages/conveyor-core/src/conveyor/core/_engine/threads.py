"""Threads for handlers that are plain functions."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R")


class Threads:
    """Runs calls in threads, as many as there are calls at once, and keeps the threads for later calls.

    They are daemons: the standard library's pool would keep the process from ending for as long as a
    handler does not return. Pinned by test_a_thread_that_never_ends_does_not_keep_the_process_alive.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = 0
        self._busy = 0

    def run(self, call: Callable[[], R]) -> asyncio.Future[R]:
        """Make a call in a thread; nothing stops it, whatever becomes of the future."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        context, calls = contextvars.copy_context(), self._calls
        self._busy += 1
        if self._busy > self._threads:
            self._threads += 1
            name = f"conveyor-handler-{self._threads}"
            threading.Thread(target=_work, args=[calls], name=name, daemon=True).start()

        def done(result: R) -> None:
            free()
            if not future.done():
                future.set_result(result)

        def failed(error: BaseException) -> None:
            free()
            if not future.done():
                future.set_exception(error)

        def free() -> None:
            # After `close` it is none of the threads that are counted.
            # Pinned by test_a_worker_that_has_left_a_thread_behind_runs_again.
            if calls is self._calls:
                self._busy -= 1

        def work() -> None:
            ended: Callable[[], None]
            try:
                ended = partial(done, context.run(call))
            except BaseException as error:  # noqa: BLE001 - what waits for the call gets it
                ended = partial(failed, error)
            loop.call_soon_threadsafe(ended)

        calls.put(work)
        return future

    def close(self) -> None:
        """Let the threads end with what they do now; none is waited for."""
        for _ in range(self._threads):
            self._calls.put(None)
        self._calls = SimpleQueue()
        self._threads = self._busy = 0


def _work(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    while (work := calls.get()) is not None:
        try:
            work()
        except RuntimeError:
            return  # the event loop is closed: nothing waits for the result
        del work
