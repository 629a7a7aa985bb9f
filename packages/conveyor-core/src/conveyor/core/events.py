"""What happens to jobs and queues, as events; and how events travel.

Events are hints: one that is lost costs time, never a job. Nothing decides on an event
alone; it reads the store.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from pydantic_core import from_json, to_json

from conveyor.core import _documents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in a queue, at an instant by the clock of the process that publishes it."""

    queue_name: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent(Event):
    """Something that happened to a job."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWaiting(JobEvent):
    """The job can be claimed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWaitingChildren(JobEvent):
    """The job waits for its children."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDelayed(JobEvent):
    """The job runs later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobActive(JobEvent):
    """A worker starts to run the job."""

    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress(JobEvent):
    """The handler said how far it is."""

    progress: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCompleted(JobEvent):
    """The job's outcome was accepted: it is completed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRetrying(JobEvent):
    """A run failed, and there will be another one."""

    reason: str
    attempts_made: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed(JobEvent):
    """The job has failed for good."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStalled(JobEvent):
    """The job's lease ran out and it was taken from its worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCancelled(JobEvent):
    """The job was cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested(JobEvent):
    """The job, which runs, is asked to stop; `JobCancelled` follows when it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRemoved(JobEvent):
    """The job was removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePaused(Event):
    """The queue, or one name or group of it, was paused."""

    job_name: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueResumed(Event):
    """The queue, or one name or group of it, was resumed."""

    job_name: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDrained(Event):
    """The queue's waiting jobs were removed by `drain()`; of one group only, if `group` is given."""

    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueObliterated(Event):
    """Every trace of the queue was removed by `obliterate()`; there is no event for each of its jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap(Event):
    """This subscriber was too slow, and missed that many events."""

    missed: int


EVENTS: Final[dict[str, type[Event]]] = {
    kind.__name__: kind
    for kind in (
        JobWaiting,
        JobWaitingChildren,
        JobDelayed,
        JobActive,
        JobProgress,
        JobCompleted,
        JobRetrying,
        JobFailed,
        JobStalled,
        JobCancelled,
        CancelRequested,
        JobRemoved,
        QueuePaused,
        QueueResumed,
        QueueDrained,
        QueueObliterated,
        Gap,
    )
}


class Bus(Protocol):
    """How events travel between those who use one store."""

    async def publish(self, events: Sequence[Event]) -> None:
        """Pass events on to every subscriber, in this process and in others.

        A hint: it never raises, and never waits for a subscriber. Delivery is not promised. What is published
        by one handle, in one call or in calls one after another, arrives in that order, if it arrives; across
        handles no order is promised.
        """
        ...

    def subscribe(
        self, queues: Collection[str], *, kinds: Collection[type[Event]] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Receive the events of these queues, of these kinds (None: all), from entering on.

        When it is entered, every other handle's next `publish` knows of it: a bus that looks up who listens
        keeps no older answer. Nothing from before arrives.

        The iterator ends when the store is closed. Each subscriber has room for a bounded number of events;
        when it is full the oldest are dropped, and a `Gap` says how many.
        """
        ...


class LocalBus:
    """A bus within one process and one event loop; stores build theirs on it."""

    def __init__(self, *, room: int = 10_000) -> None:
        """Give each subscriber room for `room` events that it has not taken yet."""
        self._room = room
        self._subscribers: dict[str, list[_Subscriber]] = {}
        self._closed = False

    async def publish(self, events: Sequence[Event]) -> None:
        """Pass events on to this process's subscribers."""
        self.deliver(events)

    def deliver(self, events: Iterable[Event]) -> None:
        """Pass events on, from the event loop's own thread."""
        if not self._subscribers:
            return
        for event in events:
            for subscriber in self._subscribers.get(event.queue_name, ()):
                subscriber.offer(event)

    @property
    def wanted(self) -> dict[str, frozenset[type[Event]]]:
        """The kinds of events that this process subscribes to, by queue."""
        return {
            queue: frozenset[type[Event]]().union(
                *(s.kinds if s.kinds is not None else EVENTS.values() for s in subscribers)
            )
            for queue, subscribers in self._subscribers.items()
        }

    @asynccontextmanager
    async def subscribe(
        self, queues: Collection[str], *, kinds: Collection[type[Event]] | None = None
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Receive the events of these queues, from entering on."""
        subscriber = _Subscriber(self._room, None if kinds is None else frozenset(kinds))
        if self._closed:
            subscriber.end()
        for queue in queues:
            self._subscribers.setdefault(queue, []).append(subscriber)
        try:
            yield subscriber
        finally:
            for queue in queues:
                remaining = self._subscribers.get(queue, [])
                if subscriber in remaining:
                    remaining.remove(subscriber)
                if not remaining:
                    self._subscribers.pop(queue, None)
            subscriber.end()

    def close(self) -> None:
        """End every subscription, those to come included."""
        self._closed = True
        for subscribers in self._subscribers.values():
            for subscriber in subscribers:
                subscriber.end()

    def reopen(self) -> None:
        """Take subscriptions again, after a `close`."""
        self._closed = False


class _Subscriber:
    """One subscriber's events that it has not taken yet: an iterator."""

    def __init__(self, room: int, kinds: frozenset[type[Event]] | None) -> None:
        self.kinds = kinds
        self._events: deque[Event] = deque()
        self._room = room
        self._missed = 0
        self._ended = False
        self._ready = asyncio.Event()

    def offer(self, event: Event) -> None:
        if self.kinds is not None and type(event) not in self.kinds:
            return
        if len(self._events) >= self._room:
            self._events.popleft()
            self._missed += 1
        self._events.append(event)
        self._ready.set()

    def end(self) -> None:
        self._ended = True
        self._ready.set()

    def __aiter__(self) -> _Subscriber:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        if self._missed:
            missed, self._missed = self._missed, 0
            oldest = self._events[0]
            return Gap(queue_name=oldest.queue_name, at=oldest.at, missed=missed)
        return self._events.popleft()


def encode(events: Iterable[Event]) -> str:
    """Events as JSON text, for a bus that leaves the process."""
    return to_json([(type(event).__name__, event) for event in events]).decode()


def decode(text: str) -> list[Event]:
    """The events of `encode`d text. What this release does not know is left out."""
    found: list[Event] = []
    try:
        entries = from_json(text)
    except ValueError:
        return found
    entry: Any
    for entry in entries if isinstance(entries, list) else ():
        match entry:
            case [str(name), dict(details)] if name in EVENTS:
                try:
                    found.append(_documents.from_plain(EVENTS[name], details))
                except ValueError:
                    continue
    return found
