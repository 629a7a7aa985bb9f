"""Worker behaviour: workers that die, leases that are lost, timeouts, and a store that fails."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import SOON, Bench, Gate, Recorder, fail, nothing, until_finished
from conveyor.conformance.kit.make import claim, span
from conveyor.core import (
    Job,
    JobState,
    LeaseLostError,
    NewJob,
    Queue,
    Store,
    StoreUnavailableError,
    Worker,
)
from conveyor.core.store import Beat
from conveyor.core.testing import FaultyStore


@area("queue behaviour")
class Losses:
    """No job is lost, and none runs for ever."""

    async def die_with(self, bench: Bench) -> None:
        """Claim and start a job as a worker does that dies at once."""
        claimed = await bench.store.claim(claim(1, lease=span(30), worker="the late one"))
        assert len(claimed.jobs) == 1
        await bench.store.renew([Beat(lease=claimed.jobs[0].lease, started=True)], span(30))

    async def test_a_job_whose_worker_died_runs_again_and_has_used_no_attempt(self, bench: Bench) -> None:
        """B6: upstream failed it for good, attempts being 1."""
        job = await bench.queue.add("work", attempts=1)
        await self.die_with(bench)
        recorder = Recorder()

        await bench.later("29.999s")
        await bench.run(recorder)
        assert recorder.ids == []
        await bench.later("1ms")
        await bench.run(recorder)

        await job.refresh()
        assert (job.state, job.stalled_count, job.attempts_made) == (JobState.COMPLETED, 1, 0)
        assert [run.outcome for run in job.attempt_history] == ["stalled", "completed"]

    async def test_a_job_that_kills_its_workers_fails_when_it_has_stalled_too_often(
        self, bench: Bench
    ) -> None:
        job = await bench.queue.add("work")
        recorder = Recorder()

        for _ in range(3):
            await self.die_with(bench)
            await bench.later("30s")
            await bench.store.advance({"q"})
        await bench.run(recorder, max_stalled=2)

        await job.refresh()
        assert recorder.ids == []
        assert job.state is JobState.FAILED
        assert "stalled" in str(job.failed_reason)

    async def test_a_worker_that_lost_its_job_cannot_change_it_any_more(self, bench: Bench) -> None:
        """B3: upstream's stale worker completed, failed and extended another's run."""
        job = await bench.queue.add("work")
        gate = Gate()
        refused: list[BaseException] = []

        async def slow(job: Job[Any]) -> str:
            await gate(job)
            try:
                await job.update_progress(99)
            except (LeaseLostError, asyncio.CancelledError) as error:
                refused.append(error)
            return "stale"

        late = asyncio.create_task(bench.run(slow))
        await gate.until_begun()
        await bench.later("31s")
        await bench.run(Recorder(result="fresh"))
        gate.opened.set()
        await late

        await job.refresh()
        assert (job.return_value, job.data, job.progress, job.logs) == ("fresh", None, 0, [])
        assert len(refused) == 1
        assert [run.outcome for run in job.attempt_history] == ["stalled", "completed"]

    async def test_a_timeout_cancels_the_run_before_there_is_another(self, bench: Bench) -> None:
        """B13: upstream left the old run going beside its retry."""
        job = await bench.queue.add("work", attempts=2, timeout="5s")
        running, most = 0, 0

        async def slow(_: Job[Any]) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                await asyncio.Event().wait()
            finally:
                running -= 1

        work = asyncio.create_task(bench.run(slow))
        async with asyncio.timeout(SOON):
            while not work.done():
                await bench.later("1s")
                await asyncio.sleep(0.001)
        await work

        await job.refresh()
        assert (job.state, job.attempts_made, most, running) == (JobState.FAILED, 2, 1, 0)
        assert [run.outcome for run in job.attempt_history] == ["timed-out", "timed-out"]

    async def test_a_thread_past_its_timeout_keeps_its_slot_and_not_its_job(self, bench: Bench) -> None:
        """Nothing can stop a thread, which is no reason for its job to wait."""
        job = await bench.queue.add("work", timeout="5s")
        begun, go_on = threading.Event(), threading.Event()
        refused: list[LeaseLostError] = []

        def slow(job: Job[Any]) -> str:
            begun.set()
            go_on.wait(SOON)
            try:
                job.update_progress(99)
            except LeaseLostError as error:
                refused.append(error)
            return "late"

        work = asyncio.create_task(bench.run(slow))
        try:
            assert await asyncio.to_thread(begun.wait, SOON)
            await bench.later("5s")
            await until_finished(job)
            assert not work.done()
        finally:
            go_on.set()
            await work

        await job.refresh()
        assert (job.state, job.progress, job.return_value) == (JobState.FAILED, 0, None)
        assert [run.outcome for run in job.attempt_history] == ["timed-out"]
        assert len(refused) == 1

    async def test_a_job_that_is_not_to_be_kept_is_gone_when_it_has_ended(self, bench: Bench) -> None:
        done = await bench.queue.add("work", remove_on_complete=True)
        failed = await bench.queue.add("fail", remove_on_fail=True)

        await bench.run({"work": nothing, "fail": fail})

        assert await bench.queue.get_job(done.id) is None
        assert await bench.queue.get_job(failed.id) is None

    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("method", ["settle", "claim", "advance"])
    async def test_a_store_that_fails_now_and_then_costs_no_job(
        self, store: Store, method: str, *, after: bool
    ) -> None:
        """B4: an error behind a write that was made does not make the job run again, or fail it."""
        faulty = FaultyStore(store)
        queue: Queue[Any] = Queue("q", faulty)
        runs = Recorder(result="ok")
        jobs = await queue.add_bulk([NewJob("work", n, attempts=1) for n in range(5)])
        faulty.fail(method, StoreUnavailableError("gone", outcome_unknown=after), times=1, after=after)

        async with Worker("q", runs, faulty, poll_interval="50ms", prefetch=0):
            if method == "claim" and after:
                # What that claim took comes back when its lease is over: not in this test's time.
                results = [await job.wait_until_finished(SOON) for job in jobs[1:]]
            else:
                results = [await job.wait_until_finished(SOON) for job in jobs]

        assert set(results) == {"ok"}
        assert len(runs.ids) == len(set(runs.ids))
