"""Events between the processes that share a file.

Within a process events travel at once, without the file. Those who listen are known from a small table;
while nobody else listens to a queue, nothing is written about it, and whether anybody does is looked up only
when another connection has changed the file (`pragma data_version`). What is written is a row for each
batch; whoever listens looks from time to time whether the file has changed, and then reads the new rows. Only
one process writes at a time, so their numbers are in the order of their commits, and none is missed.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

from conveyor.core.errors import StoreError
from conveyor.core.events import Event, LocalBus, decode, encode
from conveyor.store.sql import Wanted, decoded_wants, encoded_wants
from conveyor.store.sqlite.errors import is_undecodable
from conveyor.store.sqlite.reader import Reader
from conveyor.store.sqlite.rows import written
from conveyor.store.sqlite.statements import ask, fetch, run
from conveyor.store.sqlite.threads import Priority
from conveyor.store.sqlite.writer import Writer

log: Final = logging.getLogger("conveyor.store.sqlite")

#: For how long a listener is registered, and how often it renews that.
_REGISTERED: Final = timedelta(seconds=60)
_RENEWAL: Final = 15.0
#: For how long events can be read.
_KEPT: Final = timedelta(minutes=5)
_PRUNE: Final = 30.0
#: How long an event waits for others to travel with, in seconds.
_LINGER: Final = 0.002
#: Events that are not written yet; when there are more, the oldest are lost.
_CAPACITY: Final = 10_000
#: The batches of events that `read_events.sql` reads at once.
_MOST: Final = 1_000


class SqliteBus:
    """The bus of one store: `LocalBus` within the process, the file between processes."""

    def __init__(self, poll_interval: timedelta) -> None:
        """Look for the events of others that often, while this process listens."""
        handle = uuid4().hex
        self._handle = handle
        self._local = LocalBus()
        self._local.close()
        self.outbox: Final = EventOutbox(handle)
        self.watch: Final = EventWatch(handle, poll_interval.total_seconds(), self._local)
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    # ---------------------------------------------------------------- with the store

    def open(self, writer: Writer, reader: Reader) -> None:
        """Begin to pass events on."""
        self._writer, self._reader = writer, reader
        self._local.reopen()

    def close(self) -> None:
        """End every subscription."""
        self._local.close()
        self.watch.stop()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        writer, self._writer, self._reader = self._writer, None, None
        if writer is not None and self._local.wanted:
            writer.post(Priority.REST, self._stop_listening)

    # ---------------------------------------------------------------- Bus

    async def publish(self, events: Sequence[Event]) -> None:
        """Pass events on: to this process's subscribers at once, to others when the writer comes to it."""
        self._local.deliver(events)
        if events and self._writer is not None and self._writer.usable:
            self.outbox.put(events)
            self._later(_LINGER, self._post)

    @asynccontextmanager
    async def subscribe(
        self, queues: Collection[str], *, kinds: Collection[type[Event]] | None = None
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Receive the events of these queues, from entering on."""
        try:
            async with self._local.subscribe(queues, kinds=kinds) as events:
                await self._register()
                yield events
        finally:
            self._renew_registration()

    async def _register(self) -> None:
        """Let the other processes know, for good before this returns."""
        writer, reader = self._writer, self._reader
        if writer is None or reader is None:
            return
        try:
            last = await writer.call(Priority.REST, self._listening())
        except StoreError:
            log.warning("events of other processes are not received for now", exc_info=True)
            last = None
        self.watch.start(asyncio.get_running_loop(), last)
        reader.wake()
        self._later(_RENEWAL, self._renew_registration)

    def _renew_registration(self) -> None:
        """Let the other processes know what is listened to now, if anything is."""
        if self._writer is None:
            return
        if self._local.wanted:
            self._later(_RENEWAL, self._renew_registration)
            self._writer.post(Priority.REST, self._listening())
        else:
            self.watch.stop()
            self._writer.post(Priority.REST, self._stop_listening)

    def _listening(self) -> Callable[[sqlite3.Connection], int]:
        wanted = encoded_wants(self._local.wanted)

        def listen(db: sqlite3.Connection) -> int:
            expires_at = written(datetime.now(UTC) + _REGISTERED)
            run(db, "register_listener", handle=self._handle, wanted=wanted, expires_at=expires_at)
            found: int = fetch(db, "last_event_id")[0]
            return found

        return listen

    def _stop_listening(self, db: sqlite3.Connection) -> None:
        run(db, "remove_listener", handle=self._handle, now=written(datetime.now(UTC)))

    def _post(self) -> None:
        if self._writer is not None:
            self._writer.wake()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do this once, that long from now at the latest."""
        if action in self._timers:
            return

        def act() -> None:
            del self._timers[action]
            action()

        self._timers[action] = asyncio.get_running_loop().call_later(seconds, act)


class EventOutbox:
    """Events on their way to other processes."""

    def __init__(self, handle: str) -> None:
        """Send in the name of this handle."""
        self._handle = handle
        self._events: deque[Event] = deque(maxlen=_CAPACITY)
        self._wanted: list[Event] = []
        self._version: int | None = None
        self._listeners: list[tuple[str, Wanted]] = []
        self._pruned = 0.0

    def put(self, events: Sequence[Event]) -> None:
        """Take events in, from the event loop."""
        self._events.extend(events)

    @property
    def waiting(self) -> bool:
        """Whether there is anything."""
        return bool(self._events or self._wanted)

    def wanted(self, db: sqlite3.Connection) -> bool:
        """Whether another process would read it; what is not wanted is dropped."""
        (version,) = db.execute("pragma data_version").fetchone()
        if version != self._version:
            self._version = version
            self._listeners = _listeners(ask(db, "find_listeners", handle=self._handle))
        now = written(datetime.now(UTC))
        listeners = [wanted for expires_at, wanted in self._listeners if expires_at > now]
        taken: list[Event] = []
        while self._events:
            taken.append(self._events.popleft())
        self._wanted += (event for event in taken if any(_wants(listener, event) for listener in listeners))
        return bool(self._wanted)

    def write(self, db: sqlite3.Connection) -> None:
        """Write it."""
        events, self._wanted = self._wanted, []
        now = datetime.now(UTC)
        run(db, "write_events", handle=self._handle, now=written(now), body=encode(events))
        if time.monotonic() - self._pruned > _PRUNE:
            self._pruned = time.monotonic()
            run(db, "delete_old_events", horizon=written(now - _KEPT))

    def drop(self) -> None:
        """Drop it."""
        self._events.clear()
        self._wanted.clear()


def _listeners(rows: Iterable[tuple[str, str]]) -> list[tuple[str, Wanted]]:
    found = []
    for wanted, expires_at in rows:
        with suppress(ValueError):  # not of this release, or not of ours at all
            found.append((expires_at, decoded_wants(wanted)))
    return found


def _wants(listener: Wanted, event: Event) -> bool:
    kinds = listener.get(event.queue_name, ())
    return kinds is None or type(event).__name__ in kinds


class EventWatch:
    """Looks for the events of other processes."""

    def __init__(self, handle: str, interval: float, local: LocalBus) -> None:
        """Pass what others publish on to the subscribers of this process."""
        self._handle = handle
        self._interval = interval
        self._local = local
        self._loop: asyncio.AbstractEventLoop | None = None
        self._version: int | None = None
        self._last: int | None = None
        self._failing = False

    def start(self, loop: asyncio.AbstractEventLoop, last: int | None) -> None:
        """Look from now on, for events behind that one."""
        if self._loop is None:
            self._version, self._last = None, last
            self._loop = loop

    def stop(self) -> None:
        """Look no more."""
        self._loop = None

    @property
    def interval(self) -> float | None:
        """How often to look, in seconds; None: not now."""
        return None if self._loop is None else self._interval

    def look(self, db: sqlite3.Connection) -> None:
        """Pass on what is new, if the file has changed at all."""
        loop = self._loop
        if loop is None:
            return
        try:
            (version,) = db.execute("pragma data_version").fetchone()
            if version == self._version:
                return
            if self._last is None:
                self._last = fetch(db, "last_event_id")[0]
            rows = ask(db, "read_events", handle=self._handle, after=self._last)
        except sqlite3.Error as error:
            if not self._failing:
                log.warning("events of other processes cannot be read for now", exc_info=True)
            self._failing = True
            if is_undecodable(error):  # what is there never will be
                self._last = None
            return
        self._failing = False
        if len(rows) < _MOST:
            self._version = version
        if rows:
            self._last = rows[-1][0]
        events = [event for _, body in rows if body is not None for event in decode(body)]
        if events:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(self._local.deliver, events)
