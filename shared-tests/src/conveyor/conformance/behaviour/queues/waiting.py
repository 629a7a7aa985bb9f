"""Queue behaviour: waiting for jobs, and following them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import SOON, Bench, Recorder, Watcher, nothing
from conveyor.conformance.kit.make import claim
from conveyor.core import (
    Job,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobRemovedError,
    JobState,
    Queue,
    Store,
    WaitTimeoutError,
    Worker,
)
from conveyor.core._jobs.report import Report
from conveyor.core.events import JobEvent, JobRemoved, QueuePaused
from conveyor.core.store import Outcome
from conveyor.core.testing import WrappedStore


@area("queue behaviour")
class Waiting:
    """`wait_until_finished` and events, in real time; on another handle where the store has one."""

    async def test_a_result_is_waited_for(self, handles: tuple[Store, Store]) -> None:
        """B12: upstream's waiters in another process received nothing."""
        mine, other = handles
        queue: Queue[Any] = Queue("q", mine)
        elsewhere: Queue[Any] = Queue("q", other)
        job = await queue.add("work", {"n": 1})
        seen = await elsewhere.get_job(job.id)
        assert seen is not None
        waiter = asyncio.ensure_future(seen.wait_until_finished(SOON))

        async with Worker("q", Recorder(result={"é": [1, None]}), mine):
            assert await job.wait_until_finished(SOON) == {"é": [1, None]}

        assert await waiter == {"é": [1, None]}

    async def test_every_end_of_a_job_ends_the_waiting(self, store: Store) -> None:
        """B12: upstream's waiters hung when a job was removed."""
        queue: Queue[Any] = Queue("q", store)
        done, failed, cancelled, removed = [await queue.add("work", n, delay="1h") for n in range(4)]
        waiters = [
            asyncio.ensure_future(job.wait_until_finished(SOON)) for job in (failed, cancelled, removed)
        ]
        await asyncio.sleep(0)
        await cancelled.cancel()
        await removed.remove()
        await done.promote()
        await failed.promote()

        async def handler(job: Job[Any]) -> str:
            if job.data:
                raise RuntimeError("wrong")
            return "done"

        async with Worker("q", handler, store):
            assert await done.wait_until_finished(SOON) == "done"
            with pytest.raises(JobFailedError, match="wrong"):
                await waiters[0]
        with pytest.raises(JobCancelledError):
            await waiters[1]
        with pytest.raises(JobRemovedError):
            await waiters[2]

    async def test_waiting_for_a_job_that_does_not_finish_ends_in_time(self, store: Store) -> None:
        queue: Queue[Any] = Queue("q", store)
        job = await queue.add("work")

        with pytest.raises(WaitTimeoutError):
            await job.wait_until_finished(0.02)

        assert not await job.is_completed()

    async def test_a_waiter_that_missed_the_event_finds_the_result(self, bench: Bench) -> None:
        """A bus may lose an event; whoever waits for the job learns of its end within two seconds."""
        looked = asyncio.Event()

        class Watched(WrappedStore):
            async def find(self, *args: Any, **options: Any) -> Any:
                found = await super().find(*args, **options)
                looked.set()
                return found

        job = await Queue[Any]("q", Watched(bench.store), clock=bench.clock).add("work")
        waiter = asyncio.ensure_future(job.wait_until_finished())
        await looked.wait()
        (held,) = (await bench.store.claim(claim())).jobs
        report = Report(result="quietly").encode(final=True)
        await bench.store.settle([Outcome.completed(held, report)])

        await bench.later("2s")

        async with asyncio.timeout(SOON):
            assert await waiter == "quietly", (
                "two seconds after an event that was lost, a waiter looks itself"
            )

    async def test_a_queues_events_follow_a_jobs_life(self, handles: tuple[Store, Store]) -> None:
        """B19: every event that is documented is sent, progress and removal included; B7: so are retries."""
        mine, other = handles
        queue: Queue[Any] = Queue("q", mine)
        watcher: Queue[Any] = Queue("q", other)

        async def handler(job: Job[Any]) -> None:
            await job.update_progress(50)
            if not job.attempts_made:
                raise RuntimeError("once")

        async with Watcher(watcher, mine) as watching:
            job = await queue.add("work", attempts=2)
            async with Worker("q", handler, mine):
                await job.wait_until_finished(SOON)
            await job.remove()
            received = await watching.until(JobRemoved)

        names = [type(event).__name__ for event in received]
        assert names[0] == "JobWaiting"
        assert [name for name in names if name not in {"JobWaiting", "JobDelayed"}] == [
            *("JobActive", "JobProgress", "JobRetrying"),
            *("JobActive", "JobProgress", "JobCompleted", "JobRemoved"),
        ]
        assert {event.queue_name for event in received} == {"q"}

    async def test_pausing_publishes_events(self, handles: tuple[Store, Store]) -> None:
        """B19: upstream published nothing."""
        mine, other = handles
        watcher: Queue[Any] = Queue("q", other)

        async with Watcher(watcher, mine) as watching:
            await Queue("q", mine).pause("work")
            event = (await watching.until(QueuePaused))[-1]

        assert isinstance(event, QueuePaused)
        assert (event.queue_name, event.job_name) == ("q", "work")

    async def test_a_job_is_observed_until_it_has_finished(self, store: Store) -> None:
        queue: Queue[Any] = Queue("q", store)
        job = await queue.add("work")
        other = await queue.add("work")

        async def observe() -> list[str]:
            return [
                f"{type(event).__name__} {event.job_id if isinstance(event, JobEvent) else ''}"
                async for event in queue.observe(job.id)
            ]

        observing = asyncio.create_task(observe())
        await asyncio.sleep(0.02)
        async with Worker("q", nothing, store):
            await other.wait_until_finished(SOON)
            async with asyncio.timeout(SOON):
                received = await observing

        assert received[-1] == f"JobCompleted {job.id}"
        assert not [line for line in received if other.id in line]

    async def test_the_events_of_a_job_that_has_finished_end_at_once(self, bench: Bench) -> None:
        job = await bench.queue.add("work")
        await bench.run()
        assert await bench.state(job) is JobState.COMPLETED

        async with asyncio.timeout(SOON):
            received = [type(event).__name__ async for event in bench.queue.observe(job.id)]

        assert received == ["JobCompleted"]
        with pytest.raises(JobNotFoundError, match="nobody"):
            await anext(bench.queue.observe("nobody"))
