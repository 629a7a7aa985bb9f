"""A thread that owns a connection and runs calls on it, for an event loop that must not wait.

A call whose caller was cancelled before it was taken up does not happen; after that it happens wholly.
Answers go back to the loop all at once for each batch. The event loop's own executor is never used:
whatever else sleeps in it would keep leases from being renewed.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeVar

from conveyor.core.errors import StoreClosedError, StoreError
from conveyor.store.sqlite.errors import busy_error, is_undecodable, store_error
from conveyor.store.sqlite.forking import inside_sqlite, register, unregister

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], T]

#: After how long a call is late, how long the event loop then pauses, and how soon again; in seconds.
_LATE: Final = 0.005
_LOOP_PAUSE: Final = 0.000_1
_AGAIN: Final = 0.002
#: How long the thread waits after an error that is not SQLite's, in seconds.
_PAUSE: Final = 0.05

log: Final = logging.getLogger("conveyor.store.sqlite")


class Priority(IntEnum):
    """Which of the calls that wait go first."""

    RENEW = 0
    SETTLE = 1
    CLAIM = 2
    INSERT = 3
    REST = 4


@dataclass(slots=True, eq=False)
class Call:
    """A step to run, and who waits for its answer until when."""

    step: Step[Any]
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    deadline: float
    weight: int


@dataclass(slots=True, eq=False)
class Answer:
    """What a call came to: a result or an error."""

    call: Call
    result: Any = None
    error: BaseException | None = None


class ConnectionThread:
    """The thread, its connection and the calls that wait for it. Subclasses say how calls are run."""

    def __init__(self, path: str, timeout: float, connect: Callable[[], sqlite3.Connection]) -> None:
        """Prepare a thread whose calls wait at most `timeout` seconds for locks that others hold."""
        self.path = path
        self.pid = os.getpid()
        # The same file may have several paths.
        self._kind = (type(self).__name__, os.path.realpath(path))
        self._timeout = timeout
        self._connect = connect
        self._ready = threading.Condition()
        self._waiting: tuple[deque[Call], ...] = tuple(deque() for _ in Priority)
        #: The calls taken up in this round, until they are answered.
        self._held: list[Call] = []
        self._stopping = False
        #: What ended the thread, if it was not stopped; and the kinds of errors that were logged.
        self._cause: BaseException | None = None
        self._logged: set[object] = set()
        #: Calls under way, and what gives their thread a chance if they take long.
        self._asked = 0
        self._yielding: asyncio.TimerHandle | None = None
        self._opened: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, name=f"conveyor-{type(self).__name__.lower()}", daemon=True
        )

    # ---------------------------------------------------------------- from the event loop

    async def start(self) -> None:
        """Open the connection; raises what that raises."""
        _running.add(self)
        _started[self._kind] += 1
        self._thread.start()
        try:
            await asyncio.shield(asyncio.wrap_future(self._opened))
        except BaseException:
            self.stop()
            raise

    async def call(self, priority: Priority, step: Step[T], *, weight: int = 1) -> T:
        """Run a step on the connection, and return its result."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        call = Call(step, answer, loop, time.monotonic() + self._timeout, weight)
        with self._ready:
            if self._stopping:
                raise self._closed()
            self._waiting[priority].append(call)
            self._ready.notify()
        self._asked += 1
        if self._yielding is None:
            self._yielding = loop.call_later(_LATE, self._yield, loop)
        try:
            return await answer
        finally:
            self._asked -= 1
            if not self._asked and self._yielding is not None:
                self._yielding.cancel()
                self._yielding = None

    def _yield(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the thread have the interpreter, which a busy event loop may keep from it for seconds.

        A loop that always has something to do lets go of it at each turn, but takes it back before a
        waiting thread is awake; and because it was let go, the thread does not insist (bpo-7946).
        """
        time.sleep(_LOOP_PAUSE)
        self._yielding = loop.call_later(_AGAIN, self._yield, loop)

    def post(self, priority: Priority, step: Step[Any]) -> None:
        """Run a step on the connection some time, if it can be; its result is not waited for."""
        if not self.usable:
            return
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        answer.add_done_callback(_note)
        with self._ready:
            self._waiting[priority].append(Call(step, answer, loop, time.monotonic() + self._timeout, 1))
            self._ready.notify()

    @property
    def ours(self) -> tuple[int, int]:
        """How many threads of this kind have the file open in this process, and how many have opened it."""
        running = sum(other._kind == self._kind for other in _running.copy())  # noqa: SLF001 - its own kind
        return running, _started[self._kind]

    @property
    def usable(self) -> bool:
        """Whether calls are taken, in this process."""
        return not self._stopping and self.pid == os.getpid()

    def stop(self) -> None:
        """Have the thread end when the calls that wait are done."""
        if self.pid != os.getpid():  # a forked child has no such thread, and perhaps a lock that nobody opens
            return
        with self._ready:
            self._stopping = True
            self._ready.notify()

    async def ended(self) -> None:
        """Wait until the thread has ended."""
        await asyncio.shield(asyncio.wrap_future(self._ended))
        self._thread.join()

    def join(self, timeout: float) -> None:
        """Wait, without an event loop, until the thread has ended."""
        if (
            self.pid == os.getpid()
            and self._thread.is_alive()
            and self._thread is not threading.current_thread()
        ):
            self._thread.join(timeout)

    # ---------------------------------------------------------------- in the thread

    def _serve(self, db: sqlite3.Connection) -> None:
        """Run calls until there are none and the thread is to stop."""
        raise NotImplementedError

    def _close(self, db: sqlite3.Connection) -> None:
        db.close()

    def _run(self) -> None:
        try:
            with inside_sqlite():
                db = self._connect()
                register(db, self.path)
        except BaseException as error:  # noqa: BLE001 - whoever opens the store gets it
            self._finish(error)
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        try:
            self._serve_despite_errors(db)
        except BaseException as error:
            # Not an `Exception`: somebody wants the thread, or all of the process, to end.
            log.exception("the thread of %s was ended", self.path)
            self._cause = error
        try:
            with suppress(Exception), inside_sqlite():
                self._close(db)
            unregister(db)
        finally:
            self._finish()

    def _serve_despite_errors(self, db: sqlite3.Connection) -> None:
        """Run calls until stopped; an unforeseen error fails the calls at hand, and no others.

        Pinned by test_sqlite_threads.py.
        """
        while True:
            try:
                self._serve(db)
            except Exception as error:  # noqa: BLE001 - whatever it is, the calls to come are to be served
                self._failed(db, error)
            else:
                return

    def _failed(self, db: sqlite3.Connection, error: Exception) -> None:
        """Log an error of our own, undo what was under way, and answer the calls at hand with it."""
        self._log_once("the thread of %s met an error of its own, and goes on", error)
        with suppress(sqlite3.Error), inside_sqlite():
            if db.in_transaction:
                db.execute("rollback")
        failed = StoreError(f"the store of {self.path} met an error of its own: {error!r}")
        failed.__cause__ = error
        if self._held:
            deliver(Answer(call, error=failed) for call in self._held)
        else:
            self._fail_all(failed)
        time.sleep(_PAUSE)

    def _log_once(self, message: str, error: Exception) -> None:
        """Log an error with where it came from; the same again only for those who debug."""
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        kind = (type(error), None if place is None else (place.tb_frame.f_code, place.tb_lineno))
        log.log(logging.DEBUG if kind in self._logged else logging.ERROR, message, self.path, exc_info=error)
        self._logged.add(kind)

    def _closed(self) -> StoreClosedError:
        if self._cause is None:
            return StoreClosedError(f"the store of {self.path} is closed")
        return StoreClosedError(f"the store of {self.path} has stopped by {self._cause!r}: close and open it")

    def _finish(self, error: BaseException | None = None) -> None:
        self._cause = self._cause or error
        with self._ready:
            self._stopping = True
            left = [*self._held, *(call for calls in self._waiting for call in calls)]
            for calls in self._waiting:
                calls.clear()
        deliver(Answer(call, error=self._closed()) for call in left)
        _running.discard(self)
        self._ended.set_result(None)

    @property
    def _has_calls(self) -> bool:
        return any(self._waiting)

    def _take(self, weight: int) -> list[Call]:
        """The calls to run next, most urgent first, up to that weight together."""
        taken: list[Call] = []
        with self._ready:
            for calls in self._waiting:
                while calls and weight > 0:
                    call = calls.popleft()
                    if not call.answer.cancelled():
                        taken.append(call)
                        weight -= call.weight
        self._held = taken
        return taken

    def _give_up_late(self, cause: sqlite3.Error) -> None:
        """Answer the calls that have waited for a lock for too long."""
        now = time.monotonic()
        late: list[Answer] = []
        with self._ready:
            for calls in self._waiting:
                for call in [call for call in calls if call.deadline <= now or call.answer.cancelled()]:
                    calls.remove(call)
                    error = busy_error(self.path)
                    error.__cause__ = cause
                    late.append(Answer(call, error=error))
        deliver(late)

    def _fail_all(self, error: StoreError) -> None:
        """Answer every call that waits with an error that concerns all of them."""
        deliver(Answer(call, error=error) for call in self._take(1 << 62))

    def _answer(self, db: sqlite3.Connection, call: Call, undo: Callable[[], object]) -> Answer:
        """Run one call; `undo` takes back what it did if it fails."""
        try:
            try:
                return Answer(call, call.step(db))
            except sqlite3.OperationalError as error:
                if not is_undecodable(error):
                    raise
            # Some row holds text that is not UTF-8. Read again without insisting on it: the row is
            # found to be undecodable by itself, and does not stop the others.
            undo()
            db.text_factory = _lenient
            try:
                return Answer(call, call.step(db))
            finally:
                db.text_factory = str
        except Exception as error:  # noqa: BLE001 - it is the caller's
            with suppress(sqlite3.Error):
                undo()
            known = store_error(error, self.path) if isinstance(error, sqlite3.Error) else error
            if known is not error:
                known.__cause__ = error
            return Answer(call, error=known)


def deliver(answers: Iterable[Answer]) -> None:
    """Hand answers to the event loops that wait for them."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
    for answer in answers:
        by_loop.setdefault(answer.call.loop, []).append(answer)
    for loop, own in by_loop.items():
        with suppress(RuntimeError):  # a loop that was closed waits for nothing
            loop.call_soon_threadsafe(_set, own)


def _set(answers: list[Answer]) -> None:
    for answer in answers:
        future = answer.call.answer
        if future.done():
            continue
        if answer.error is None:
            future.set_result(answer.result)
        elif isinstance(answer.error, StopIteration):  # which no future takes
            future.set_exception(RuntimeError(repr(answer.error)))
        else:
            future.set_exception(answer.error)


def _note(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled() and (error := answer.exception()) is not None:
        log.debug("a step that nobody waited for failed", exc_info=error)


def _lenient(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


# ------------------------------------------------------------------ the ends of a process

_running: Final[set[ConnectionThread]] = set()
_started: Final[Counter[tuple[str, str]]] = Counter()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.clear)


@atexit.register
def _at_exit() -> None:
    """Let calls finish, and close files that nobody closed."""
    threads = _running.copy()
    for thread in threads:
        thread.stop()
    for thread in threads:
        thread.join(5)
