"""Worker behaviour: which jobs run, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import Bench, Recorder, fail, nothing
from conveyor.conformance.kit.make import at, span
from conveyor.core import (
    Backoff,
    Job,
    JobState,
    NewJob,
    Pause,
    RateLimited,
    Retry,
    Snooze,
    Store,
    Unrecoverable,
)
from conveyor.core.store import Claim, Claimed
from conveyor.core.testing import WrappedStore


class _ClaimsAnyName(WrappedStore):
    """A store whose first claim does not look at names."""

    _first = True

    async def claim(self, request: Claim, *, now: datetime | None = None) -> Claimed:
        names, self._first = None if self._first else request.names, False
        return await super().claim(replace(request, names=names), now=now)


@area("queue behaviour")
class Runs:
    """Order, names, attempts, and what a handler decides."""

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

    async def test_a_result_that_is_not_json_fails_the_job_for_good(self, bench: Bench) -> None:
        job = await bench.queue.add("work", attempts=5)

        await bench.run(Recorder(result=object()))

        await job.refresh()
        assert (job.state, job.return_value) == (JobState.FAILED, None)
        assert [run.error_type for run in job.attempt_history] == ["UnserialisableResultError"]
