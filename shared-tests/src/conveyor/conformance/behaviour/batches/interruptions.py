"""Batches that are cut short: timeouts, cancellations, lost leases and closing workers."""

from __future__ import annotations

import asyncio
from typing import Any

from conveyor.conformance.behaviour.batches.jobs import Jobs, five, states_of
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import SOON, Bench, until_finished
from conveyor.core import (
    Batch,
    Feature,
    Group,
    JobState,
    LeaseLostError,
    NewJob,
    Queue,
    Store,
    Worker,
)
from conveyor.core.store import Where


class Door:
    """A batch's handler that waits, and records how it ended."""

    def __init__(self) -> None:
        """Begin closed."""
        self.begun = asyncio.Event()
        self.opened = asyncio.Event()
        self.cancelled = False
        self.jobs: Jobs = []

    async def __call__(self, jobs: Jobs) -> list[str]:
        """Wait until it is opened."""
        self.jobs = jobs
        self.begun.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return ["cancelled" if job.cancelled else "done" for job in jobs]

    async def until_begun(self) -> None:
        """Return when it has been called."""
        async with asyncio.timeout(SOON):
            await self.begun.wait()


@area("batches")
class Interruptions:
    """Timeouts, cancellation, lost leases, shutdown."""

    async def test_the_least_timeout_ends_the_batch(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk(
            [NewJob("work", 0), NewJob("work", 1, timeout="5s"), NewJob("work", 2, timeout="1h")]
        )
        door = Door()
        work = asyncio.create_task(bench.run(door, batch=Batch(10)))
        await door.until_begun()

        ended = []
        for by in ("4s", "1s"):
            await bench.later(by)
            ended.append(door.cancelled)
        await work

        assert ended == [False, True]
        assert await states_of(jobs) == [JobState.FAILED] * 3
        assert {job.attempt_history[-1].outcome for job in jobs} == {"timed-out"}
        assert {job.failed_reason for job in jobs} == {
            "the handler ran longer than its timeout of 0:00:05 and was cancelled"
        }

    async def test_cancelling_one_job_disturbs_no_other(self, store: Store) -> None:
        queue: Queue[Any] = Queue("q", store)
        jobs = await five(queue)
        door = Door()

        async with Worker("q", door, store, batch=Batch(10)):
            await door.until_begun()
            assert await queue.cancel(jobs[2].id)
            async with asyncio.timeout(SOON):
                while not door.jobs[2].cancelled:  # noqa: ASYNC110 - what a handler looks at is no event
                    await asyncio.sleep(0.01)
            door.opened.set()
            for one in jobs:
                await until_finished(one)

        assert not door.cancelled
        assert [one.state for one in jobs] == [
            JobState.CANCELLED if n == 2 else JobState.COMPLETED for n in range(5)
        ]
        assert [one.return_value for one in jobs] == ["done", "done", None, "done", "done"]

    async def test_a_batch_all_of_whose_jobs_are_cancelled_is_cancelled(self, store: Store) -> None:
        queue: Queue[Any] = Queue("q", store)
        jobs = await five(queue)
        door = Door()

        async with Worker("q", door, store, batch=Batch(10)):
            await door.until_begun()
            for one in jobs:
                assert await queue.cancel(one.id)
            for one in jobs:
                await until_finished(one)

        assert door.cancelled
        assert {one.state for one in jobs} == {JobState.CANCELLED}

    async def test_a_lost_lease_of_one_job_disturbs_no_other(self, bench: Bench) -> None:
        jobs = await five(bench.queue)
        door = Door()
        refused: list[int] = []

        async def handler(jobs: Jobs) -> list[str]:
            results = await door(jobs)
            for n, one in enumerate(jobs):
                try:
                    await one.update_progress(50)
                except LeaseLostError:
                    refused.append(n)
            return results

        work = asyncio.create_task(bench.run(handler, batch=Batch(10)))
        await door.until_begun()
        await bench.store.delete(Where(queue="q", ids=frozenset({jobs[3].id})), limit=1)
        door.opened.set()
        await work

        assert refused == [3]
        kept = [one for n, one in enumerate(jobs) if n != 3]
        assert await states_of(kept) == [JobState.COMPLETED] * 4
        assert [one.progress for one in kept] == [50] * 4
        assert await bench.queue.get_job(jobs[3].id) is None

    async def test_a_closing_worker_gives_back_every_job_of_a_batch(self, store: Store) -> None:
        queue: Queue[Any] = Queue("q", store)
        jobs = await five(queue)
        door = Door()
        worker: Worker[Any] = Worker("q", door, store, batch=Batch(10))
        await worker.start()
        await door.until_begun()

        await worker.close(timeout=0)

        assert door.cancelled
        assert await states_of(jobs) == [JobState.WAITING] * 5
        assert {one.attempts_made for one in jobs} == {0}

    @needs(Feature.GROUPS)
    async def test_a_full_group_counts_the_jobs_of_batches_out(self, bench: Bench) -> None:
        group = Group("g", max_size=2)
        await bench.queue.add_bulk([NewJob("work", n, group=group) for n in range(2)])
        door = Door()
        work = asyncio.create_task(bench.run(door, batch=Batch(2)))
        await door.until_begun()

        await bench.queue.add_bulk([NewJob("work", n, group=group) for n in range(2)])
        door.opened.set()
        await work

        assert await bench.queue.count("completed") == 4
