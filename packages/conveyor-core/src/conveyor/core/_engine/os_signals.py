"""SIGINT and SIGTERM, for every worker that runs in this event loop.

The handlers are plain ones, put there by `signal.signal`, and not the event loop's, for two reasons. Whoever
else wants the signals, such as the web server around a worker, goes on getting them: a handler of Python's is
called by ours, and one of the loop's is called by the loop, which ours leaves alone. And the loop needs no
wake-up descriptor: a forked child inherits that, as a line into its parent, so that a signal for the child
would arrive in the parent as well.

A forked child has no worker, and so gets handlers that end it. Until it has them, both signals are held back
in it: Python forgets a signal that arrives too early, and `Process.terminate` right after `start` would do
nothing. A program that is started (`subprocess`, `os.posix_spawn`, multiprocessing's "spawn") begins with
such handlers anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from conveyor.core.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_KINDS: Final = (signal.SIGINT, signal.SIGTERM)
#: What stands for no handler of the program's: it would end the process, or do nothing.
_PLAIN: Final = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler, None)
_handlers: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Handlers]] = WeakKeyDictionary()


@contextlib.contextmanager
def stopping_on_signals(call: Callable[[], None]) -> Iterator[None]:
    """While inside, SIGINT and SIGTERM make this call, and those of the others who are inside.

    The first to enter takes the signals, the last to leave gives them back. What handled them before does
    so meanwhile, too, unless it would only have ended the program.

    Raises InvalidOptionError outside the main thread, where Python lets no code handle signals.
    """
    loop = asyncio.get_running_loop()
    handlers = _handlers.get(loop)
    if handlers is None:
        handlers = _handlers[loop] = _Handlers(loop)
    handlers.calls.append(call)
    try:
        yield
    finally:
        handlers.calls.remove(call)
        if not handlers.calls:
            _handlers.pop(loop, None)
            handlers.give_back()


class _Handlers:
    """Who is to be called, and what was there before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.calls: list[Callable[[], None]] = []
        self._loop = loop
        self._handler = self._handle  # one object, to be known again
        self._before: dict[int, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            raise InvalidOptionError(
                "signals",
                value=True,
                allowed="only the main thread gets signals; elsewhere, run with signals=False",
            )
        for kind in _KINDS:
            self._before[kind] = signal.signal(kind, self._handler)

    def _handle(self, kind: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # a loop that was closed under its workers
            self._loop.call_soon_threadsafe(self._call)
        before = self._before.get(kind)
        if before not in _PLAIN and not _is_runners(before):
            before(kind, frame)

    def _call(self) -> None:
        for call in list(self.calls):
            call()

    def give_back(self) -> None:
        """Put back what was there before; what other code has put there meanwhile stays."""
        for kind, before in self._before.items():
            if before is not None and signal.getsignal(kind) is self._handler:
                signal.signal(kind, before)
        self._before.clear()

    def leave_to_parent(self) -> None:
        """In a forked child: put back what ends the process, if that was there before or a function was."""
        for kind, before in self._before.items():
            ends = signal.default_int_handler if kind == signal.SIGINT else signal.SIG_DFL
            if signal.getsignal(kind) is self._handler:
                signal.signal(kind, before if before in _PLAIN and before is not None else ends)
        self._before.clear()
        self.calls.clear()


def _is_runners(handler: Any) -> bool:
    """Whether it is `asyncio.run`'s: that cancels the program's main task, and so is a way to end it."""
    return isinstance(handler, functools.partial) and isinstance(
        getattr(handler.func, "__self__", None), asyncio.Runner
    )


class _Fork(threading.local):
    """What a thread that forks has to put back."""

    mask: set[int] | None = None


_fork: Final = _Fork()


def _before_fork() -> None:
    _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _KINDS) if _handlers else None


def _after_fork() -> None:
    if _fork.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)


def _after_fork_in_child() -> None:
    for handlers in list(_handlers.values()):
        handlers.leave_to_parent()
        signal.set_wakeup_fd(-1)
    _handlers.clear()
    interrupts = _fork.mask is not None and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interrupts:
        # What is raised in here is swallowed, KeyboardInterrupt included: an interrupt ends the child now.
        # Pinned by test_an_interrupt_that_comes_while_a_child_is_made_ends_it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _after_fork()
    if interrupts:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
