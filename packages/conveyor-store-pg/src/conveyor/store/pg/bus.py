"""Events between the processes that share a database, by `notify`.

Within a process events travel at once, without the server. Those who listen are known from a small table
(`conveyor_listeners`), in which each says what it wants; before anything is sent, the sender looks there,
and while no other process wants it nothing is sent: a `notify` makes commits wait for one another on the
whole server.
What is wanted goes out at once if nothing went out just before, else with all that has gathered for
20 ms, in one transaction of its own on a connection of the pool.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from conveyor.core.errors import StoreError
from conveyor.core.events import Event, Gap, JobWaiting, LocalBus
from conveyor.store.pg.connections import Connections
from conveyor.store.pg.listener import Listener
from conveyor.store.pg.notify_payload import Assembler, channel, chunks
from conveyor.store.pg.options import Options
from conveyor.store.pg.statements import Session
from conveyor.store.sql import Wanted, decoded_wants, encoded_wants

log: Final = logging.getLogger("conveyor.store.pg")

#: The shortest time between two transactions that notify, in seconds.
_APART: Final = 0.02
#: For how long a listener is known that does not register again, in seconds; it does so at each tick.
_KNOWN: Final = 60.0
#: How long a subscriber waits for the connection, and closing for what is still to be sent, in seconds.
_TIMEOUT: Final = 3.0
#: Events that have not gone out yet; when there are more, the newest are lost.
_CAPACITY: Final = 10_000
#: Waiting jobs of one queue that workers receive one by one, in one transaction.
_SINGLY: Final = 20
#: The sender of what leaves with a user's own transaction: every process receives it, this one too.
_TRANSACTION: Final = "-"


class PgBus:
    """The bus of one store: `LocalBus` within the process, notifications between processes."""

    def __init__(self, options: Options, connections: Connections) -> None:
        """Prepare; nothing is done before `open`."""
        self._options = options
        self._connections = connections
        self._local = LocalBus()
        self._local.close()
        self._channel = channel(options.schema)
        self._handle = uuid4().hex
        self._incoming = Assembler()
        self._opened = False
        self._listener: Listener | None = None
        self._registered: dict[str, frozenset[type[Event]]] | None = None
        self._registering = asyncio.Lock()
        self._outgoing: list[Event] = []
        self._lost: Counter[str] = Counter()
        self._sent = 0
        self._last = 0.0
        self._sending: asyncio.Task[None] | None = None
        self._logged: set[type[Exception]] = set()
        self._background_tasks: set[asyncio.Task[None]] = set()

    # ---------------------------------------------------------------- with the store

    async def open(self) -> None:
        """Begin to pass events on."""
        self._handle = uuid4().hex
        self._registering = asyncio.Lock()
        self._registered, self._last = None, 0.0
        self._local.reopen()
        self._opened = True

    async def close(self) -> None:
        """End every subscription; called while there are still connections."""
        if not self._opened:
            return
        self._opened = False
        self._local.close()
        listener, self._listener = self._listener, None
        tasks = {
            task for task in (self._sending, *self._background_tasks) if task is not None and not task.done()
        }
        try:
            if tasks:  # what has been published on the way out is still sent
                await asyncio.wait(tasks, timeout=_TIMEOUT)
        finally:
            for task in tasks:
                task.cancel()
            if listener is not None:
                await listener.stop()
        if self._registered is not None:
            self._registered = None
            with suppress(StoreError):
                await self._connections.call(self._stop_listening, single=True)
        self._outgoing.clear()
        self._lost.clear()
        self._incoming.clear()

    # ---------------------------------------------------------------- publishing

    async def publish(self, events: Sequence[Event]) -> None:
        """Pass events on: to this process's subscribers at once, to others within about 20 ms."""
        self._local.deliver(events)
        if not (events and self._opened and self._options.notify):
            return
        left = max(0, _CAPACITY - len(self._outgoing))
        self._outgoing += events[:left]
        self._lost.update(event.queue_name for event in events[left:])
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="conveyor-notify")

    async def _send(self) -> None:
        """Send until there is nothing left to send."""
        loop = asyncio.get_running_loop()
        while self._outgoing:
            await asyncio.sleep(max(0.0, self._last + _APART - loop.time()))
            self._last = loop.time()
            events, self._outgoing = self._outgoing, []
            lost, self._lost = self._lost, Counter()
            now = datetime.now(UTC)
            events += [Gap(queue_name=queue, at=now, missed=missed) for queue, missed in lost.items()]
            try:
                await self._notify(events)
            except StoreError as error:
                log.debug("%d events were not sent: %s", len(events), error)
            except Exception as error:
                level = logging.DEBUG if type(error) in self._logged else logging.ERROR
                self._logged.add(type(error))
                log.log(level, "%d events were not sent", len(events), exc_info=error)

    async def _notify(self, events: Sequence[Event]) -> None:
        async def look(session: Session) -> list[Wanted]:
            return await _listeners(session, self._handle)

        wanted = _thinned(events, await self._connections.call(look, single=True, reads=True))
        if not wanted:
            return
        self._sent += 1
        payloads = chunks(self._handle, self._sent, wanted)

        async def notify(session: Session) -> None:
            await session.ask("notify", channel=self._channel, chunks=payloads)

        await self._connections.call(notify, single=True)

    # ---------------------------------------------------------------- subscribing

    @asynccontextmanager
    async def subscribe(
        self, queues: Collection[str], *, kinds: Collection[type[Event]] | None = None
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Receive the events of these queues, from entering on."""
        try:
            async with self._local.subscribe(queues, kinds=kinds) as events:
                if self._opened and self._options.notify:
                    await self._listen()
                yield events
        finally:
            if self._registered is not None and self._opened:
                self._run_later(self._register)

    async def _listen(self) -> None:
        """Be connected and registered as a listener before this returns, unless the server is away."""
        if self._listener is None:
            self._listener = Listener(self._options, self._channel, self, self._send_self_test)
            self._listener.start()
        listener = self._listener
        with suppress(TimeoutError):
            # Not `wait_for`: in Python 3.11 it loses a cancellation that comes with the answer.
            async with asyncio.timeout(_TIMEOUT):
                await listener.known.wait()
        if listener.known.is_set() and not listener.no_notifications:
            await self._register()

    async def _register(self, *, again: bool = False) -> None:
        """Write down for the other processes what this one wants, if it has changed."""
        async with self._registering:
            wanted = self._local.wanted
            if not self._opened or (wanted == (self._registered or {}) and not again):
                return
            step = self._registration(wanted) if wanted else self._stop_listening
            try:
                await self._connections.call(step, single=True)
            except StoreError as error:
                log.warning("other processes do not know that this one listens, for now: %s", error)
                return
            self._registered = wanted or None

    def _registration(self, wanted: Mapping[str, frozenset[type[Event]]]) -> Callable[[Session], Any]:
        text = encoded_wants(wanted)

        async def listen(session: Session) -> None:
            await session.run("register_listener", handle=self._handle, wanted=text, seconds=_KNOWN)

        return listen

    async def _stop_listening(self, session: Session) -> None:
        await session.run("remove_listener", handle=self._handle)

    def _run_later(self, task: Callable[[], Awaitable[None]]) -> None:
        # A moment later: an event loop that ends now, with its subscribers, would leave the task pending.
        # Pinned by lifecycle.py::test_a_store_that_nobody_closed_ends_without_a_word.
        asyncio.get_running_loop().call_later(_APART, self._start, task)

    def _start(self, task: Callable[[], Awaitable[None]]) -> None:
        if not self._opened:
            return
        running = asyncio.create_task(_logged(task))
        self._background_tasks.add(running)
        running.add_done_callback(self._background_tasks.discard)

    # ---------------------------------------------------------------- what the listener calls

    async def _send_self_test(self) -> str:
        """Notify this process itself, by way of the pool."""
        payload = f"{self._handle}:self-test:{uuid4().hex}"

        async def notify(session: Session) -> None:
            await session.ask("notify", channel=self._channel, chunks=[payload])

        await self._connections.call(notify, single=True)
        return payload

    def receive(self, payload: str) -> None:
        """Deliver what others have sent."""
        self._local.deliver(self._incoming.add(payload, ignored=self._handle))

    async def reconnected(self) -> None:
        """Have every subscriber read the store: what was missed is not known."""
        self._incoming.clear()
        await self._register(again=True)
        now = datetime.now(UTC)
        self._local.deliver([Gap(queue_name=queue, at=now, missed=1) for queue in self._local.wanted])

    async def tick(self) -> None:
        """Register again, so that this process stays known."""
        await self._register(again=True)


async def _logged(task: Callable[[], Awaitable[None]]) -> None:
    """Run what no caller waits for, and log what goes wrong."""
    try:
        await task()
    except Exception:
        log.exception("what this process listens to could not be registered")


async def notify_on_commit(session: Session, events: Sequence[Event]) -> None:
    """Publish events when, and only when, the transaction of `session` commits; to this process too."""
    wanted = _thinned(events, await _listeners(session, _TRANSACTION))
    if wanted:
        sender = f"{_TRANSACTION}{uuid4().hex}"
        await session.ask(
            "notify", channel=channel(session.statements.schema), chunks=chunks(sender, 0, wanted)
        )


async def _listeners(session: Session, handle: str) -> list[Wanted]:
    found: list[Wanted] = []
    for (text,) in await session.ask("find_listeners", handle=handle):
        with suppress(ValueError):  # not of this release, or not of ours at all
            found.append(decoded_wants(text))
    return found


def _thinned(events: Iterable[Event], listeners: Sequence[Wanted]) -> list[Event]:
    """The events that a listener wants; of a storm for workers only the first, for a gap wakes them too."""
    found: list[Event] = []
    waiting: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    workers_only: dict[str, bool] = {}
    for event in events:
        if not any(_wants(listener, event) for listener in listeners):
            continue
        queue = event.queue_name
        if isinstance(event, JobWaiting):
            waiting[queue] += 1
            if queue not in workers_only:
                workers_only[queue] = all(_takes_gaps(listener, queue) for listener in listeners)
            if waiting[queue] > _SINGLY and workers_only[queue]:
                skipped[queue] += 1
                continue
        found.append(event)
    now = datetime.now(UTC)
    return found + [Gap(queue_name=queue, at=now, missed=count) for queue, count in skipped.items()]


def _wants(listener: Wanted, event: Event) -> bool:
    kinds = listener.get(event.queue_name, ())
    return kinds is None or type(event).__name__ in kinds or (isinstance(event, Gap) and bool(kinds))


def _takes_gaps(listener: Wanted, queue: str) -> bool:
    """Whether it chose its kinds, and a gap is among them if waiting jobs are."""
    kinds = listener.get(queue, ())
    return kinds is not None and (JobWaiting.__name__ not in kinds or Gap.__name__ in kinds)
