"""Processes for handlers that are plain functions: spawned, kept for later calls, replaced when they die.

Each has a socket to its worker, whose end tells that it is dead: nothing else has to be watched, and a
process whose worker is dead knows it in the same way. Each leads a process group of its own, so that what a
handler has started is ended with it, and Ctrl-C in a terminal is for the worker alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from conveyor.core._engine.batch_results import Misfit
from conveyor.core._engine.decisions import Died, Raised, Returned
from conveyor.core._engine.handlers import Encoded
from conveyor.core._engine.processes import import_paths
from conveyor.core._engine.processes.messages import (
    HEAD,
    framed,
    length,
    packed,
    packed_error,
    unframed,
    unpacked,
    unpacked_raise,
)
from conveyor.core.errors import ConveyorError, InvalidOptionError, LeaseLostError
from conveyor.core.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from conveyor.core._engine.decisions import Ending
    from conveyor.core._engine.run import Run
    from conveyor.core.clock import Clock, Timer

_log: Final = logging.getLogger("conveyor.worker")

_CODE: Final = (
    "import sys; line, *sys.path[:] = sys.argv[1:]; "
    "from conveyor.core._engine.processes.child import main; main(int(line))"
)
#: Bytes of messages that are read ahead.
_LARGE: Final = 1 << 20
#: Seconds that an idle process has to end by itself.
_PATIENCE: Final = 1.0
#: Seconds before one that could not start, or died idle, is replaced for the second time; then twice that.
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0


class Processes:
    """Keeps `size` processes that have imported what `plan` names."""

    def __init__(
        self, plan: dict[str, Any], size: int, kill_after: float, clock: Clock, changed: Callable[[], None]
    ) -> None:
        self.kill_after = kill_after
        self._plan = plan
        self._size = size
        self._clock = clock
        self._changed = changed
        self._all: set[Process] = set()
        self._idle: deque[Process] = deque()
        #: Those that are starting, and wait to.
        self.starting: set[asyncio.Task[None]] = set()
        #: Those that are missing, and are started again when the timer goes off.
        self._missing = 0
        self._timer: Timer | None = None
        self._pause = 0.0
        self._open = False
        #: Why the latest start failed, until one has not.
        self.trouble: Exception | None = None

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
            await asyncio.gather(*(self._start() for _ in range(self._size)))
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
        process = Process(self._plan, self._ended)
        self._all.add(process)
        await process.ready()
        if process.usable:
            self._idle.append(process)
            self.trouble = None
            self._changed()

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
            self._timer = self._clock.call_later(pause, self._restart_missing)

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
            self._changed()


class Process:
    """A process that runs one call at a time."""

    def __init__(self, plan: dict[str, Any], ended: Callable[[Process], None]) -> None:
        """Start one. Raises OSError if the system has no room for it."""
        self._ended = ended
        self._process, ours = _spawned()
        self._socket = ours
        _lines.add(self)
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._writer: asyncio.StreamWriter | None = None
        self._plan = plan
        self._call: Call | None = None
        self._closing = False
        self.killed = False
        self.abandoned = False
        self.how = ""
        self._life = loop.create_task(self._live())

    @property
    def was_ready(self) -> bool:
        """Whether it could import what it runs."""
        return self._ready.done() and not self._ready.cancelled() and self._ready.exception() is None

    @property
    def usable(self) -> bool:
        """Whether it can take another call."""
        return not self._life.done() and not self.killed and not self._closing and not self.how

    @property
    def ran(self) -> bool:
        """Whether it died of what it ran, or was killed for it."""
        return self.killed or (self._call is not None and self._call.begun)

    async def ready(self) -> None:
        """Return when it can take a call. Raises InvalidOptionError if it never can."""
        await self._ready

    def close_line(self) -> None:
        """In a forked child of the worker's process: let go of the line, which is not its own."""
        self._socket.close()

    async def close(self) -> None:
        """End it: at once if it is in a call, else in its own way. It is gone when this returns."""
        self._closing = True
        if self._call is None and self.was_ready and self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.write_eof()
            await asyncio.wait([self._life], timeout=_PATIENCE)
        if not self._life.done():
            self.kill()
            await asyncio.wait([self._life])

    def kill(self) -> None:
        """End it at once, with what its handler has started, if that is of its group."""
        self.killed = True
        self._kill()

    def _kill(self) -> None:
        if self._process.returncode is None:  # so that its number is its own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()

    async def run(self, call: Call) -> Ending:
        """Run a call to its end, however that comes."""
        self._call = call
        try:
            self.send(call.message())
            return await call.ended
        finally:
            self._call = None
            call.close()
            if not call.ended.done() or call.ended.cancelled():
                self.kill()  # nobody waits for it any more

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; to one that is dead, nothing."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(framed(message))

    async def _live(self) -> None:
        """Hear it until it is dead, and see to it that it is."""
        try:
            reader, self._writer = await asyncio.open_unix_connection(sock=self._socket, limit=_LARGE)
            self.send(self._plan)
            while True:
                size = length(await reader.readexactly(HEAD))
                self._heard(unframed(await reader.readexactly(size)))
        except (asyncio.IncompleteReadError, OSError):
            pass  # it has closed its end, as everything does that dies
        except asyncio.CancelledError:
            self.abandoned = True  # the event loop ends
            raise
        finally:
            self._kill()
            self.how = _how(self._process.wait())
            if self._writer is None:
                self._socket.close()
            else:
                self._writer.transport.abort()
            if not self._ready.done():
                self._ready.set_exception(self._unfit(f"the process died before it was ready: {self.how}"))
                self._ready.exception()  # retrieved, if nobody waits for it
            if self._call is not None:
                self._call.died(self.how, killed=self.killed)
            self._ended(self)

    def _heard(self, message: dict[str, Any]) -> None:
        if self._ready.cancelled():
            return  # nobody waits for it: it is about to be closed
        if "ready" in message:
            self._ready.set_result(None)
        elif "unfit" in message:
            failure = unpacked_raise(message["unfit"]).failure
            error = self._unfit(f"{failure.type}: {failure.message}")
            error.add_note(failure.traceback)
            self._ready.set_exception(error)
        elif self._call is not None and self._call.number == message.get("begun"):
            self._call.begun = True
        elif self._call is not None and self._call.number == message.get("ended"):
            self._call.end(message)
        elif self._call is not None and self._call.number == message.get("call"):
            self._call.answer(message)
        elif "ask" in message:  # of a thread that its handler has left behind
            self.send({"answer": message["ask"], "error": packed_error(LeaseLostError("?"))})

    def _unfit(self, reason: str) -> InvalidOptionError:
        names = [self._plan["handler"]] if self._plan["handler"] else self._plan["handlers"].values()
        handlers = ", ".join(".".join(path) for path in names)
        return InvalidOptionError("handler", handlers, f"a process cannot import it: {reason}")


