"""Queue behaviour: `Worker` on the store, as users see it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import SOON, Bench, Gate, Recorder, fail, nothing, until, until_finished
from conveyor.conformance.kit.make import at, claim, span
from conveyor.core import (
    Backoff,
    Batch,
    Feature,
    Job,
    JobState,
    Keep,
    LeaseLostError,
    NewJob,
    Pause,
    Queue,
    RateLimited,
    Retry,
    Snooze,
    Store,
    StoreUnavailableError,
    Unrecoverable,
    Worker,
)
from conveyor.core.store import Beat, Claim, Claimed
from conveyor.core.testing import FaultyStore, WrappedStore


class _ClaimsAnyName(WrappedStore):
    """A store whose first claim does not look at names."""

    _first = True

    async def claim(self, request: Claim, *, now: datetime | None = None) -> Claimed:
        names, self._first = None if self._first else request.names, False
        return await super().claim(replace(request, names=names), now=now)


async def cancels_its_own_task(_: Job[Any]) -> None:
    """Cancel the task that it runs in."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def waits_for_a_cancelled_task(_: Job[Any]) -> None:
    """Wait for a task of its own that is cancelled."""
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


async def raises_a_cancellation(_: Job[Any]) -> None:
    """Raise it without being cancelled."""
    raise asyncio.CancelledError


def raises_a_cancellation_in_a_thread(_: Job[Any]) -> None:
    """Raise it as a plain function."""
    raise asyncio.CancelledError


def returns_what_cancels_its_own_task(job: Job[Any]) -> object:
    """Be a plain function that makes a coroutine."""
    return cancels_its_own_task(job)


CANCELLING: list[Callable[[Job[Any]], object]] = [
    cancels_its_own_task,
    waits_for_a_cancelled_task,
    raises_a_cancellation,
    raises_a_cancellation_in_a_thread,
    returns_what_cancels_its_own_task,
]


