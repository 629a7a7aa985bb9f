"""The worker registry: which workers run for a queue, as `get_workers` lists them."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Bench, Gate, Handler, nothing, until
from conveyor.conformance.kit.make import LEASE, at, everything, take_one
from conveyor.core import (
    Feature,
    GroupLimit,
    JobState,
    Queue,
    RateLimit,
    Store,
    StoreUnavailableError,
    Worker,
    WorkerInfo,
)
from conveyor.core._queue_names import workers_of
from conveyor.core.store import JobRecord, Where
from conveyor.core.testing import FaultyStore

REGISTRATIONS = workers_of("q")


async def registered(bench: Bench, count: int = 1) -> list[WorkerInfo]:
    """The workers of queue "q", once there are as many."""
    found: list[WorkerInfo] = []

    async def there() -> bool:
        found[:] = await bench.queue.get_workers()
        return len(found) == count

    await until(there)
    return found


@asynccontextmanager
async def running(bench: Bench, handler: Handler = nothing, **options: Any) -> AsyncIterator[Worker[Any]]:
    """A worker that runs, under the bench's clock, and is closed without waiting for its handlers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lock_duration")
        worker = bench.worker(handler, **options)
    await worker.start()
    try:
        yield worker
    finally:
        closing = asyncio.create_task(worker.close(0))
        while not closing.done():
            # A slow store is given its time: the clock is turned for what does not end by itself.
            await asyncio.wait([closing], timeout=0.05)
            await bench.later("1s")
        await closing


@area("worker registry")
class Registrations:
    """What a worker registers of itself."""

    async def test_a_worker_is_registered_from_its_start_until_it_is_closed(self, bench: Bench) -> None:
        assert await bench.queue.get_workers() == []

        async with running(bench, concurrency=7, name="mail-1") as worker:
            [info] = await registered(bench)
            assert (info.id, info.name, info.queue_names) == (worker.id, "mail-1", ("q",))
            assert (info.pid, info.concurrency, info.paused, info.lifo) == (os.getpid(), 7, False, False)
            assert worker.id.startswith(f"{info.host}:{info.pid}:")
            assert (info.started_at, info.last_beat_at) == (at(0), at(0))
            assert (info.running_count, info.ready_count, info.running) == (0, 0, ())
            assert (info.names, info.max_global_concurrency, info.limiter, info.group) == (None,) * 4
            assert info.handles("anything")

        assert await bench.queue.get_workers() == []
        assert await everything(bench.store, REGISTRATIONS) == []

    async def test_what_it_takes_is_registered(self, bench: Bench) -> None:
        async with running(bench, {"x": nothing, "y": nothing}, lifo=True):
            [info] = await registered(bench)

        assert (info.names, info.lifo) == (frozenset({"x", "y"}), True)
        assert info.handles("x")
        assert not info.handles("z")

    @needs(Feature.ACTIVE_LIMITS, Feature.RATE_LIMITS, Feature.GROUPS)
    async def test_its_limits_are_registered(self, bench: Bench) -> None:
        rate = RateLimit(100, per="1.5s")
        group = GroupLimit(concurrency=2, limiter=RateLimit(3, per="1 minute"))
        async with running(bench, max_global_concurrency=20, limiter=rate, group=group):
            [info] = await registered(bench)

        assert (info.max_global_concurrency, info.limiter, info.group) == (20, rate, group)

    async def test_what_it_runs_is_registered_with_its_heartbeat(self, bench: Bench) -> None:
        gate = Gate()
        job = await bench.queue.add("slow")
        async with running(bench, gate, lock_duration="30s") as worker:
            await gate.until_begun()

            async def registered_as_running() -> bool:
                await bench.later("10s")
                return any(info.running_count == 1 for info in await bench.queue.get_workers())

            await until(registered_as_running)
            [info] = await bench.queue.get_workers()
            assert [(one.id, one.name, one.started_at) for one in info.running] == [(job.id, "slow", at(0))]
            assert at(0) < info.last_beat_at <= bench.clock.now()
            await worker.pause()
            await bench.calm()
            gate.opened.set()

            async def paused() -> bool:
                await bench.later("10s")
                [info] = await bench.queue.get_workers()
                return info.paused and not info.running

            await until(paused)

    async def test_each_queue_has_its_own_and_each_worker_is_listed(
        self, handles: tuple[Store, Store]
    ) -> None:
        mine, other = handles
        queue: Queue[Any] = Queue("q", other)
        async with Worker("q", nothing, mine), Worker("q", nothing, other), Worker("r", nothing, mine):

            async def two() -> bool:
                return len(await queue.get_workers()) == 2

            await until(two)
            assert len({info.id for info in await queue.get_workers()}) == 2

        assert await queue.get_workers() == []
        assert await Queue[Any]("r", mine).get_workers() == []

    async def test_they_are_no_jobs_of_the_queue(self, bench: Bench) -> None:
        async with running(bench):
            await registered(bench)

            assert await bench.queue.get_job_counts() == dict.fromkeys(JobState, 0)
            assert await bench.queue.get_jobs() == []
            assert await bench.queue.drain() == 0
            await bench.queue.obliterate()
            assert len(await bench.queue.get_workers()) == 1


