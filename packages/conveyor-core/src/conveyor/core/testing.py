"""For tests of programs that use Conveyor: time by hand, jobs in any state, a store that fails on order.

clock = ManualClock()
store = ClockedStore(MemoryStore(), clock)     # the store lives by the clock, too
queue = Queue("emails", store, clock=clock)
await queue.add("welcome", {"to": "ada"}, delay="1h")
await clock.advance("1h")
await run_until_idle(Worker("emails", send, store, clock=clock))
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from conveyor.core._argument_checks import checked_clock, checked_store
from conveyor.core._jobs.ids import new_job_id, new_token
from conveyor.core._jobs.payload import encode
from conveyor.core._jobs.report import Failure, Report
from conveyor.core._manual_clock import ManualClock
from conveyor.core.durations import instant
from conveyor.core.errors import InvalidOptionError
from conveyor.core.job_options import checked_name, flag, whole
from conveyor.core.store import Claim, JobKey, JobRecord, JobState, Outcome, Store, Where
from conveyor.core.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from types import TracebackType

    from conveyor.core.events import Bus
    from conveyor.core.store import (
        Advanced,
        Beat,
        Change,
        Claimed,
        Deleted,
        Feature,
        Inserted,
        Order,
        Pause,
        Renewed,
        Settled,
    )

__all__ = [
    "ClockedStore",
    "FaultyStore",
    "ManualClock",
    "WrappedStore",
    "make_job",
    "make_record",
    "run_maintenance",
    "run_until_idle",
]

T = TypeVar("T")

_METHODS: Final = frozenset(name for name in dir(Store) if not name.startswith("_")) - {"features", "bus"}
_FIELDS: Final = frozenset(field.name for field in fields(JobRecord))


class WrappedStore:
    """A store that passes every call on to another one: the base of stores that change one thing."""

    def __init__(self, store: Store) -> None:
        """Wrap a store."""
        self.wrapped = checked_store(store)

    @property
    def features(self) -> frozenset[Feature]:
        """The wrapped store's."""
        return self.wrapped.features

    @property
    def bus(self) -> Bus:
        """The wrapped store's."""
        return self.wrapped.bus

    async def _pass_on(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self.wrapped, method)(*args, **kwargs)

    async def open(self) -> None:
        """As the contract has it."""
        await self._pass_on("open")

    async def close(self) -> None:
        """As the contract has it."""
        await self._pass_on("close")

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: datetime | None = None
    ) -> Sequence[Inserted]:
        """As the contract has it."""
        found: Sequence[Inserted] = await self._pass_on("insert", jobs, new_only=new_only, now=now)
        return found

    async def claim(self, request: Claim, *, now: datetime | None = None) -> Claimed:
        """As the contract has it."""
        found: Claimed = await self._pass_on("claim", request, now=now)
        return found

    async def take(
        self,
        queue: str,
        ids: Collection[str],
        *,
        token: str,
        lease: timedelta,
        worker: str | None = None,
        started: bool = True,
        now: datetime | None = None,
    ) -> Claimed:
        """As the contract has it."""
        more = {"token": token, "lease": lease, "worker": worker, "started": started}
        found: Claimed = await self._pass_on("take", queue, ids, now=now, **more)
        return found

    async def renew(self, beats: Sequence[Beat], lease: timedelta, *, now: datetime | None = None) -> Renewed:
        """As the contract has it."""
        found: Renewed = await self._pass_on("renew", beats, lease, now=now)
        return found

    async def settle(self, outcomes: Sequence[Outcome], *, now: datetime | None = None) -> Settled:
        """As the contract has it."""
        found: Settled = await self._pass_on("settle", outcomes, now=now)
        return found

    async def advance(
        self, queues: Collection[str], *, limit: int = 1000, now: datetime | None = None
    ) -> Advanced:
        """As the contract has it."""
        found: Advanced = await self._pass_on("advance", queues, limit=limit, now=now)
        return found

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order | None = None,
        now: datetime | None = None,
    ) -> Sequence[JobRecord]:
        """As the contract has it."""
        more = {} if order is None else {"order": order}
        found: Sequence[JobRecord] = await self._pass_on(
            "find", where, limit=limit, after=after, now=now, **more
        )
        return found

    async def count(
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: datetime | None = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        """As the contract has it."""
        found: Mapping[tuple[str | None, JobState], int] = await self._pass_on(
            "count", where, by_group=by_group, most=most, now=now
        )
        return found

    async def update(self, where: Where, change: Change, *, now: datetime | None = None) -> frozenset[JobKey]:
        """As the contract has it."""
        found: frozenset[JobKey] = await self._pass_on("update", where, change, now=now)
        return found

    async def delete(self, where: Where, *, limit: int, now: datetime | None = None) -> Deleted:
        """As the contract has it."""
        found: Deleted = await self._pass_on("delete", where, limit=limit, now=now)
        return found

    async def pause(
        self, queue: str, what: Pause, for_: timedelta | None = None, *, now: datetime | None = None
    ) -> None:
        """As the contract has it."""
        await self._pass_on("pause", queue, what, for_, now=now)

    async def resume(self, queue: str, what: Pause, *, now: datetime | None = None) -> None:
        """As the contract has it."""
        await self._pass_on("resume", queue, what, now=now)

    async def paused(self, queue: str, *, now: datetime | None = None) -> Mapping[Pause, datetime | None]:
        """As the contract has it."""
        found: Mapping[Pause, datetime | None] = await self._pass_on("paused", queue, now=now)
        return found

    async def forget(self, queue: str, *, now: datetime | None = None) -> Sequence[JobKey]:
        """As the contract has it."""
        found: Sequence[JobKey] = await self._pass_on("forget", queue, now=now)
        return found

    @asynccontextmanager
    async def using(self, connection: Any = None) -> AsyncIterator[Store]:
        """As the contract has it, with the calls of the block passed on in the same way."""
        async with self.wrapped.using(connection) as inside:
            within = copy(self)
            within.wrapped = inside
            yield within

    async def __aenter__(self) -> Any:
        """Open the store."""
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the store."""
        await self.close()


class ClockedStore(WrappedStore):
    """A store whose time is a clock's: it passes `now` where its caller does not."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        """Let `store` live by `clock`."""
        super().__init__(store)
        self._clock = checked_clock(clock)

    async def _pass_on(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if "now" in kwargs and kwargs["now"] is None:
            kwargs["now"] = self._clock.now()
        return await super()._pass_on(method, *args, **kwargs)


class FaultyStore(WrappedStore):
    """A store that fails on order.

    `faulty.fail("settle", StoreUnavailableError("gone"), times=2)` fails the next two calls before they do
    anything; with `after=True` they do their work first, as when the line is cut before the answer comes.
    """

    def __init__(self, store: Store) -> None:
        """Wrap a store that works."""
        super().__init__(store)
        self._faults: dict[str, deque[tuple[BaseException, bool]]] = {}
        #: The methods called so far, in order.
        self.calls: list[str] = []

    def fail(self, method: str, error: BaseException, *, times: int = 1, after: bool = False) -> None:
        """Let the next calls of a method raise.

        Raises InvalidOptionError for what is no method of a store, or no error.
        """
        if not isinstance(method, str) or method not in _METHODS:
            raise InvalidOptionError("method", method, f"one of {', '.join(sorted(_METHODS))}")
        if not isinstance(error, BaseException):
            raise InvalidOptionError(
                "error", error, 'give what is to be raised: StoreUnavailableError("gone")'
            )
        whole(times, "times", least=1)
        flag(after, "after")
        self._faults.setdefault(method, deque()).extend([(error, after)] * times)

    async def _pass_on(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(method)
        faults = self._faults.get(method)
        if not faults:
            return await super()._pass_on(method, *args, **kwargs)
        error, after = faults.popleft()
        if after:
            await super()._pass_on(method, *args, **kwargs)
        raise error


async def run_until_idle(worker: Worker[Any]) -> None:
    """Run every job that a worker (not started) can run now, then return."""
    if not isinstance(worker, Worker):
        raise InvalidOptionError("worker", worker, "give a worker: Worker(queue_name, handler, store)")
    await worker.run_until_idle()


async def run_maintenance(worker: Worker[Any]) -> None:
    """Do once what a worker (not started) does every `maintenance_interval`: remove jobs kept long enough."""
    if not isinstance(worker, Worker):
        raise InvalidOptionError("worker", worker, "give a worker: Worker(queue_name, handler, store)")
    await worker._parts.maintenance.tick()  # noqa: SLF001 - for tests only, and no method that users would meet


def make_record(queue: str = "q", name: str = "job", data: object = None, **fields: Any) -> JobRecord:
    """A record to insert, with whatever of it matters to the test.

    Raises InvalidOptionError for a field that a record does not have, and for a name that a job cannot have.
    """
    for field in fields.keys() - _FIELDS:
        raise InvalidOptionError(field, fields[field], f"a record has {', '.join(sorted(_FIELDS))}")
    checked_name(queue, "queue")
    checked_name(name, "name")
    given: dict[str, Any] = {"queue": queue, "id": new_job_id(), "name": name, "payload": encode(data)}
    return JobRecord(**given | fields)


async def make_job(
    store: Store,
    state: JobState = JobState.WAITING,
    *,
    queue: str = "q",
    name: str = "job",
    data: object = None,
    result: object = None,
    error: BaseException | None = None,
    now: datetime | None = None,
    **fields: Any,
) -> JobRecord:
    """A job that is stored, and in this state, by the way that jobs get there.

    Raises InvalidOptionError for what cannot be used, as `make_record` does.
    """
    checked_store(store)
    if not isinstance(state, JobState):
        raise InvalidOptionError("state", state, f"one of {', '.join(map(str, JobState))}, as a JobState")
    if error is not None and not isinstance(error, BaseException):
        raise InvalidOptionError("error", error, "give an exception")
    if now is not None:
        instant(now, "now")
    if state is JobState.DELAYED:
        fields.setdefault("delay", timedelta(hours=1))
    record = make_record(queue, name, data, **fields)
    records = [record]
    if state is JobState.WAITING_CHILDREN:
        records.insert(0, make_record(queue, "child", parent=record.key))
    await store.insert(records, now=now)
    if state is JobState.ACTIVE or state.terminal:
        claimed = await store.take(
            queue, [record.id], token=new_token(), lease=timedelta(seconds=30), worker="make_job", now=now
        )
        [held] = claimed.jobs
        failure = Failure.of(error or RuntimeError("made to fail"))
        match state:
            case JobState.COMPLETED:
                await store.settle(
                    [Outcome.completed(held, Report(result=result).encode(final=True))], now=now
                )
            case JobState.FAILED:
                report = Report(error=failure, failures=1)
                await store.settle([Outcome.failed(held, report.encode(final=True))], now=now)
            case JobState.CANCELLED:
                await store.settle([Outcome.cancelled(held, Report().encode(final=True))], now=now)
    [found] = await store.find(Where(queue=queue, ids=frozenset({record.id})), limit=1, now=now)
    return found
