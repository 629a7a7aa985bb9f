"""SIGINT and SIGTERM, for every worker that runs in this event loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KINDS: Final = (signal.SIGINT, signal.SIGTERM)
_calls: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Told]] = WeakKeyDictionary()


@contextlib.contextmanager
def told_by_signals(call: Callable[[], None]) -> Iterator[None]:
    """While inside, SIGINT and SIGTERM make this call, and those of the others who are inside.

    The first to enter takes the signals, the last to leave gives them back.
    """
    loop = asyncio.get_running_loop()
    told = _calls.get(loop)
    if told is None:
        told = _calls[loop] = _Told(loop)
    told.calls.append(call)
    try:
        yield
    finally:
        told.calls.remove(call)
        if not told.calls:
            del _calls[loop]
            told.give_back()


class _Told:
    """Who is to be called, and what was there before.

    What another `loop.add_signal_handler` had put there cannot be given back: a loop does not tell.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.calls: list[Callable[[], None]] = []
        self._loop = loop
        self._before: dict[signal.Signals, Any] = {}
        for kind in _KINDS:
            # Outside the main thread neither way works, and the signals are not ours to take.
            with contextlib.suppress(ValueError):
                self._take(kind)

    def _take(self, kind: signal.Signals) -> None:
        before = signal.getsignal(kind)
        try:
            self._loop.add_signal_handler(kind, self._tell)
        except (NotImplementedError, RuntimeError):
            # No such thing on this platform, or in this thread: the plain way, where it can be had.
            signal.signal(kind, lambda *_: self._loop.call_soon_threadsafe(self._tell))
        self._before[kind] = before

    def _tell(self) -> None:
        for call in list(self.calls):
            call()

    def give_back(self) -> None:
        for kind, before in self._before.items():
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                self._loop.remove_signal_handler(kind)
            if before is not None:
                signal.signal(kind, before)
