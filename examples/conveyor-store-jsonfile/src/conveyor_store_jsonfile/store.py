"""The store: each call is one change of the file, made in a thread of the store's own."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self, TypeVar

from conveyor.core.errors import (
    HIDDEN,
    InvalidOptionError,
    StoreClosedError,
    StoreForkedError,
    UnsupportedFeatureError,
    showable,
)
from conveyor.core.events import Bus, LocalBus
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
    Order,
    Outcome,
    Pause,
    Renewed,
    Settled,
    Store,
    Where,
)
from conveyor_store_jsonfile import moving, sets
from conveyor_store_jsonfile.data import Data
from conveyor_store_jsonfile.file import JsonFile

Answer = TypeVar("Answer")


class JsonFileStore(Store):
    """Jobs in one JSON file. Every call reads all of it, and most write it."""

    def __init__(self, path: Path) -> None:
        self._file = JsonFile(path)
        self._bus = LocalBus()
        self._thread: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """The store of a URL such as `jsonfile:///var/lib/app/jobs.json`."""
        for option in options:
            raise InvalidOptionError(option, HIDDEN, "this store has no options")
        path = url.removeprefix("jsonfile://")
        if path in {url, ""}:
            raise InvalidOptionError("url", showable(url), "write jsonfile://PATH")
        return cls(Path(path))

    @property
    def features(self) -> frozenset[Feature]:
        return frozenset({Feature.DURABLE, Feature.UNIQUE_KEYS, Feature.ACTIVE_LIMITS})

    @property
    def bus(self) -> Bus:
        return self._bus

    async def open(self) -> None:
        if self._thread is None:
            self._process = os.getpid()
            self._thread = ThreadPoolExecutor(1, "conveyor-jsonfile")
            self._bus.reopen()
        await self._change(lambda _data: None)  # so that a file that cannot be used is told of now

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._bus.close()
            last = thread.submit(lambda: None)
            thread.shutdown(wait=False)
            await asyncio.wrap_future(last)

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: datetime | None = None
    ) -> Sequence[Inserted]:
        _refuse(jobs)
        return await self._call(lambda data, now: moving.insert(data, jobs, now, new_only=new_only), now)

    async def claim(self, request: Claim, *, now: datetime | None = None) -> Claimed:
        if request.limit is not None and request.limit.rate is not None:
            raise UnsupportedFeatureError("JsonFileStore", Feature.RATE_LIMITS)
        if request.group_limit is not None:
            raise UnsupportedFeatureError("JsonFileStore", Feature.GROUPS)
        return await self._call(lambda data, now: moving.claim(data, request, now), now)

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
        return await self._call(lambda data, now: moving.take(data, ids, request, now), now)

    async def renew(self, beats: Sequence[Beat], lease: timedelta, *, now: datetime | None = None) -> Renewed:
        return await self._call(lambda data, now: moving.renew(data, beats, lease, now), now)

    async def settle(self, outcomes: Sequence[Outcome], *, now: datetime | None = None) -> Settled:
        _refuse(job for outcome in outcomes for job in outcome.spawn)
        return await self._call(lambda data, now: moving.settle(data, outcomes, now), now)

    async def advance(
        self, queues: Collection[str], *, limit: int = 1000, now: datetime | None = None
    ) -> Advanced:
        return await self._call(lambda data, now: moving.advance(data, queues, limit, now), now)

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: datetime | None = None,
    ) -> Sequence[JobRecord]:
        key = sets.ORDERS[order]

        def page(data: Data, now: datetime) -> Sequence[JobRecord]:
            jobs = sorted(sets.matching(data, where, now), key=key)
            return [job for job in jobs if after is None or key(job) > key(after)][:limit]

        return await self._call(page, now)

    async def count(
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: datetime | None = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        def counts(data: Data, now: datetime) -> Mapping[tuple[str | None, JobState], int]:
            jobs = sets.matching(data, where, now)
            found = Counter((job.group if by_group else job.queue, job.state) for job in jobs)
            return found if most is None else {key: min(number, most) for key, number in found.items()}

        return await self._call(counts, now)

    async def update(self, where: Where, change: Change, *, now: datetime | None = None) -> frozenset[JobKey]:
        def altered(data: Data, now: datetime) -> frozenset[JobKey]:
            jobs = list(sets.matching(data, where, now))
            return frozenset(job.key for job in jobs if sets.alter(data, job, change, now))

        return await self._call(altered, now)

    async def delete(self, where: Where, *, limit: int, now: datetime | None = None) -> Deleted:
        def deleted(data: Data, now: datetime) -> Deleted:
            jobs = list(sets.matching(data, where, now))[:limit]
            for job in jobs:
                data.remove(job, now)
            return Deleted(removed=[job.key for job in jobs])

        return await self._call(deleted, now)

    async def pause(
        self, queue: str, what: Pause, for_: timedelta | None = None, *, now: datetime | None = None
    ) -> None:
        if what.group is not None:
            raise UnsupportedFeatureError("JsonFileStore", Feature.GROUPS)

        def paused(data: Data, now: datetime) -> None:
            until = None if for_ is None else now + for_
            before = data.pauses.get((queue, what.name), until)
            data.pauses[queue, what.name] = None if until is None or before is None else max(until, before)

        await self._call(paused, now)

    async def resume(self, queue: str, what: Pause, *, now: datetime | None = None) -> None:
        await self._call(lambda data, _now: data.pauses.pop((queue, what.name), None), now)

    async def paused(self, queue: str, *, now: datetime | None = None) -> Mapping[Pause, datetime | None]:
        def ends(data: Data, now: datetime) -> Mapping[Pause, datetime | None]:
            of_queue = {name: until for (whose, name), until in data.pauses.items() if whose == queue}
            return {
                Pause(name=name): until for name, until in of_queue.items() if until is None or until > now
            }

        return await self._call(ends, now)

    async def forget(self, queue: str, *, now: datetime | None = None) -> Sequence[JobKey]:
        def forgotten(data: Data, _now: datetime) -> None:
            data.jobs = {key: job for key, job in data.jobs.items() if key.queue != queue}
            data.applied = {key: applied for key, applied in data.applied.items() if key.queue != queue}
            data.gone = {lease: applied for lease, applied in data.gone.items() if lease.queue != queue}
            data.pauses = {what: until for what, until in data.pauses.items() if what[0] != queue}

        await self._call(forgotten, now)
        return ()

    async def _call(self, work: Callable[[Data, datetime], Answer], now: datetime | None) -> Answer:
        """Do something to the data in one step."""

        def step(data: Data) -> Answer:
            instant = now or datetime.now(UTC)
            data.lapse(instant)
            return work(data, instant)

        return await self._change(step)

    async def _change(self, step: Callable[[Data], Answer]) -> Answer:
        """Change the file in the store's own thread, wholly or not at all if this is cancelled."""
        if self._thread is None:
            raise StoreClosedError("JsonFileStore is not open: use `async with`, or call open() first")
        if self._process != os.getpid():
            raise StoreForkedError("JsonFileStore was opened before a fork; open one in this process")
        return await asyncio.wrap_future(self._thread.submit(self._file.change, step))


def _refuse(jobs: Iterable[JobRecord]) -> None:
    """Refuse jobs that need what this store does not offer."""
    for job in jobs:
        if job.parent is not None:
            raise UnsupportedFeatureError("JsonFileStore", Feature.FLOWS)
        if job.group is not None or job.group_max_size is not None:
            raise UnsupportedFeatureError("JsonFileStore", Feature.GROUPS)
