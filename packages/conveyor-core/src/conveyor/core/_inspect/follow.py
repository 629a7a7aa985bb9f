"""Following jobs and queues from outside: events, and the outcome of one job.

Events are hints. A follower of a job subscribes, then reads it, then reads it again every few
seconds, and so cannot hang on an event that was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, Self

from conveyor.core import clock as time
from conveyor.core._jobs.lookup import read
from conveyor.core._jobs.report import Failure, Report
from conveyor.core.errors import (
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobRemovedError,
    StoreClosedError,
    StoreError,
    StoreForkedError,
    WaitTimeoutError,
)
from conveyor.core.events import (
    Event,
    Gap,
    JobCancelled,
    JobCompleted,
    JobEvent,
    JobFailed,
    JobRemoved,
    QueueObliterated,
)
from conveyor.core.store import JobState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from datetime import timedelta

    from conveyor.core.clock import Clock
    from conveyor.core.store import JobKey, JobRecord, Store

_log: Final = logging.getLogger("conveyor.queue")

#: How often a job is read again while no event of it comes.
REREAD: Final = 2.0
#: Events taken off a subscription ahead of their reader.
_ROOM: Final = 100
#: A follower of a job reads it again when one of these comes.
_ABOUT_ALL: Final = frozenset({Gap, QueueObliterated})
_ENDS: Final = frozenset({JobCompleted, JobFailed, JobCancelled, JobRemoved})


async def outcome(store: Store, key: JobKey, clock: Clock, timeout: timedelta | None) -> object:
    """Wait until the job has finished, and return its result.

    Raises JobFailedError, JobCancelledError, JobRemovedError, or WaitTimeoutError, which leaves the job as it
    is.
    """
    deadline = None if timeout is None else clock.monotonic() + timeout.total_seconds()
    async with (
        store.bus.subscribe({key.queue}, kinds=_ENDS | _ABOUT_ALL) as events,
        _Reader(events) as reader,
    ):
        while True:
            record = await read(store, key)
            if record is None:
                raise JobRemovedError(key.id)
            if record.state.terminal:
                return _result(record)
            left = None if deadline is None else deadline - clock.monotonic()
            if timeout is not None and left is not None and left <= 0:
                raise WaitTimeoutError(key.id, timeout)
            await reader.wait_for(key.id, clock, REREAD if left is None else min(REREAD, left))


async def follow(
    store: Store, key: JobKey, clock: Clock, closed: asyncio.Event, *, known: bool = False
) -> AsyncIterator[Event]:
    """The events of one job, until it has finished or been removed, or `closed` is set.

    Raises JobNotFoundError if there is no such job to begin with, unless it is `known` that there was.
    """
    async with store.bus.subscribe({key.queue}) as events, _Reader(events) as reader:
        while not closed.is_set():
            record = await read(store, key)
            gone = False
            received = reader.take(key.id)
            known = known or record is not None or any(isinstance(event, JobEvent) for event in received)
            if not known:
                raise JobNotFoundError(key.queue, key.id)
            for event in received:
                if isinstance(event, QueueObliterated):
                    gone = True
                    continue
                yield event
                if type(event) in _ENDS:
                    return
            if gone and record is not None:
                continue  # it was read before its queue went
            if record is None or record.state.terminal:
                yield _end(record, key, clock)
                return
            await reader.wait_for(key.id, clock, REREAD, closed)


async def refuse_closed(store: Store, queue: str) -> None:
    """Raise StoreClosedError or StoreForkedError if the store cannot be used here, however long one waits.

    Any other trouble may pass, and is nothing to give up for.
    """
    try:
        await store.paused(queue)
    except (StoreClosedError, StoreForkedError):
        raise
    except StoreError as error:
        _log.debug("whether the store is open cannot be seen now: %s", error)


async def all_of(store: Store, queue: str, closed: asyncio.Event) -> AsyncIterator[Event]:
    """Every event of a queue, until `closed` is set or the store is closed.

    Raises StoreClosedError if it is not open to begin with.
    """
    async with store.bus.subscribe({queue}) as events, _Reader(events) as reader:
        await refuse_closed(store, queue)
        while True:
            for event in reader.take(None):
                yield event
            if closed.is_set() or reader.ended:
                return
            await reader.wait(closed)


class _Reader:
    """Takes events off a subscription as they come, so that they can be awaited with a time limit."""

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._events = events
        self._received: list[Event] = []
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self.ended = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()

    async def _read_on(self) -> None:
        try:
            async for event in self._events:
                self._received.append(event)
                self._arrived.set()
                # The rest is left to the subscription, which has a bound and puts a gap in their place.
                while len(self._received) >= _ROOM:
                    self._taken.clear()
                    await self._taken.wait()
        except StoreError as error:
            _log.warning("no more events are received: %s", error)
        except Exception:  # noqa: BLE001 - logged, and those who wait read the store
            _log.exception("no more events are received, by a bug of the store's bus")
        finally:
            self.ended = True
            self._arrived.set()

    def take(self, job_id: str | None) -> list[Event]:
        """The events received (of one job, and of all jobs together) since they were last taken."""
        received = self._empty()
        if job_id is None:
            return received
        return [
            e for e in received if type(e) in _ABOUT_ALL or (isinstance(e, JobEvent) and e.job_id == job_id)
        ]

    async def wait_for(
        self, job_id: str, clock: Clock, seconds: float, closed: asyncio.Event | None = None
    ) -> None:
        """Wait for an event about the job, for that long at most."""
        limit = clock.monotonic() + seconds
        while True:
            if any(type(e) in _ABOUT_ALL or getattr(e, "job_id", None) == job_id for e in self._received):
                if closed is None:
                    self._empty()
                return
            self._empty()
            self._arrived.clear()
            left = limit - clock.monotonic()
            if left <= 0 or (closed is not None and closed.is_set()):
                return
            if self.ended:
                await time.sleep(clock, left)
                return
            with _also(closed, self._arrived):
                await time.wait(clock, self._arrived, left)

    def _empty(self) -> list[Event]:
        received, self._received = self._received, []
        self._taken.set()
        return received

    async def wait(self, closed: asyncio.Event) -> None:
        """Wait for any event."""
        if not self._received and not self.ended:
            self._arrived.clear()
            with _also(closed, self._arrived):
                await self._arrived.wait()


@contextlib.contextmanager
def _also(first: asyncio.Event | None, then: asyncio.Event) -> Iterator[None]:
    """While inside, setting the first event sets the second."""
    if first is None:
        yield
        return
    waiter = asyncio.ensure_future(first.wait())
    waiter.add_done_callback(lambda done: None if done.cancelled() else then.set())
    try:
        yield
    finally:
        waiter.cancel()


def _result(record: JobRecord) -> object:
    try:
        report = Report.of(record)
    except ValueError as error:
        raise JobFailedError(record.id, f"its report cannot be read: {error}") from None
    match record.state:
        case JobState.COMPLETED:
            return report.result
        case JobState.CANCELLED:
            raise JobCancelledError(record.id)
        case _:
            failure = report.error or Failure(type="Error", message="unknown")
            raise JobFailedError(record.id, failure.message, failure.type)


def _end(record: JobRecord | None, key: JobKey, clock: Clock) -> Event:
    """The event of a job's end, made from what is stored of it."""
    at = clock.now()
    if record is None:
        return JobRemoved(queue_name=key.queue, job_id=key.id, at=at)
    match record.state:
        case JobState.COMPLETED:
            return JobCompleted(queue_name=key.queue, job_id=key.id, at=record.finished_at or at)
        case JobState.CANCELLED:
            return JobCancelled(queue_name=key.queue, job_id=key.id, at=record.finished_at or at)
        case _:
            try:
                _result(record)
                reason = "unknown"
            except JobFailedError as error:
                reason = error.reason
            return JobFailed(queue_name=key.queue, job_id=key.id, at=record.finished_at or at, reason=reason)