@area("queue behaviour")
class RunningJobs:
    """Runs, one after the other, with a clock that is turned by hand."""

    # ------------------------------------------------------------------ order

    async def test_jobs_run_by_priority_and_then_in_order(self, bench: Bench) -> None:
        """B11: `lifo` of a single job is honoured."""
        await bench.queue.add_bulk(
            [
                NewJob("work", "fifo 1"),
                NewJob("work", "late", priority=5),
                NewJob("work", "lifo 1", lifo=True),
                NewJob("work", "fifo 2"),
                NewJob("work", "urgent", priority=-5),
                NewJob("work", "lifo 2", lifo=True),
            ]
        )
        recorder = Recorder()

        await bench.run(recorder)

        assert recorder.data == ["urgent", "lifo 2", "lifo 1", "fifo 1", "fifo 2", "late"]

    async def test_a_lifo_worker_takes_the_newest_first(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("work", 1), NewJob("work", 2, lifo=True), NewJob("work", 3)])
        recorder = Recorder()

        await bench.run(recorder, lifo=True, prefetch=0)

        assert recorder.data == [3, 2, 1]

    async def test_a_worker_with_a_mapping_leaves_other_names_alone(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("x", 1), NewJob("y", 2), NewJob("z", 3)])
        x, z = Recorder(), Recorder()

        await bench.run({"x": x, "z": z})

        assert (x.data, z.data) == ([1], [3])
        assert [job.name for job in await bench.queue.get_jobs("waiting")] == ["y"]

    # ------------------------------------------------------- attempts, backoff

    async def test_a_job_runs_as_often_as_it_has_attempts_and_then_fails(self, bench: Bench) -> None:
        job = await bench.queue.add("work", attempts=3)

        await bench.run(fail)

        await job.refresh()
        assert (job.state, job.attempts_made, job.stalled_count) == (JobState.FAILED, 3, 0)
        assert job.failed_reason == "run 3 went wrong"
        assert [(run.number, run.outcome, run.message) for run in job.attempt_history] == [
            (1, "failed", "run 1 went wrong"),
            (2, "failed", "run 2 went wrong"),
            (3, "failed", "run 3 went wrong"),
        ]
        assert len(job.stacktrace) == 3

    @pytest.mark.parametrize(
        ("backoff", "waits"),
        [
            (None, [0, 0, 0]),
            ("5s", [5, 5, 5]),
            (Backoff("exponential", "2s"), [2, 4, 8]),
            (Backoff("exponential", "2s", max_delay="5s"), [2, 4, 5]),
            (Backoff("linear", "3s"), [3, 6, 9]),
            (["1s", "1m"], [1, 60, 60]),
            ("squares", [1, 4, 9]),
        ],
        ids=["none", "fixed", "exponential", "capped", "linear", "list", "strategy"],
    )
    async def test_a_failed_job_runs_again_exactly_after_its_backoff(
        self, bench: Bench, backoff: Any, waits: list[int]
    ) -> None:
        """B9: strategies are named, and so survive storage."""
        job = await bench.queue.add("work", attempts=4, backoff=backoff)
        strategies = {"squares": lambda failures: failures**2}
        second = 0

        for failures, wait in enumerate(waits, start=1):
            if wait or failures == 1:
                await bench.run(fail, backoff_strategies=strategies)
            if not wait:
                continue
            await job.refresh()
            second += wait
            assert (job.state, job.attempts_made) == (JobState.DELAYED, failures)
            assert job.delay_until == at(second)
            await bench.later(span(wait) - span(0.001))
            await bench.run(fail, backoff_strategies=strategies)
            assert (await job.refresh()).attempts_made == failures
            await bench.later("1ms")
        await bench.run(fail, backoff_strategies=strategies)

        await job.refresh()
        assert (job.state, job.attempts_made) == (JobState.FAILED, 4)

    async def test_a_snoozed_job_runs_later_and_has_used_no_attempt(self, bench: Bench) -> None:
        job = await bench.queue.add("work", attempts=1)

        async def snooze(_: Job[Any]) -> None:
            raise Snooze("10 minutes")

        for n in range(3):
            await bench.run(snooze)
            await job.refresh()
            assert (job.state, job.attempts_made, job.delay_until) == (
                JobState.DELAYED,
                0,
                at(600 * (n + 1)),
            )
            await bench.later("10 minutes")
        await bench.run()
        assert await bench.state(job) is JobState.COMPLETED

    async def test_retry_and_unrecoverable_decide_over_the_backoff(self, bench: Bench) -> None:
        again = await bench.queue.add("again", attempts=3, backoff="1h")
        never = await bench.queue.add("never", attempts=3)

        async def handler(job: Job[Any]) -> None:
            if job.name == "again":
                raise Retry("7s")
            raise Unrecoverable("no such user")

        await bench.run(handler)

        await again.refresh()
        await never.refresh()
        assert (again.state, again.attempts_made, again.delay_until) == (JobState.DELAYED, 1, at(7))
        assert (never.state, never.attempts_made, never.failed_reason) == (JobState.FAILED, 1, "no such user")

    async def test_a_job_that_has_no_handler_here_goes_back_as_if_never_claimed(self, store: Store) -> None:
        bench = Bench(_ClaimsAnyName(store))
        theirs = await bench.queue.add("theirs")
        mine = await bench.queue.add("mine")

        await bench.run({"mine": nothing})

        await theirs.refresh()
        assert (theirs.state, theirs.attempts_made, theirs.failed_reason) == (JobState.WAITING, 0, None)
        assert await bench.state(mine) is JobState.COMPLETED

    async def test_what_a_handler_decides_is_not_overwritten_when_it_returns(self, bench: Bench) -> None:
        """B5: upstream completed the job all the same."""
        delayed = await bench.queue.add("delay")
        failed = await bench.queue.add("fail")

        async def handler(job: Job[Any]) -> str:
            if job.name == "delay":
                await job.move_to_delayed("1h")
            else:
                await job.move_to_failed("on purpose")
            return "returned"

        await bench.run(handler)

        await delayed.refresh()
        await failed.refresh()
        assert (delayed.state, delayed.delay_until, delayed.attempts_made) == (
            JobState.DELAYED,
            at(3_600),
            0,
        )
        assert (failed.state, failed.failed_reason) == (JobState.FAILED, "on purpose")

    async def test_rate_limited_pauses_the_queue_for_everybody_for_that_long(self, bench: Bench) -> None:
        first = await bench.queue.add("work")
        await bench.queue.add("work")

        async def limited(_: Job[Any]) -> None:
            raise RateLimited("1 minute")

        await bench.run(limited)
        assert await bench.queue.get_paused() == {Pause(): at(60)}
        assert (await first.refresh()).attempts_made == 0

        recorder = Recorder()
        await bench.later("59s")
        await bench.run(recorder)
        assert recorder.ids == []
        await bench.later("1s")
        await bench.run(recorder)
        assert len(recorder.ids) == 2

    # ----------------------------------------------------------------- results

    async def test_a_result_that_is_not_json_fails_the_job_for_good(self, bench: Bench) -> None:
        job = await bench.queue.add("work", attempts=5)

        await bench.run(Recorder(result=object()))

        await job.refresh()
        assert (job.state, job.return_value) == (JobState.FAILED, None)
        assert [run.error_type for run in job.attempt_history] == ["UnserialisableResultError"]

    @pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), None])
    async def test_whatever_a_handler_raises_is_recorded_and_the_slot_comes_back(
        self, bench: Bench, error: BaseException | None
    ) -> None:
        """B5: a slot is never lost."""

        class Broken(Exception):  # noqa: N818 - it is more than an error
            def __str__(self) -> str:
                raise ValueError("no text")

        jobs = await bench.queue.add_bulk([NewJob("work", n) for n in range(3)])

        async def handler(job: Job[Any]) -> None:
            if job.data == 0:
                raise error or Broken("\x00\ud800")

        await bench.run(handler)

        assert [await bench.state(job) for job in jobs[1:]] == [JobState.COMPLETED] * 2
        assert (await jobs[0].refresh()).state in {JobState.FAILED, JobState.WAITING, JobState.COMPLETED}

    @pytest.mark.parametrize("handler", CANCELLING, ids=lambda handler: handler.__name__)
    async def test_a_handler_that_is_cancelled_by_itself_has_failed(
        self, bench: Bench, handler: Callable[[Job[Any]], object]
    ) -> None:
        job = await bench.queue.add("work", attempts=3)

        await bench.run(handler)

        await job.refresh()
        assert (job.state, job.attempts_made) == (JobState.FAILED, 3)
        assert [run.outcome for run in job.attempt_history] == ["failed"] * 3
        assert job.failed_reason

    async def test_a_batch_that_is_cancelled_by_its_handler_has_failed(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work", attempts=2) for _ in range(3)])

        async def handler(jobs: list[Job[Any]]) -> None:
            await cancels_its_own_task(jobs[0])

        await bench.run(handler, batch=Batch(3))

        assert [(await job.refresh()).attempts_made for job in jobs] == [2, 2, 2]
        assert {await bench.state(job) for job in jobs} == {JobState.FAILED}

    async def test_progress_logs_and_history_are_kept_with_the_job(self, bench: Bench) -> None:
        job = await bench.queue.add("work", attempts=2)

        async def handler(job: Job[Any]) -> str:
            await job.log(f"run {job.attempts_made}: é🐝")
            await job.update_progress(40 + job.attempts_made)
            if not job.attempts_made:
                raise RuntimeError("first")
            return "ok"

        await bench.run(handler)

        found = await bench.queue.get_job(job.id)
        assert found is not None
        assert found.logs == ["run 0: é🐝", "run 1: é🐝"]
        assert (found.progress, found.return_value) == (41, "ok")
        assert [run.outcome for run in found.attempt_history] == ["failed", "completed"]
        assert [run.started_at for run in found.attempt_history] == [at(0), at(0)]

    async def test_many_lines_logged_at_once_are_all_kept(self, bench: Bench) -> None:
        """B20: upstream lost lines of concurrent writers."""
        job = await bench.queue.add("work")

        async def handler(job: Job[Any]) -> None:
            await asyncio.gather(*(job.log(f"line {n}") for n in range(40)))

        await bench.run(handler)

        assert sorted((await job.refresh()).logs) == sorted(f"line {n}" for n in range(40))

    async def test_a_handler_may_change_its_jobs_data(self, bench: Bench) -> None:
        job = await bench.queue.add("work", {"step": 1}, attempts=2)
        recorder = Recorder()

        async def handler(job: Job[Any]) -> None:
            await recorder(job)
            await job.update_data({"step": job.data["step"] + 1})
            if job.attempts_made == 0:
                raise RuntimeError("again")

        await bench.run(handler)

        assert recorder.data == [{"step": 1}, {"step": 2}]
        assert (await job.refresh()).data == {"step": 3}

    async def test_a_plain_function_runs_in_a_thread_and_talks_to_the_store(self, bench: Bench) -> None:
        job = await bench.queue.add("work")
        threads: list[bool] = []

        def handler(job: Job[Any]) -> str:
            threads.append(threading.current_thread() is threading.main_thread())
            job.log("from a thread")
            return "ok"

        await bench.run(handler)

        await job.refresh()
        assert threads == [False]
        assert (job.logs, job.return_value) == (["from a thread"], "ok")

    # ------------------------------------------------------------------ stalls

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

    # ---------------------------------------------------------------- timeouts

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

    # --------------------------------------------------------------- retention

    async def test_a_job_that_is_not_to_be_kept_is_gone_when_it_has_ended(self, bench: Bench) -> None:
        done = await bench.queue.add("work", remove_on_complete=True)
        failed = await bench.queue.add("fail", remove_on_fail=True)

        await bench.run({"work": nothing, "fail": fail})

        assert await bench.queue.get_job(done.id) is None
        assert await bench.queue.get_job(failed.id) is None

    # ----------------------------------------------------------------- outages

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
        assert job.created_at is not None
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
