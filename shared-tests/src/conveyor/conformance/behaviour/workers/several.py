"""Worker behaviour: workers with jobs to do, in real time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import SOON, Gate, Recorder, nothing, until, until_finished
from conveyor.conformance.kit.make import span
from conveyor.core import (
    Feature,
    Job,
    JobState,
    Keep,
    NewJob,
    Queue,
    Store,
    StoreUnavailableError,
    Worker,
)
from conveyor.core.testing import FaultyStore


@area("queue behaviour")
class RunningWorkers:
    """Workers in real time."""

    async def test_an_idle_worker_takes_a_new_job_at_once(self, handles: tuple[Store, Store]) -> None:
        """B1: upstream looked for jobs once in a second, and nothing woke it."""
        mine, other = handles
        queue: Queue[Any] = Queue("q", mine)
        async with Worker("q", nothing, other, poll_interval="1h", stalled_interval="1h"):
            for _ in range(3):
                job = await queue.add("work")
                await job.wait_until_finished(SOON)

    async def test_a_worker_with_one_slot_does_not_wait_between_jobs(self, store: Store) -> None:
        """B1: upstream took twenty seconds for this."""
        queue: Queue[Any] = Queue("q", store)
        jobs = await queue.add_bulk([NewJob("work", n) for n in range(20)])

        async with asyncio.timeout(SOON), Worker("q", nothing, store, poll_interval="1h"):
            for job in jobs:
                await job.wait_until_finished(SOON)

    async def test_a_delayed_job_runs_when_it_is_due(self, handles: tuple[Store, Store]) -> None:
        mine, other = handles
        queue: Queue[Any] = Queue("q", mine)
        async with Worker("q", nothing, other, poll_interval="1h", stalled_interval="1h"):
            job = await queue.add("work", delay="50ms")
            await job.wait_until_finished(SOON)

        await job.refresh()
        assert job.processed_at is not None
        assert job.processed_at >= job.created_at + span(0.05)

    async def test_every_job_runs_once_with_several_workers(self, handles: tuple[Store, Store]) -> None:
        queue: Queue[Any] = Queue("q", handles[0])
        runs: list[str] = []

        async def handler(job: Job[Any]) -> None:
            runs.append(job.id)
            await asyncio.sleep(0)

        async with (
            Worker("q", handler, handles[0], concurrency=5),
            Worker("q", handler, handles[1], concurrency=5),
        ):
            jobs = await queue.add_bulk([NewJob("work", n) for n in range(100)])
            for job in jobs:
                await job.wait_until_finished(SOON)

        assert sorted(runs) == sorted(job.id for job in jobs)

    async def test_a_running_job_is_cancelled_from_anywhere_within_a_second_or_so(
        self, handles: tuple[Store, Store]
    ) -> None:
        """B14: upstream took up to fifteen seconds."""
        mine, other = handles
        gate = Gate()
        queue: Queue[Any] = Queue("q", mine)
        job = await queue.add("work")

        async with Worker("q", gate, mine):
            await gate.until_begun()
            assert await Queue("q", other).cancel(job.id)
            await until_finished(job)

        assert job.state is JobState.CANCELLED
        assert job.attempt_history[-1].outcome == "cancelled"

    async def test_a_handler_that_swallows_its_cancellation_ends_cancelled(self, store: Store) -> None:
        """B14: upstream completed it."""
        gate = Gate()
        queue: Queue[Any] = Queue("q", store)
        job = await queue.add("work")

        async def stubborn(job: Job[Any]) -> str:
            with contextlib.suppress(asyncio.CancelledError):
                await gate(job)
            return "done all the same"

        async with Worker("q", stubborn, store):
            await gate.until_begun()
            await job.cancel()
            await until_finished(job)

        assert (job.state, job.return_value) == (JobState.CANCELLED, None)

    async def test_a_closing_worker_gives_back_what_it_cannot_finish(self, store: Store) -> None:
        """B14: upstream neither aborted nor released its jobs."""
        queue: Queue[Any] = Queue("q", store)
        gate = Gate()
        jobs = await queue.add_bulk([NewJob("work", n) for n in range(3)])
        worker: Worker[Any] = Worker("q", gate, store, prefetch=5)
        await worker.start()
        await gate.until_begun()

        await worker.close(timeout=0)

        assert await queue.count("waiting") == 3
        assert [(await job.refresh()).attempts_made for job in jobs] == [0, 0, 0]
        async with Worker("q", nothing, store):
            for job in jobs:
                await job.wait_until_finished(SOON)

    async def test_a_worker_that_is_paused_and_resumed_runs_each_job_once(self, store: Store) -> None:
        """B22: upstream started a second chain of polls."""
        queue: Queue[Any] = Queue("q", store)
        recorder = Recorder()
        async with Worker("q", recorder, store) as worker:
            for _ in range(3):
                await worker.pause()
                await worker.resume()
            await worker.pause()
            first = await queue.add("work")
            await asyncio.sleep(0.05)
            assert recorder.ids == []
            await worker.resume()
            jobs = [first, *await queue.add_bulk([NewJob("work", n) for n in range(10)])]
            for job in jobs:
                await job.wait_until_finished(SOON)
            assert worker.stats().free_slots == 1

        assert sorted(recorder.ids) == sorted(job.id for job in jobs)

    async def test_finished_jobs_are_removed_when_more_than_are_kept_have_finished(
        self, store: Store
    ) -> None:
        """B12: upstream never applied it."""
        queue: Queue[Any] = Queue("q", store)
        jobs = await queue.add_bulk([NewJob("work", n, remove_on_complete=Keep(count=2)) for n in range(6)])

        async def removed() -> bool:
            return await queue.count() == 2 == await queue.count("completed")

        async with Worker("q", nothing, store, maintenance_interval="20ms"):
            await until(removed)

        assert [job.id for job in await queue.get_jobs("completed")] == [job.id for job in jobs[-2:]]

    async def test_finished_jobs_are_removed_when_their_time_is_over(self, store: Store) -> None:
        """B12: upstream never applied it."""
        queue: Queue[Any] = Queue("q", store)
        await queue.add("work", remove_on_complete="10ms")

        async def removed() -> bool:
            return await queue.count() == 0

        async with Worker("q", nothing, store, maintenance_interval="20ms"):
            await until(removed)

    async def test_a_store_that_fails_while_leases_are_renewed_costs_no_run(self, store: Store) -> None:
        """B3: upstream ended renewal at the first error."""
        faulty = FaultyStore(store)
        gate = Gate()
        queue: Queue[Any] = Queue("q", faulty)
        job = await queue.add("work")

        with pytest.warns(UserWarning, match="lock_duration"):
            worker: Worker[Any] = Worker("q", gate, faulty, lock_duration="1500ms")
        async with worker:
            await gate.until_begun()
            faulty.fail("renew", StoreUnavailableError("gone"), times=1)

            async def renewed_again() -> bool:
                return faulty.calls.count("renew") >= 4

            await until(renewed_again)
            gate.opened.set()
            assert await job.wait_until_finished(SOON) == job.id

        assert gate.runs == 1
        assert (await job.refresh()).stalled_count == 0

    @needs(Feature.ACTIVE_LIMITS)
    async def test_workers_together_keep_to_a_global_concurrency(self, handles: tuple[Store, Store]) -> None:
        queue: Queue[Any] = Queue("q", handles[0])
        running, most = 0, 0

        async def handler(_: Job[Any]) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1

        async with (
            Worker("q", handler, handles[0], concurrency=5, max_global_concurrency=2),
            Worker("q", handler, handles[1], concurrency=5, max_global_concurrency=2),
        ):
            jobs = await queue.add_bulk([NewJob("work", n) for n in range(30)])
            for job in jobs:
                await job.wait_until_finished(SOON)

        assert most == 2
