"""A process for handlers that are plain functions: spawned, and in a process group of its own.

It has a socket to its worker, whose end tells that it is dead: nothing else has to be watched, and a process
whose worker is dead knows it in the same way. What a handler has started is ended with the group, and Ctrl-C
in a terminal is for the worker alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from conveyor.core._engine.processes.messages import (
    HEAD,
    framed,
    length,
    packed_error,
    unframed,
    unpacked_raise,
)
from conveyor.core.errors import InvalidOptionError, LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from conveyor.core._engine.outcome_policy import Ending
    from conveyor.core._engine.processes.call import Call

_CODE: Final = (
    "import sys; descriptor, *sys.path[:] = sys.argv[1:]; "
    "from conveyor.core._engine.processes.child import main; main(int(descriptor))"
)
#: Bytes of messages that are read ahead.
_LARGE: Final = 1 << 20
#: Seconds that an idle process has to end by itself.
_EXIT_TIMEOUT: Final = 1.0


class Process:
    """A process that runs one call at a time."""

    def __init__(self, plan: dict[str, Any], ended: Callable[[Process], None]) -> None:
        """Start one. Raises OSError if the system has no room for it."""
        self._ended = ended
        self._process, ours = _spawned()
        self._socket = ours
        _connections.add(self)
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

    def close_connection(self) -> None:
        """Close the connection in a forked child of the worker's process: it is not its own."""
        self._socket.close()

    async def close(self) -> None:
        """End it: at once if it is in a call, else in its own way. It is gone when this returns."""
        self._closing = True
        if self._call is None and self.was_ready and self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.write_eof()
            await asyncio.wait([self._life], timeout=_EXIT_TIMEOUT)
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
                self.kill()  # nothing waits for it any more

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; to one that is dead, nothing."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(framed(message))

    async def _live(self) -> None:
        """Receive what it sends until it is dead, and see to it that it is."""
        try:
            reader, self._writer = await asyncio.open_unix_connection(sock=self._socket, limit=_LARGE)
            self.send(self._plan)
            while True:
                size = length(await reader.readexactly(HEAD))
                self._receive(unframed(await reader.readexactly(size)))
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
                self._ready.exception()  # retrieved, if nothing waits for it
            if self._call is not None:
                self._call.died(self.how, killed=self.killed)
            self._ended(self)

    def _receive(self, message: dict[str, Any]) -> None:
        if self._ready.cancelled():
            return  # nothing waits for it: it is about to be closed
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


def _spawned() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A new process, and our end of the connection to it."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0)  # asyncio's way
    arguments = [
        *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined] # noqa: SLF001 - as multiprocessing does
        *("-c", _CODE, str(theirs.fileno())),
        *(path for path in sys.path if isinstance(path, str)),
    ]
    with theirs:
        try:
            # Nothing else is open in it: not the connections of other processes, either.
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


def _how(status: int) -> str:
    """How a process ended, from what waiting for it says."""
    if status >= 0:
        return f"it exited with status {status}"
    try:
        return f"it was ended by {signal.Signals(-status).name}"
    except ValueError:  # one of those that have no name
        return f"it was ended by signal {-status}"


#: For a child that the worker's own process forks: it must not keep the connections to processes open.
_connections: Final[WeakSet[Process]] = WeakSet()


def _close_connections() -> None:
    for process in list(_connections):
        process.close_connection()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_connections)
