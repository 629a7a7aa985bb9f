"""What `Store.using` gives: a store within a block, in which jobs are added and read.

`View` is for stores that have a `using` of their own, within a transaction of the user's. For all others
there is `buffered`, which keeps what is added until the block ends.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

from conveyor.core.errors import StoreError, UnsupportedFeatureError
from conveyor.core.events import Bus, Event
from conveyor.core.store.contract import StoreCalls
from conveyor.core.store.insertion import InitialState, check_groups, group_growth, plan_insert
from conveyor.core.store.records import JobKey, JobRecord, JobState
from conveyor.core.store.values import Feature, Inserted, Order, Where

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["View", "buffered"]

#: The numbers of jobs that are not stored yet: behind all that are, the later the greater.
_NUMBERS: Final = itertools.count(1 << 62)
#: The field of a job that needs a feature.
_NEEDS: Final = {
    "unique_key": Feature.UNIQUE_KEYS,
    "group": Feature.GROUPS,
    "parent": Feature.FLOWS,
}
_IN_GROUP: Final = frozenset({JobState.WAITING, JobState.DELAYED})


def _once_ended(name: str) -> Any:
    """A method of the contract that is refused until the block has ended."""

    async def call(self: View, *args: Any, **kwargs: Any) -> Any:
        if not self.ended:
            raise StoreError(
                "within a `using` block jobs can be added and read, nothing else; use the store itself"
            )
        return await getattr(self.store, name)(*args, **kwargs)

    return call


class View(StoreCalls):
    """A store within a `using` block, for jobs to be added and read; anything else is refused there.

    Once the block has `ended`, all calls but `insert` go to the store itself, so that a job that was returned
    in it can still be followed. A subclass says what the four methods `…_within` do.
    """

    def __init__(self, store: StoreCalls) -> None:
        """Begin a block."""
        self.store: Final = store
        self.ended = False
        self._bus: Final = _ViewBus(self)

    async def insert_within(
        self, jobs: Sequence[JobRecord], *, new_only: bool, now: datetime | None
    ) -> Sequence[Inserted]:
        """Add jobs as part of the block; the rest is as for `Store.insert`."""
        raise NotImplementedError

    async def find_within(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None,
        order: Order,
        now: datetime | None,
    ) -> Sequence[JobRecord]:
        """Find jobs, those of the block among them."""
        raise NotImplementedError

    async def count_within(
        self, where: Where, *, by_group: bool, most: int | None, now: datetime | None
    ) -> Mapping[tuple[str | None, JobState], int]:
        """Count jobs, those of the block among them."""
        raise NotImplementedError

    async def publish_within(self, events: Sequence[Event]) -> None:
        """Have events published if, and when, the jobs of the block become visible."""
        raise NotImplementedError

    @property
    def features(self) -> frozenset[Feature]:
        """The store's."""
        return self.store.features

    @property
    def bus(self) -> Bus:
        """Publishes when the jobs of the block become visible; what others publish is the store's."""
        return self._bus

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: datetime | None = None
    ) -> Sequence[Inserted]:
        """As the contract has it. Raises StoreError once the block has ended."""
        self.refuse_ended()
        return await self.insert_within(tuple(jobs), new_only=new_only, now=now)

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: datetime | None = None,
    ) -> Sequence[JobRecord]:
        """As the contract has it."""
        call = self.store.find if self.ended else self.find_within
        return await call(where, limit=limit, after=after, order=order, now=now)

    async def count(
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: datetime | None = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        """As the contract has it."""
        call = self.store.count if self.ended else self.count_within
        return await call(where, by_group=by_group, most=most, now=now)

    def using(self, connection: Any = None) -> AbstractAsyncContextManager[View]:
        """A block within the block."""
        del connection
        return buffered(self)

    async def __aenter__(self) -> Self:
        """Open the store, once the block has ended."""
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the store, once the block has ended."""
        await self.close()

    open = _once_ended("open")
    close = _once_ended("close")
    claim = _once_ended("claim")
    take = _once_ended("take")
    renew = _once_ended("renew")
    settle = _once_ended("settle")
    advance = _once_ended("advance")
    update = _once_ended("update")
    delete = _once_ended("delete")
    pause = _once_ended("pause")
    resume = _once_ended("resume")
    paused = _once_ended("paused")
    forget = _once_ended("forget")

    def refuse_ended(self) -> None:
        """Raise StoreError if the block has ended."""
        if self.ended:
            raise StoreError("the `using` block has ended: add jobs within it, or to the store itself")


class _ViewBus:
    """The bus of a store within a block."""

    def __init__(self, view: View) -> None:
        self._view = view

    async def publish(self, events: Sequence[Event]) -> None:
        view = self._view
        await (view.store.bus.publish(events) if view.ended else view.publish_within(events))

    def subscribe(
        self, queues: Collection[str], *, kinds: Collection[type[Event]] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        return self._view.store.bus.subscribe(queues, kinds=kinds)


@asynccontextmanager
async def buffered(store: StoreCalls) -> AsyncIterator[View]:
    """A view whose jobs are added in one step when the block ends, or, if it raises, not at all."""
    buffer = _Buffer(store)
    try:
        yield buffer
    except BaseException:
        buffer.ended = True
        raise
    await buffer.apply()


class _Buffer(View):
    """Keeps what is added, and answers as if it had been added to the store already."""

    def __init__(self, store: StoreCalls) -> None:
        super().__init__(store)
        self._one_at_a_time = asyncio.Lock()
        self._given: list[JobRecord] = []
        self._events: list[Event] = []
        #: The jobs given, as they will be stored.
        self._jobs: dict[JobKey, JobRecord] = {}
        #: The instant that a test gave last.
        self._now: datetime | None = None

    async def apply(self) -> None:
        """End the block, and add what was kept."""
        async with self._one_at_a_time:
            self.ended = True
        if self._given:
            await self.store.insert(self._given, now=self._now)
        if self._events:
            await self.store.bus.publish(self._events)

    async def insert_within(
        self, jobs: Sequence[JobRecord], *, new_only: bool, now: datetime | None
    ) -> Sequence[Inserted]:
        async with self._one_at_a_time:
            self.refuse_ended()
            self._refuse_missing(jobs)
            at = now or datetime.now(UTC)
            plan = plan_insert(jobs, await self._existing(jobs, now), at, new_only=new_only)
            if late := plan.parents & self._jobs.keys():
                raise StoreError(f"children are added with their parent, in one call: {min(late)}")
            await self._check_groups([(job, initial.state) for job, initial in plan.created], now)
            for job, initial in plan.created:
                self._given.append(job)
                self._jobs[job.key] = _stored(job, initial, at)
            self._now = now
            return plan.answers

    async def find_within(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None,
        order: Order,
        now: datetime | None,
    ) -> Sequence[JobRecord]:
        stored = await self.store.find(where, limit=limit, after=after, order=order, now=now)
        place = _ORDERS[order]
        own = sorted(self._matching(where, now), key=place)
        behind = [job for job in own if after is None or place(job) > place(after)]
        return list(itertools.islice(heapq.merge(stored, behind, key=place), limit))

    async def count_within(
        self, where: Where, *, by_group: bool, most: int | None, now: datetime | None
    ) -> Mapping[tuple[str | None, JobState], int]:
        stored = await self.store.count(where, by_group=by_group, most=most, now=now)
        counts = Counter(
            (job.group if by_group else job.queue, job.state) for job in self._matching(where, now)
        )
        counts.update(stored)
        return counts if most is None else {key: min(count, most) for key, count in counts.items()}

    async def publish_within(self, events: Sequence[Event]) -> None:
        self._events += events

    async def _existing(self, jobs: Sequence[JobRecord], now: datetime | None) -> dict[int, Inserted]:
        """By place in the call, the job that stands for that one: by its id, or its unique key."""
        found: dict[int, Inserted] = {}
        for queue in {job.queue for job in jobs}:
            ids = frozenset(job.id for job in jobs if job.queue == queue)
            there = {
                job.id: job for job in await self.find(Where(queue=queue, ids=ids), limit=len(ids), now=now)
            }
            for n, job in enumerate(jobs):
                if job.queue != queue:
                    continue
                stands = there.get(job.id)
                if stands is None and job.unique_key is not None:
                    holds = Where(queue=queue, unique_key=job.unique_key)
                    stands = next(iter(await self.find(holds, limit=1, now=now)), None)
                if stands is not None and stands.created_at is not None:
                    found[n] = Inserted(
                        key=stands.key,
                        created=False,
                        state=stands.state,
                        created_at=stands.created_at,
                    )
        return found

    async def _check_groups(
        self, created: Sequence[tuple[JobRecord, JobState]], now: datetime | None
    ) -> None:
        if all(job.group_max_size is None for job, _ in created):
            return
        before: Counter[tuple[str, str]] = Counter()
        for queue, group in group_growth(created):
            where = Where(queue=queue, group=group, states=_IN_GROUP)
            counts = await self.count(where, now=now)
            before[queue, group] = sum(counts.values())
        check_groups(created, before)

    def _refuse_missing(self, jobs: Sequence[JobRecord]) -> None:
        for field, feature in _NEEDS.items():
            if feature not in self.features and any(getattr(job, field) is not None for job in jobs):
                raise UnsupportedFeatureError(type(self.store).__name__, feature)

    def _matching(self, where: Where, now: datetime | None) -> list[JobRecord]:
        at = now or datetime.now(UTC)
        return [job for job in self._jobs.values() if _matches(where, job, at)]


def _stored(job: JobRecord, initial: InitialState, at: datetime) -> JobRecord:
    return replace(
        job,
        **initial._asdict(),
        seq=next(_NUMBERS),
        holds_key=job.unique_key is not None,
        released=False,
        created_at=at,
    )


def _matches(where: Where, job: JobRecord, at: datetime) -> bool:
    """Whether a job that has not been stored yet is of the set."""
    return (
        not (where.expired or where.unretained)
        and where.queue in (None, job.queue)
        and where.group in (None, job.group)
        and where.parent in (None, job.parent)
        and where.report in (None, job.report)
        and where.unique_key in (None, job.unique_key)
        and (where.ids is None or job.id in where.ids)
        and (where.states is None or job.state in where.states)
        and (where.names is None or job.name in where.names)
        and (where.older_than is None or job.created_at is None or at - job.created_at >= where.older_than)
    )


#: What `find` sorts by.
_ORDERS: Final[Mapping[Order, Callable[[JobRecord], tuple[Any, ...]]]] = {
    Order.ADDED: lambda job: (job.seq,),
    Order.NEWEST: lambda job: (-job.seq,),
    Order.FINISHED: lambda job: (
        (1, -job.seq) if job.finished_at is None else (0, -job.finished_at.timestamp(), -job.seq)
    ),
    Order.EARLIEST: lambda job: (
        (1, job.seq) if job.finished_at is None else (0, job.finished_at.timestamp(), job.seq)
    ),
    Order.CLAIM: lambda job: (job.sort_key, -job.seq if job.lifo else job.seq),
}