class Call:
    """One call of a handler in a process, for one job or a batch."""

    _numbers: Final = count(1)

    def __init__(
        self,
        process: Process,
        runs: Sequence[Run],
        jobs: Sequence[Job[Any]],
        *,
        kill_after: float,
        clock: Clock,
    ) -> None:
        self.number = next(self._numbers)
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        #: Whether the handler was called; before that, no death is its job's fault.
        self.begun = False
        self._process = process
        self._runs = runs
        self._jobs = jobs
        self._kill_after = kill_after
        self._clock = clock
        self._timer: Timer | None = None
        self._answers: set[asyncio.Task[None]] = set()

    def message(self) -> dict[str, Any]:
        """What the process is to run."""
        jobs = [{"record": packed(run.record), "report": run.report.encode()} for run in self._runs]
        return {"call": self.number, "jobs": jobs}

    def halted(self, run: Run) -> None:
        """Let the handler know that it is asked to stop; kill it later, if none of its jobs may go on."""
        self._process.send({"stop": [self._runs.index(run)]})
        if any(one.stop is None for one in self._runs):
            return
        if self._kill_after <= 0:
            self.kill()
        elif self._timer is None:
            self._timer = self._clock.call_later(self._kill_after, self.kill)

    def kill(self) -> None:
        """End it at once."""
        if not self.ended.done():
            self._process.kill()

    def close(self) -> None:
        """It is over."""
        if self._timer is not None:
            self._timer.cancel()

    def end(self, message: dict[str, Any]) -> None:
        """The handler has ended."""
        for run, noticed in zip(self._runs, message["noticed"], strict=True):
            run.noticed = run.noticed or noticed
        if not self.ended.done():
            self.ended.set_result(
                unpacked_raise(message["raised"])
                if "raised" in message
                else Returned(_value(message["value"]))
            )

    def died(self, how: str, *, killed: bool) -> None:
        """The process is dead: because it was killed here, or by itself."""
        if self.ended.done():
            return
        if killed or not self.begun:
            self.ended.set_result(Raised(asyncio.CancelledError(), outside=not killed))
        else:
            self.ended.set_result(Died(how))

    def answer(self, message: dict[str, Any]) -> None:
        """Make a call of a job's method, and send what came of it."""
        task = asyncio.get_running_loop().create_task(self._answer(message))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, message: dict[str, Any]) -> None:
        job, run = self._jobs[message["job"]], self._runs[message["job"]]
        method, given = unpacked(message["given"])
        before = job.record
        answer: dict[str, Any] = {"answer": message["ask"]}
        try:
            value = await getattr(job, method)(**given)
            answer |= {"itself": True} if value is job else {"value": packed(_records(value))}
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the handler's
            self._process.send(answer | {"error": packed_error(error)})
            return
        if method != "log":  # there are many, and the process keeps its own
            answer["report"] = run.report.encode()
        if job.record is not before:
            answer["record"] = packed(job.record)
        self._process.send(answer)


def _spawned() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A new process, and our end of the line to it."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0)  # asyncio's way
    arguments = [
        *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined] # noqa: SLF001 - as multiprocessing does
        *("-c", _CODE, str(theirs.fileno())),
        *(path for path in sys.path if isinstance(path, str)),
    ]
    with theirs:
        try:
            # Nothing else is open in it: not the lines of other processes, either.
            process = subprocess.Popen(  # noqa: S603 - the program is this Python
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        except BaseException:
            ours.close()
            raise
    return process, ours


def _value(sent: Any) -> Any:
    """What a handler returned: its result, still encoded, or those of a batch."""
    match sent:
        case None:
            return None
        case list():
            return [unpacked_raise(one["raised"]) if "raised" in one else _value(one) for one in sent]
        case {"misfit": described}:
            return Misfit(described)
        case _:
            return Encoded(json=sent.get("json"), reason=sent.get("reason", ""))


def _records(value: Any) -> Any:
    if isinstance(value, Job):
        return value.record
    return [_records(one) for one in value] if isinstance(value, list) else value


def _how(status: int) -> str:
    """How a process ended, from what waiting for it says."""
    if status >= 0:
        return f"it exited with status {status}"
    try:
        return f"it was ended by {signal.Signals(-status).name}"
    except ValueError:  # one of those that have no name
        return f"it was ended by signal {-status}"


#: Lines to processes, for a child that the worker's own process forks: it must not keep them open.
_lines: Final[WeakSet[Process]] = WeakSet()


def _let_go() -> None:
    for process in list(_lines):
        process.close_line()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
