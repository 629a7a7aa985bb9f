"""The contract on dictionaries: the reference that every other store is compared with."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import islice
from typing import Final, Self
from weakref import WeakKeyDictionary

from conveyor.core.errors import HIDDEN, InvalidOptionError, StoreClosedError, showable
from conveyor.core.events import Bus, Event, LocalBus
from conveyor.core.store import (
    Advanced,
    Beat,
    Change,
    Claim,
    Claimed,
    Deleted,
    Feature,
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Lease,
    Order,
    Outcome,
    Pause,
    Renewed,
    Settled,
    Store,
    Where,
    transitions,
)
from conveyor.store.memory.claiming import claim, take
from conveyor.store.memory.data import Data
from conveyor.store.memory.inserting import insert
from conveyor.store.memory.rows import FOREVER, Row, record
from conveyor.store.memory.settling import change as change_row
from conveyor.store.memory.settling import held, settle


class MemoryStore(Store):
    """Jobs in this process's memory: gone when it ends, and for one event loop.

    Each call happens between two turns of the event loop, so that it is one step by nature.
    """

    def __init__(self, name: str | None = None) -> None:
        """Make a store that is not open yet.

        Stores of one `name` share their data while the event loop that they are opened on lives; without
        a name nobody else sees it.
        """
        if name is not None and not isinstance(name, str):
            raise InvalidOptionError("name", name, "it is a string, or None")
        self._name = name or None
        self._shared = _Shared()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bus = _Bus(lambda: self._shared.buses)

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """A store for `memory:` (private) or `memory://NAME` (shared by those who give that name)."""
        for option in options:
            raise InvalidOptionError(option, HIDDEN, "the memory store has no options")
        found = re.fullmatch(r"memory:(?://([^/?#]*))?", url) if isinstance(url, str) else None
        if found is None:
            raise InvalidOptionError("url", showable(url), "write memory: or memory://NAME")
        return cls(found[1])

    @property
    def features(self) -> frozenset[Feature]:
        return _FEATURES

    @property
    def bus(self) -> Bus:
        return self._bus

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not None:
            self._refuse_other_loops(loop)
            return
        self._loop = loop
        if self._name is not None:
            self._shared = _named.setdefault(loop, {}).setdefault(self._name, _Shared())
        self._bus.reopen()
        self._shared.buses.append(self._bus)

    async def close(self) -> None:
        if self._loop is None:
            return
        self._refuse_other_loops(asyncio.get_running_loop())
        self._loop = None
        self._shared.buses.remove(self._bus)
        self._bus.close()

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: datetime | None = None
    ) -> Sequence[Inserted]:
        return insert(self._data(), jobs, now or _clock(), new_only=new_only)

    async def claim(self, request: Claim, *, now: datetime | None = None) -> Claimed:
        return claim(self._data().queue(request.queue), request, now or _clock())

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
        request = Claim(queue=queue, count=len(ids), token=token, lease=lease, worker=worker, started=started)
        return take(self._data().queue(queue), ids, request, now or _clock())

    async def renew(self, beats: Sequence[Beat], lease: timedelta, *, now: datetime | None = None) -> Renewed:
        data, now = self._data(), now or _clock()
        kept, lost, cancelled = set[Lease](), set[Lease](), set[Lease]()
        for beat in beats:
            row = held(data, beat.lease)
            if row is None:
                lost.add(beat.lease)
                continue
            kept.add(beat.lease)
            if row.cancel_requested:
                cancelled.add(beat.lease)
            if beat.report is not None:
                row.report = beat.report
            if beat.payload is not None:
                row.payload = beat.payload
            row.started = row.started or beat.started
            data.queues[row.queue].leave(row)
            row.lease_until = now + lease
            data.queues[row.queue].enter(row)
        return Renewed(held=frozenset(kept), lost=frozenset(lost), cancelled=frozenset(cancelled))

    async def settle(self, outcomes: Sequence[Outcome], *, now: datetime | None = None) -> Settled:
        return settle(self._data(), outcomes, now or _clock())

    async def advance(
        self, queues: Collection[str], *, limit: int = 1000, now: datetime | None = None
    ) -> Advanced:
        data, now = self._data(), now or _clock()
        known = [data.queues[name] for name in dict.fromkeys(queues) if name in data.queues]
        due = _first(limit, (queue.delayed.until(now) for queue in known))
        lapsed = _first(limit, (queue.leases.until(now) for queue in known))
        started = [row for row in lapsed if row.started]
        unstarted = [row for row in lapsed if not row.started]
        for row in due:
            data.put(row, transitions.waiting(now))
        for row in lapsed:
            data.put(row, transitions.lapsed(row, now))
        for queue in known:
            queue.tidy(now)
        times = [
            at for queue in known for at in (queue.delayed.first(), queue.leases.first()) if at is not None
        ]
        wait = max(timedelta(0), min(times) - now) if times else None
        if max(len(due), len(lapsed)) >= limit:
            wait = timedelta(0)
        return Advanced(
            now=now,
            due=tuple(row.key for row in due),
            stalled=tuple(row.key for row in started),
            unstarted=tuple(row.key for row in unstarted),
            wait=wait,
        )

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: datetime | None = None,
    ) -> Sequence[JobRecord]:
        data, now = self._data(), now or _clock()
        return [record(row, now) for row in islice(data.rows(where, now, order, after), limit)]

    async def count(
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: datetime | None = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        data, now = self._data(), now or _clock()
        if not by_group and where == Where(queue=where.queue, states=where.states):
            return _at_most(most, data.totals(where))
        counts = Counter((row.group if by_group else row.queue, row.state) for row in data.rows(where, now))
        return _at_most(most, counts)

    async def update(self, where: Where, change: Change, *, now: datetime | None = None) -> frozenset[JobKey]:
        data, now = self._data(), now or _clock()
        return frozenset(row.key for row in list(data.rows(where, now)) if change_row(data, row, change, now))

    async def delete(self, where: Where, *, limit: int, now: datetime | None = None) -> Deleted:
        data, now = self._data(), now or _clock()
        return data.remove_all(list(islice(data.rows(where, now), limit)), now)

    async def pause(
        self, queue: str, what: Pause, for_: timedelta | None = None, *, now: datetime | None = None
    ) -> None:
        now = now or _clock()
        self._data().queue(queue).pause(what, FOREVER if for_ is None else now + for_)

    async def resume(
        self,
        queue: str,
        what: Pause,
        *,
        now: datetime | None = None,  # noqa: ARG002 - a pause ends whatever the time is
    ) -> None:
        self._data().queue(queue).resume(what)

    async def paused(self, queue: str, *, now: datetime | None = None) -> Mapping[Pause, datetime | None]:
        now = now or _clock()
        return {
            Pause(name=name, group=group): None if until == FOREVER else until
            for (name, group), until in self._data().queue(queue).pauses.items()
            if until > now
        }

    async def forget(self, queue: str, *, now: datetime | None = None) -> Sequence[JobKey]:
        data, now = self._data(), now or _clock()
        deleted = data.remove_all(list(data.queue(queue).rows.values()), now)
        del data.queues[queue]
        return deleted.released

    def claim_steps(self, queue: str) -> int:
        """How many sub-queues and jobs the claims of a queue have looked at, for tests of their cost."""
        return self._data().queue(queue).steps

    def _data(self) -> Data:
        if self._loop is None:
            raise StoreClosedError("MemoryStore is not open: use `async with`, or call open() first")
        self._refuse_other_loops(asyncio.get_running_loop())
        return self._shared.data

    def _refuse_other_loops(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            msg = (
                "this MemoryStore was opened on another event loop, and has its jobs there; use it there, or "
                "take a store that keeps jobs outside of the process, and open one on each loop"
            )
            raise StoreClosedError(msg)


class _Shared:
    """What the stores of one name have in common."""

    def __init__(self) -> None:
        self.data = Data()
        self.buses: list[LocalBus] = []


class _Bus(LocalBus):
    """The bus of one store: it reaches the subscribers of all stores of the same name."""

    def __init__(self, peers: Callable[[], Sequence[LocalBus]]) -> None:
        super().__init__()
        self._peers = peers

    async def publish(self, events: Sequence[Event]) -> None:
        for bus in self._peers():
            bus.deliver(events)


def _first(limit: int, entries: Iterable[Iterable[tuple[datetime, int, Row]]]) -> list[Row]:
    """The rows of the first entries of all."""
    return [row for _, _, row in islice(merge(*entries), limit)]


def _at_most(
    most: int | None, counts: Mapping[tuple[str | None, JobState], int]
) -> Mapping[tuple[str | None, JobState], int]:
    return counts if most is None else {key: min(number, most) for key, number in counts.items()}


def _clock() -> datetime:
    return datetime.now(UTC)


_FEATURES: Final = frozenset(Feature) - {Feature.DURABLE, Feature.MULTI_PROCESS, Feature.SERVER_CLOCK}
_named: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Shared]]] = WeakKeyDictionary()