@area("worker registry")
class Lost:
    """Workers that die, stores that fail, entries that go."""

    async def _died(self, bench: Bench, id: str = "dead") -> None:
        """Leave the entry of a worker that lives no more."""
        await bench.store.insert([JobRecord(queue=REGISTRATIONS, id=id, name="worker", payload="{}")])
        await take_one(bench.store, id, queue=REGISTRATIONS, now=bench.clock.now(), lease=LEASE)

    async def test_a_worker_that_died_is_registered_until_its_heartbeat_is_over(self, bench: Bench) -> None:
        async with running(bench, lock_duration="30s"):
            [info] = await registered(bench)
            [record] = await everything(bench.store, REGISTRATIONS)
        await bench.store.insert(
            [JobRecord(queue=REGISTRATIONS, id="dead", name="worker", payload=record.payload)]
        )
        await take_one(bench.store, "dead", queue=REGISTRATIONS, now=bench.clock.now(), lease=LEASE)

        await bench.later("29.999s")
        assert [one.id for one in await bench.queue.get_workers()] == [info.id]
        await bench.later("1ms")
        assert await bench.queue.get_workers() == []

    async def test_the_registration_of_a_dead_worker_is_removed_by_the_others(self, bench: Bench) -> None:
        await self._died(bench)

        async with running(bench):
            for _ in range(5):
                await bench.later("30s")
                await asyncio.sleep(0.01)

            async def gone() -> bool:
                await bench.later("30s")
                return [one.id for one in await everything(bench.store, REGISTRATIONS)].count("dead") == 0

            await until(gone)
            await registered(bench)

    async def test_obliterating_a_queue_removes_what_dead_workers_left(self, bench: Bench) -> None:
        await self._died(bench)
        await bench.later("1m")

        await bench.queue.obliterate()

        assert await everything(bench.store, REGISTRATIONS) == []

    async def test_a_registration_that_is_lost_is_made_again(self, bench: Bench) -> None:
        async with running(bench, lock_duration="30s"):
            [before] = await registered(bench)
            await bench.store.delete(Where(queue=REGISTRATIONS), limit=9)
            assert await bench.queue.get_workers() == []

            await bench.later("10s")
            [after] = await registered(bench)

        assert after.id == before.id
        assert after.started_at == before.started_at

    async def test_a_registration_that_cannot_be_read_is_left_out(self, bench: Bench) -> None:
        await self._died(bench)

        async with running(bench) as worker:
            [info] = await registered(bench)

        assert info.id == worker.id

    async def test_a_worker_whose_registration_cannot_be_made_works_and_is_registered_later(
        self, bench: Bench
    ) -> None:
        faulty = FaultyStore(bench.store)
        faulty.fail("insert", StoreUnavailableError("gone"), times=2)
        job = await bench.queue.add("work")
        worker: Worker[Any] = Worker("q", nothing, faulty, clock=bench.clock)
        await worker.start()

        async def done() -> bool:
            return (await job.refresh()).state is JobState.COMPLETED

        await until(done)
        assert await bench.queue.get_workers() == []
        await bench.later("10s")
        await bench.later("10s")
        await registered(bench)
        await worker.close()

    async def test_jobs_and_the_workers_registration_are_renewed_in_one_call(self, bench: Bench) -> None:
        faulty = FaultyStore(bench.store)
        gate = Gate()
        await bench.queue.add("work")
        worker: Worker[Any] = Worker("q", gate, faulty, clock=bench.clock, lock_duration="30s")
        await worker.start()
        await gate.until_begun()
        await registered(bench)
        faulty.calls.clear()

        await bench.later("10s")
        await bench.clock.settle()
        assert faulty.calls.count("renew") == 1

        gate.opened.set()
        await worker.close()
        assert await bench.queue.get_workers() == []

    async def test_a_store_that_fails_does_not_keep_a_worker_from_closing(self, bench: Bench) -> None:
        faulty = FaultyStore(bench.store)
        worker: Worker[Any] = Worker("q", nothing, faulty, clock=bench.clock)
        await worker.start()
        await registered(bench)
        faulty.fail("settle", StoreUnavailableError("gone"))

        await worker.close()

        assert len(await bench.queue.get_workers()) == 1
        await bench.later(timedelta(seconds=30))
        assert await bench.queue.get_workers() == []


class WorkerRegistry(Registrations, Lost):
    """The worker registry."""
