"""Queue behaviour: counting, reading, pausing, cancelling and removing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import Bench, Gate, Recorder, fail
from conveyor.conformance.kit.make import at
from conveyor.core import (
    InvalidJobStateError,
    Job,
    JobNotFoundError,
    JobState,
    NewJob,
    Pause,
)


@area("queue behaviour")
class Managing:
    """Pausing, counting, reading, and sets of jobs."""

    async def test_every_state_is_in_the_counts(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("work"), NewJob("work"), NewJob("work", delay="1h")])

        counts = await bench.queue.get_job_counts()

        assert counts == dict.fromkeys(JobState, 0) | {JobState.WAITING: 2, JobState.DELAYED: 1}
        assert await bench.queue.count("waiting", "delayed") == 3

    async def test_at_most_so_many_of_each_state_are_counted_if_asked(self, bench: Bench) -> None:
        await bench.queue.add_bulk([*(NewJob("work") for _ in range(4)), NewJob("work", delay="1h")])

        counts = await bench.queue.get_job_counts(most=3)

        assert counts == dict.fromkeys(JobState, 0) | {JobState.WAITING: 3, JobState.DELAYED: 1}
        assert await bench.queue.count("waiting", "delayed", most=3) == 4
        assert await bench.queue.count("waiting", most=9) == 4

    async def test_jobs_are_read_page_by_page(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("work", n) for n in range(7)])

        read: list[Any] = []
        page: list[Job[Any]] = []
        while page := await bench.queue.get_jobs("waiting", limit=3, after=page[-1] if page else None):
            read += [job.data for job in page]

        assert read == list(range(7))

    async def test_a_paused_queue_starts_nothing_until_it_is_resumed(self, bench: Bench) -> None:
        await bench.queue.add("work")
        recorder = Recorder()

        await bench.queue.pause()
        await bench.run(recorder)
        assert recorder.ids == []
        assert await bench.queue.get_paused() == {Pause(): None}

        await bench.queue.resume()
        await bench.run(recorder)
        assert len(recorder.ids) == 1

    async def test_a_paused_name_is_left_and_others_go_on(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("x", 1), NewJob("y", 2), NewJob("x", 3)])
        recorder = Recorder()

        await bench.queue.pause("x")
        await bench.run(recorder)
        assert recorder.data == [2]

        await bench.queue.resume()
        await bench.run(recorder)
        assert recorder.data == [2]

        await bench.queue.resume("x")
        await bench.run(recorder)
        assert recorder.data == [2, 1, 3]

    @pytest.mark.parametrize("name", ["__all__", "*", "%", "None"])
    async def test_no_name_of_a_job_pauses_the_queue(self, bench: Bench, name: str) -> None:
        await bench.queue.add_bulk([NewJob(name, 1), NewJob("work", 2)])
        recorder = Recorder()

        await bench.queue.pause(name)
        await bench.run(recorder)

        assert recorder.data == [2]

    async def test_running_jobs_of_a_paused_queue_finish(self, bench: Bench) -> None:
        gate = Gate()
        job = await bench.queue.add("work")
        running = asyncio.create_task(bench.run(gate))
        await gate.until_begun()

        await bench.queue.pause()
        gate.opened.set()
        await running

        assert await bench.state(job) is JobState.COMPLETED

    async def test_retried_jobs_run_with_all_their_attempts(self, bench: Bench) -> None:
        """B18: upstream kept what the first runs had used up."""
        job = await bench.queue.add("work", attempts=2)
        await bench.run(fail)
        assert (await bench.state(job), job.attempts_made) == (JobState.FAILED, 2)

        assert await bench.queue.retry_jobs() == 1
        assert await bench.state(job) is JobState.WAITING
        runs = Recorder()
        await bench.run(runs)

        await job.refresh()
        assert runs.ids == [job.id]
        assert (job.state, job.failed_at, job.attempts_made) == (JobState.COMPLETED, None, 0)

    async def test_a_cancelled_job_that_is_retried_runs_like_any_other(self, bench: Bench) -> None:
        """B18: upstream cancelled it again at its first renewal."""
        job = await bench.queue.add("work")
        assert await job.cancel()
        await job.retry()

        await bench.run()

        await job.refresh()
        assert (job.state, job.cancelled_at, job.cancelled) == (JobState.COMPLETED, None, False)

    async def test_only_finished_jobs_can_be_retried(self, bench: Bench) -> None:
        """B18: upstream retried a running job, which then ran twice."""
        gate = Gate()
        waiting = await bench.queue.add("work")
        delayed = await bench.queue.add("work", delay="1h")
        running = asyncio.create_task(bench.run(gate))
        await gate.until_begun()

        for job in (waiting, delayed):
            with pytest.raises(InvalidJobStateError):
                await job.retry()
        gate.opened.set()
        await running

        assert gate.runs == 1

    async def test_promoted_jobs_run_now_in_their_old_places(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work", 1, delay="1h"), NewJob("work", 2)])

        assert await bench.queue.promote_jobs() == 1
        recorder = Recorder()
        await bench.run(recorder)

        assert recorder.ids == [job.id for job in jobs]

    async def test_drain_removes_what_waits_and_nothing_else(self, bench: Bench) -> None:
        done = await bench.queue.add("work")
        await bench.run()
        await bench.queue.add_bulk([NewJob("work"), NewJob("work", delay="1h")])

        assert await bench.queue.drain(delayed=False) == 1
        assert await bench.queue.drain() == 1

        assert [job.id for job in await bench.queue.get_jobs()] == [done.id]

    async def test_clean_removes_what_is_old_enough(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("work") for _ in range(3)])
        await bench.run()
        await bench.later("1h")
        await bench.queue.add("work")
        await bench.run()

        assert await bench.queue.clean("completed", grace="30m", limit=2) == 2
        assert await bench.queue.clean("completed", grace="30m") == 1
        assert await bench.queue.clean("completed", grace="30m") == 0
        assert await bench.queue.count() == 1

    async def test_obliterate_leaves_no_trace_and_spares_running_jobs_unless_forced(
        self, bench: Bench
    ) -> None:
        gate = Gate()
        job = await bench.queue.add("work")
        await bench.queue.pause("x")
        running = asyncio.create_task(bench.run(gate))
        await gate.until_begun()

        with pytest.raises(InvalidJobStateError):
            await bench.queue.obliterate()
        assert await bench.state(job) is JobState.ACTIVE
        assert await bench.queue.get_paused() == {Pause(name="x"): None}

        await bench.queue.obliterate(force=True)
        gate.opened.set()
        await running

        assert await bench.queue.count() == 0
        assert await bench.queue.get_paused() == {}

    async def test_a_job_that_waits_is_cancelled_at_once(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work"), NewJob("work", delay="1h")])

        for job in jobs:
            assert await bench.queue.cancel(job.id)
            assert await bench.state(job) is JobState.CANCELLED
            assert not await bench.queue.cancel(job.id)

        assert not await bench.queue.cancel("unknown")
        recorder = Recorder()
        await bench.run(recorder)
        assert recorder.ids == []

    async def test_a_job_can_be_changed_while_it_waits(self, bench: Bench) -> None:
        job = await bench.queue.add("work", 1, delay="1h")

        await job.update_data({"n": 2})
        await job.change_priority(-5)
        await job.change_delay("10s")
        found = await bench.queue.get_job(job.id)
        assert found is not None
        assert (found.data, found.priority, found.delay_until) == ({"n": 2}, -5, at(10))

        await job.promote()
        assert await bench.state(job) is JobState.WAITING
        with pytest.raises(InvalidJobStateError):
            await job.promote()

    async def test_a_job_can_be_removed_unless_it_runs(self, bench: Bench) -> None:
        gate = Gate()
        job = await bench.queue.add("work")
        running = asyncio.create_task(bench.run(gate))
        await gate.until_begun()
        with pytest.raises(InvalidJobStateError):
            await job.remove()
        gate.opened.set()
        await running

        await job.remove()

        assert await bench.queue.get_job(job.id) is None
        with pytest.raises(JobNotFoundError):
            await job.refresh()

    async def test_logs_and_progress_are_kept_for_jobs_that_wait_too(self, bench: Bench) -> None:
        job = await bench.queue.add("work", delay="1h")

        await job.log("one")
        await job.log("two")
        await job.update_progress(12.5)

        found = await bench.queue.get_job(job.id)
        assert found is not None
        assert (found.logs, found.progress) == (["one", "two"], 12.5)
        assert (found.state, found.delay_until, found.attempts_made) == (JobState.DELAYED, at(3_600), 0)
