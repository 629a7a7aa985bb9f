"""The processes of a worker: started, kept for later calls, replaced when they die."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from conveyor.core._engine.processes import import_paths
from conveyor.core._engine.processes.process import Process
from conveyor.core.errors import ConveyorError, InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from conveyor.core.clock import Clock, Timer

_log: Final = logging.getLogger("conveyor.worker")

#: Seconds before one that could not start, or died idle, is replaced for the second time; then twice that.
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Processes:
    """Keeps `size` processes that have imported what `plan` names."""

    plan: dict[str, Any]
    size: int
    #: Seconds that a handler which is asked to stop may go on, before its process is killed.
    kill_after: float
    clock: Clock
    #: Called when there is one more that can take a call, or one that cannot be had.
    changed: Callable[[], None]
    #: Those that are starting, and wait to.
    starting: set[asyncio.Task[None]] = field(init=False, default_factory=set)
    #: Why the latest start failed, until one has not.
    trouble: Exception | None = field(init=False, default=None)
    _all: set[Process] = field(init=False, default_factory=set)
    _idle: deque[Process] = field(init=False, default_factory=deque)
    #: Those that are missing, and are started again when the timer goes off.
    _missing: int = field(init=False, default=0)
    _timer: Timer | None = field(init=False, default=None)
    _pause: float = field(init=False, default=0.0)
    _open: bool = field(init=False, default=False)

    @property
    def idle(self) -> int:
        """How many could take a call now."""
        return len(self._idle)

    async def open(self) -> None:
        """Start all of them, and return when they are ready.

        Raises InvalidOptionError if what they are to run cannot be imported there; none is left then.
        """
        if self._open:
            return
        if import_paths.loading_main:
            allowed = (
                "each process imports the program's own file, which must not start a worker then: "
                'start it under if __name__ == "__main__":'
            )
            raise InvalidOptionError("executor", "process", allowed)
        self._open = True
        try:
            await asyncio.gather(*(self._start() for _ in range(self.size)))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End them: idle ones in their own way, others at once. None is left when this returns."""
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        self._missing, self._timer, self._pause, self.trouble = 0, None, 0.0, None
        for task in self.starting:
            task.cancel()
        self._idle.clear()
        ending = [process.close() for process in self._all]
        if ending:
            await asyncio.gather(*ending)

    def take(self) -> Process:
        """One that is idle; there must be one."""
        return self._idle.popleft()

    def give_back(self, process: Process) -> None:
        """Keep it for the next call, if it lives."""
        if process.usable:
            self._pause = 0.0
            self._idle.append(process)

    async def _start(self) -> None:
        process = Process(self.plan, self._ended)
        self._all.add(process)
        await process.ready()
        if process.usable:
            self._idle.append(process)
            self.trouble = None
            self.changed()

    def _ended(self, process: Process) -> None:
        """Replace one that has died."""
        self._all.discard(process)
        if not self._open or process.abandoned or not process.was_ready:
            return
        if process in self._idle:
            self._idle.remove(process)
        if not process.ran:
            self.trouble = ConveyorError(f"an idle process of the worker died: {process.how}")
            _log.warning("%s", self.trouble)
            self._restart_later()
        else:
            self._restart()

    def _restart_later(self) -> None:
        pause, self._pause = self._pause, min(max(self._pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
        if not pause:
            self._restart()
            return
        self._missing += 1
        if self._timer is None:
            self._timer = self.clock.call_later(pause, self._restart_missing)

    def _restart_missing(self) -> None:
        missing, self._missing, self._timer = self._missing, 0, None
        for _ in range(missing):
            self._restart()

    def _restart(self) -> None:
        if self._open:
            task = asyncio.get_running_loop().create_task(self._replace())
            self.starting.add(task)
            task.add_done_callback(self.starting.discard)

    async def _replace(self) -> None:
        try:
            await self._start()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged, and tried again
            self.trouble = error
            _log.error("a process of the worker could not be replaced, and it is tried again: %s", error)
            self._restart_later()
            self.changed()
