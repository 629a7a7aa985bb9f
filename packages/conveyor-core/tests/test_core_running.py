"""What becomes of a job by the way its handler ends."""

from __future__ import annotations

import asyncio
import enum
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn

import pytest

from conveyor.core import (
    Backoff,
    Batch,
    Group,
    Job,
    JobState,
    LeaseLostError,
    NewJob,
    Pause,
    Queue,
    RateLimited,
    Retry,
    Snooze,
    StoreUnavailableError,
    Unrecoverable,
    Worker,
)
from conveyor.core.signals import Signal
from conveyor.core.testing import FaultyStore, ManualClock

MakeWorker = Callable[..., Worker[Any]]


class BoomError(Exception):
    pass


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Deep(BaseException):
    pass


async def until(true: Callable[[], bool]) -> None:
    """Return when it is true, also by threads."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - nothing tells a test when
            await asyncio.sleep(0.001)


async def settled(worker: Worker[Any], jobs: int) -> None:
    """Return when that many jobs are settled, also by threads."""
    await until(lambda: worker.stats().settled >= jobs)


def failing(error: BaseException) -> Callable[[Any], Any]:
    async def handler(_: Job[Any]) -> NoReturn:
        raise error

    return handler


def failing_in_thread(error: BaseException) -> Callable[[Any], Any]:
    def handler(_: Job[Any]) -> NoReturn:
        raise error

    return handler


async def test_what_a_handler_returns_is_the_jobs_result(queue: Queue[Any], worker: MakeWorker) -> None:
    job = await queue.add("sum", [1, 2, 3])

    async def handler(job: Job[Any]) -> int:
        return sum(job.data)

    await worker(handler).run_until_idle()

    await job.refresh()
    assert job.state is JobState.COMPLETED
    assert job.return_value == 6
    assert await job.wait_until_finished() == 6
    assert job.completed_at is not None
    assert job.failed_at is None
    assert job.cancelled_at is None


@pytest.mark.parametrize(
    "result", [None, False, 0, "", [], {}, "123", "null", 0.5, {"é": [None, {"b": 1.0}]}]
)
async def test_a_result_comes_back_as_it_was(queue: Queue[Any], worker: MakeWorker, result: object) -> None:
    job = await queue.add("a")

    async def handler(_: Job[Any]) -> object:
        return result

    await worker(handler).run_until_idle()

    found = await job.wait_until_finished()
    assert found == result
    assert type(found) is type(result)


class Colour(enum.Enum):
    RED = 1


class Liar(dict[str, Any]):
    def items(self) -> NoReturn:
        raise BoomError("never mind")


@pytest.mark.parametrize(
    "result",
    [object(), float("nan"), {"a": {1: 2}}, "\x00", "\ud800", Colour, 10**5_000, Liar(a=1)],
    ids=lambda value: type(value).__name__,
)
async def test_a_result_that_is_not_json_fails_the_job_without_a_retry(
    queue: Queue[Any], worker: MakeWorker, result: object
) -> None:
    job = await queue.add("a", attempts=5)

    async def handler(_: Job[Any]) -> object:
        return result

    await worker(handler).run_until_idle()

    await job.refresh()
    assert job.state is JobState.FAILED
    assert job.attempt_history[-1].error_type == "UnserialisableResultError"
    assert len(job.attempt_history) == 1
    assert "result" in (job.failed_reason or "")


async def test_a_job_runs_as_often_as_its_attempts_say(queue: Queue[Any], worker: MakeWorker) -> None:
    once, thrice = await queue.add("a"), await queue.add("a", attempts=3)

    await worker(failing(BoomError("no"))).run_until_idle()

    for job, runs in ((once, 1), (thrice, 3)):
        await job.refresh()
        assert job.state is JobState.FAILED
        assert job.attempts_made == runs
        assert [a.outcome for a in job.attempt_history] == ["failed"] * runs
        assert [a.number for a in job.attempt_history] == list(range(1, runs + 1))
        assert job.failed_reason == "no"
        assert job.failed_at is not None


async def test_without_a_backoff_a_failed_job_runs_again_at_once_in_its_old_place(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    runs: list[str] = []

    async def handler(job: Job[Any]) -> None:
        runs.append(job.data)
        if runs == ["first"]:
            raise BoomError

    await queue.add("a", "first", attempts=2)
    await queue.add("a", "second")

    await worker(handler).run_until_idle()

    assert runs == ["first", "first", "second"]


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        ("5s", [5, 5, 5]),
        (2.5, [2.5, 2.5, 2.5]),
        (timedelta(minutes=1), [60, 60, 60]),
        ("fixed", [1, 1, 1]),
        ("exponential", [1, 2, 4]),
        ("linear", [1, 2, 3]),
        (["1s", 10, "1 minute"], [1, 10, 60]),
        ([3, 7], [3, 7, 7]),
        (Backoff("exponential", delay="10s"), [10, 20, 40]),
        (Backoff("exponential", delay="10s", max_delay="15s"), [10, 15, 15]),
        (Backoff("linear", delay="10s", max_delay="25s"), [10, 20, 25]),
        (Backoff([1, 100], max_delay=50), [1, 50, 50]),
        ("squares", [1, 4, 9]),
    ],
    ids=str,
)
async def test_the_backoff_says_how_long_a_failed_job_waits(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, backoff: Any, waits: list[float]
) -> None:
    job = await queue.add("a", attempts=4, backoff=backoff)
    runner = worker(failing(BoomError()), backoff_strategies={"squares": lambda failures: failures**2})

    for wait in waits:
        await runner.run_until_idle()
        await job.refresh()

        assert job.state is JobState.DELAYED
        assert job.delay_until == clock.now() + timedelta(seconds=wait)
        await clock.advance(wait)


async def test_a_job_that_waits_for_its_retry_does_not_run_too_early(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a", attempts=2, backoff="10s")
    runner = worker(failing(BoomError()))
    await runner.run_until_idle()

    await clock.advance(9.999)
    await runner.run_until_idle()

    assert (await job.refresh()).attempts_made == 1
    await clock.advance(0.001)
    await runner.run_until_idle()
    assert (await job.refresh()).attempts_made == 2


@pytest.mark.parametrize(
    "strategies",
    [{}, {"mine": lambda _: 1 / 0}, {"mine": lambda _: "soon"}, {"mine": lambda _: -1}],
    ids=["unknown", "raises", "no duration", "negative"],
)
async def test_a_strategy_that_fails_gives_the_plain_delay_and_says_so(
    queue: Queue[Any],
    worker: MakeWorker,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
    strategies: Any,
) -> None:
    job = await queue.add("a", attempts=2, backoff=Backoff("mine", delay="7s"))

    await worker(failing(BoomError()), backoff_strategies=strategies).run_until_idle()

    assert (await job.refresh()).delay_until == clock.now() + timedelta(seconds=7)
    assert job.id in caplog.text


async def test_jitter_takes_up_to_its_fraction_off_the_delay(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    jobs = [
        await queue.add("a", attempts=2, backoff=Backoff("fixed", delay=100, jitter=0.5)) for _ in range(30)
    ]

    await worker(failing(BoomError())).run_until_idle()

    waits = {((await job.refresh()).delay_until or clock.now()) - clock.now() for job in jobs}
    assert all(timedelta(seconds=50) <= wait <= timedelta(seconds=100) for wait in waits)
    assert len(waits) > 10


# ------------------------------------------------------------------- signals


async def test_a_snoozed_job_runs_later_and_uses_no_attempt(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a", attempts=1)
    runs = 0

    async def handler(_: Job[Any]) -> str:
        nonlocal runs
        runs += 1
        if runs < 4:
            raise Snooze("10 minutes")
        return "done"

    runner = worker(handler)
    for run in range(1, 4):
        await runner.run_until_idle()
        await job.refresh()
        assert runs == run
        assert (job.state, job.attempts_made) == (JobState.DELAYED, 0)
        assert job.delay_until == clock.now() + timedelta(minutes=10)
        await clock.advance("10 minutes")
    await runner.run_until_idle()

    assert (await job.refresh()).return_value == "done"
    assert [a.outcome for a in job.attempt_history] == ["snoozed", "snoozed", "snoozed", "completed"]


async def test_what_a_snoozed_run_left_is_there_for_the_next_one(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a", attempts=3)
    seen: list[tuple[float, bool]] = []

    async def handler(job: Job[Any]) -> None:
        seen.append((job.progress, job.discarded))
        if len(seen) == 1:
            await job.update_progress(40)
            await job.discard()
            raise Snooze(1)
        raise BoomError

    runner = worker(handler)
    await runner.run_until_idle()
    assert (await job.refresh()).progress == 40
    await clock.advance(1)
    await runner.run_until_idle()

    assert seen == [(0, False), (40, True)]
    assert (await job.refresh()).state is JobState.FAILED


async def test_a_retry_counts_as_a_failure_and_chooses_its_delay(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a", attempts=2, backoff="1 hour")
    runner = worker(failing(Retry("5s", "try later")))

    await runner.run_until_idle()

    await job.refresh()
    assert (job.attempts_made, job.failed_reason) == (1, "try later")
    assert job.delay_until == clock.now() + timedelta(seconds=5)
    await clock.advance(5)
    await runner.run_until_idle()
    assert (await job.refresh()).state is JobState.FAILED


async def test_an_unrecoverable_job_fails_at_once(queue: Queue[Any], worker: MakeWorker) -> None:
    job = await queue.add("a", attempts=10)

    await worker(failing(Unrecoverable("no such user"))).run_until_idle()

    await job.refresh()
    assert (job.state, job.attempts_made) == (JobState.FAILED, 1)
    assert job.failed_reason == "no such user"


async def test_a_rate_limited_queue_is_paused_for_all_workers_and_no_attempt_is_used(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    limited = True
    runs: list[str] = []

    async def handler(job: Job[Any]) -> None:
        runs.append(job.data)
        if limited:
            raise RateLimited("1 minute")

    job = await queue.add("a", "one")
    await queue.add("a", "two")
    await worker(handler).run_until_idle()
    limited = False

    await worker(handler).run_until_idle()
    assert runs == ["one"]
    assert (await job.refresh()).attempts_made == 0
    await clock.advance("1 minute")
    await worker(handler).run_until_idle()

    assert runs == ["one", "one", "two"]


async def test_a_rate_limited_job_of_a_group_pauses_only_its_group(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    runs: list[str] = []

    async def handler(job: Job[Any]) -> None:
        runs.append(job.data)
        if job.group_id == "slow":
            raise RateLimited("1 minute")

    for number in (1, 2):
        await queue.add("a", f"slow {number}", group=Group("slow"))
        await queue.add("a", f"fast {number}", group="fast")
    await worker(handler).run_until_idle()

    assert sorted(runs) == ["fast 1", "fast 2", "slow 1"]
    assert list(await queue.get_paused()) == [Pause(group="slow")]


async def test_jobs_that_were_ready_go_back_when_one_says_that_the_rate_is_reached(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    runs: list[int] = []

    async def handler(job: Job[Any]) -> None:
        runs.append(job.data)
        raise RateLimited("1 minute")

    await queue.add_bulk([NewJob("a", number) for number in range(5)])
    async with worker(handler, prefetch=4):
        await clock.settle()

        assert runs == [0]
        assert (await queue.get_job_counts())[JobState.WAITING] == 5


@pytest.mark.parametrize("make", [failing, failing_in_thread])
async def test_signals_work_from_threads_too(
    queue: Queue[Any], worker: MakeWorker, make: Callable[[BaseException], Any]
) -> None:
    job = await queue.add("a", attempts=9)

    await worker(make(Unrecoverable("enough"))).run_until_idle()

    assert (await job.refresh()).failed_reason == "enough"
    assert job.attempts_made == 1


# ------------------------------------------------------- hostile exceptions

HOSTILE = [
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError("not yours"),
    RecursionError("deep"),
    MemoryError(),
    Deep("base"),
    MuteError(),
    StopIteration(1),
    StopAsyncIteration(),
    ExceptionGroup("several", [BoomError("one"), ValueError("two")]),
    BaseExceptionGroup("several", [KeyboardInterrupt()]),
    BoomError("NUL \x00 here"),
    BoomError("lone \ud800 surrogate"),
    BoomError("x" * 10_000_000),
    StoreUnavailableError("the handler's own store"),
    TimeoutError("not ours"),
]


@pytest.mark.parametrize("make", [failing, failing_in_thread], ids=["async", "thread"])
@pytest.mark.parametrize("error", HOSTILE, ids=lambda error: type(error).__name__)
async def test_whatever_a_handler_raises_is_recorded_and_the_slot_comes_back(
    queue: Queue[Any], worker: MakeWorker, error: BaseException, make: Callable[[BaseException], Any]
) -> None:
    bad, good = await queue.add("bad"), await queue.add("good")
    runner = worker({"bad": make(error), "good": lambda _: "fine"})

    await runner.run_until_idle()

    await bad.refresh()
    assert bad.state is JobState.FAILED
    assert len(bad.failed_reason or "") <= 8_300
    assert bad.attempt_history[0].error_type in {type(error).__name__, "RuntimeError"}
    assert len(bad.stacktrace) <= 1
    assert (await good.refresh()).return_value == "fine"
    assert runner.stats().free_slots == 1


async def test_the_history_has_the_traceback_of_each_failed_run(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    job = await queue.add("a", attempts=2)

    await worker(failing(BoomError("here"))).run_until_idle()

    await job.refresh()
    assert len(job.stacktrace) == 2
    assert "raise error" in job.stacktrace[0]
    assert "BoomError: here" in job.stacktrace[0]


async def test_only_the_last_20_runs_are_kept(queue: Queue[Any], worker: MakeWorker) -> None:
    job = await queue.add("a", attempts=25)

    await worker(failing(BoomError())).run_until_idle()

    await job.refresh()
    assert [a.number for a in job.attempt_history] == list(range(6, 26))
    assert job.attempts_made == 25


async def test_an_attempt_says_who_ran_it_and_when(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")

    async def handler(_: Job[Any]) -> None:
        await clock.advance(3)

    runner = worker(handler, name="anna")
    await runner.run_until_idle()

    [attempt] = (await job.refresh()).attempt_history
    assert attempt.worker == "anna"
    assert attempt.started_at is not None
    assert attempt.ended_at == attempt.started_at + timedelta(seconds=3)
    assert attempt.outcome == "completed"
    assert attempt.error_type is None


# ------------------------------------------------------------------ timeout


async def test_a_handler_that_runs_too_long_is_cancelled_and_that_is_a_failure(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a", timeout="30s", attempts=2, backoff="1h")
    ended = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with worker(handler):
        await clock.advance("29s")
        assert not ended.is_set()
        await clock.advance("1s")

        assert ended.is_set()
        await job.refresh()
        assert (job.state, job.attempts_made) == (JobState.DELAYED, 1)
        assert job.attempt_history[0].outcome == "timed-out"
        assert job.attempt_history[0].error_type == "JobTimeoutError"


async def test_after_its_timeout_a_handler_keeps_its_slot_until_it_has_ended(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    running = most = runs = 0
    let_go = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        nonlocal running, most, runs
        runs += 1
        running += 1
        most = max(most, running)
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        running -= 1

    job = await queue.add("a", timeout=1, attempts=2)
    async with worker(handler, concurrency=3):
        await clock.advance(20)
        assert (runs, most) == (1, 1)
        let_go.set()
        await clock.advance(1)

        assert (runs, most) == (2, 1)
        assert (await job.refresh()).attempt_history[0].outcome == "timed-out"


async def test_a_plain_function_sees_that_its_time_is_over(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    started, seen = threading.Event(), threading.Event()

    def handler(job: Job[Any]) -> str:
        started.set()
        for _ in range(5_000):
            if job.cancelled:
                seen.set()
                break
            seen.wait(0.001)
        return "late"

    job = await queue.add("a", timeout=1)
    async with worker(handler) as runner:
        await clock.settle()
        await asyncio.to_thread(started.wait, 5)
        await clock.advance(1)
        await asyncio.to_thread(seen.wait, 5)
        await settled(runner, 1)

        assert (await job.refresh()).attempt_history[0].outcome == "timed-out"
        assert job.state is JobState.FAILED


class Stuck:
    """A plain handler that goes on, whatever it is told, until it is let go; then it writes."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.end, self.raised = threading.Event(), list[str]()

    def __call__(self, job: Any) -> str:
        self.begun.release()
        self.end.wait(10)
        for one in job if isinstance(job, list) else [job]:
            try:
                one.update_progress(99)
            except LeaseLostError:
                self.raised.append(one.id)
        return "late"

    async def until_begun(self, runs: int = 1) -> None:
        for _ in range(runs):
            assert await asyncio.to_thread(self.begun.acquire, timeout=10)


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    handler = Stuck()
    yield handler
    handler.end.set()


async def test_a_thread_past_its_timeout_keeps_its_slot_and_not_its_job(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, caplog: pytest.LogCaptureFixture, stuck: Stuck
) -> None:
    job, after = await queue.add("crunch", timeout=1), await queue.add("quick")

    async def quick(_: Job[Any]) -> str:
        return "done"

    async with worker({"crunch": stuck, "quick": quick}) as runner:
        await stuck.until_begun()
        await clock.advance(1)
        await job.refresh()
        assert (job.state, job.attempt_history[0].outcome) == (JobState.FAILED, "timed-out")
        assert (runner.stats().running, runner.stats().free_slots) == (0, 0)
        await clock.advance("1 minute")
        assert (await after.refresh()).state is JobState.WAITING
        assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
        assert f"job {job.id} (crunch) goes on past its timeout of 0:00:01" in caplog.text

        stuck.end.set()
        await settled(runner, 2)

        assert (await after.refresh()).return_value == "done"
        assert stuck.raised == [job.id]
        await job.refresh()
        assert (job.state, job.progress, len(job.attempt_history)) == (JobState.FAILED, 0, 1)
        assert "goes on in its thread" in str(job.failed_reason)


async def test_a_retry_may_run_beside_a_thread_past_its_timeout(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, stuck: Stuck
) -> None:
    job = await queue.add("a", timeout=1, attempts=2)
    async with worker(stuck, concurrency=2) as runner:
        await stuck.until_begun()
        await clock.advance(1)
        await stuck.until_begun()
        stuck.end.set()
        await settled(runner, 2)

    await job.refresh()
    assert (job.state, job.return_value, job.progress) == (JobState.COMPLETED, "late", 99)
    assert [run.outcome for run in job.attempt_history] == ["timed-out", "completed"]
    await until(lambda: stuck.raised == [job.id])  # its thread ends when it likes


async def test_a_batch_in_a_thread_past_its_timeout_is_settled_as_one(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, stuck: Stuck
) -> None:
    jobs = await queue.add_bulk([NewJob("a", timeout=1), NewJob("a"), NewJob("a")])
    async with worker(stuck, batch=Batch(3)) as runner:
        await stuck.until_begun()
        await jobs[1].cancel()
        await clock.advance(1)

        assert [(await job.refresh()).state for job in jobs] == [
            JobState.FAILED,
            JobState.CANCELLED,
            JobState.FAILED,
        ]
        assert runner.stats().free_slots == 0
        stuck.end.set()
        await until(lambda: runner.stats().free_slots == 1)


async def test_a_cancelled_thread_past_its_timeout_ends_cancelled(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, stuck: Stuck
) -> None:
    job = await queue.add("a", timeout=5)
    async with worker(stuck):
        await stuck.until_begun()
        await job.cancel()
        await clock.advance(4)
        assert (await job.refresh()).state is JobState.ACTIVE
        await clock.advance(1)

        assert (await job.refresh()).state is JobState.CANCELLED


async def test_a_thread_past_its_timeout_does_not_hold_up_close(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, stuck: Stuck
) -> None:
    job = await queue.add("a", timeout=1)
    runner = worker(stuck)
    await runner.start()
    await stuck.until_begun()
    await clock.advance(1)

    await asyncio.wait_for(runner.close(), 10)

    await job.refresh()
    assert (job.state, job.stalled_count) == (JobState.FAILED, 0)


async def test_a_slot_that_a_thread_keeps_is_not_claimed_ahead_for(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, stuck: Stuck
) -> None:
    async def quick(_: Job[Any]) -> None:
        pass

    await queue.add_bulk([NewJob("quick") for _ in range(50)])
    await queue.add("crunch", timeout=1)
    async with worker({"crunch": stuck, "quick": quick}) as runner:
        await stuck.until_begun()
        await clock.advance(1)
        runner._parts.executor.typical = 0.001
        await queue.add_bulk([NewJob("quick") for _ in range(50)])
        await clock.advance(2)

        assert (runner.stats().ready, await queue.count("waiting")) == (0, 50)
        stuck.end.set()
        await settled(runner, 101)


async def test_a_worker_that_has_left_a_thread_behind_runs_again(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, stuck: Stuck
) -> None:
    await queue.add("crunch", timeout=1)
    runner = worker(stuck, concurrency=2)
    running = asyncio.create_task(runner.run_until_idle())
    await stuck.until_begun()
    await clock.advance(1)
    await asyncio.wait_for(running, 10)
    stuck.end.set()
    await until(lambda: runner.stats().free_slots == 2)

    again = [await queue.add("crunch"), await queue.add("crunch")]
    await asyncio.wait_for(runner.run_until_idle(), 10)

    assert [(await job.refresh()).return_value for job in again] == ["late"] * 2


# -------------------------------------------------------- decided by methods


async def test_move_to_delayed_outlives_the_return_of_the_handler(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")

    async def handler(job: Job[Any]) -> str:
        await job.move_to_delayed("1 minute")
        return "ignored"

    await worker(handler).run_until_idle()

    await job.refresh()
    assert (job.state, job.attempts_made) == (JobState.DELAYED, 0)
    assert job.delay_until == clock.now() + timedelta(minutes=1)


async def test_move_to_failed_outlives_the_return_of_the_handler(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    job = await queue.add("a", attempts=5)

    async def handler(job: Job[Any]) -> str:
        await job.move_to_failed("bad input")
        return "ignored"

    await worker(handler).run_until_idle()

    await job.refresh()
    assert (job.state, job.failed_reason) == (JobState.FAILED, "bad input")


async def test_a_discarded_job_is_not_retried(queue: Queue[Any], worker: MakeWorker) -> None:
    job = await queue.add("a", attempts=5)

    async def handler(job: Job[Any]) -> None:
        await job.discard()
        raise BoomError

    await worker(handler).run_until_idle()

    assert (await job.refresh()).state is JobState.FAILED
    assert job.attempts_made == 1


async def test_a_waiting_job_can_be_discarded_before_it_ever_ran(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    job = await queue.add("a", attempts=5)
    await job.discard()
    assert job.discarded

    await worker(failing(BoomError())).run_until_idle()

    assert (await job.refresh()).attempts_made == 1


# -------------------------------------------------------------------- logs


async def test_the_last_thousand_log_lines_are_kept(queue: Queue[Any], worker: MakeWorker) -> None:
    job = await queue.add("a")

    async def handler(job: Job[Any]) -> None:
        for number in range(1_005):
            await job.log(f"line {number}")

    await worker(handler).run_until_idle()

    logs = (await job.refresh()).logs
    assert len(logs) == 1_000
    assert (logs[0], logs[-1]) == ("line 5", "line 1004")


async def test_logs_are_stored_within_a_moment_while_the_handler_runs(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    go_on = asyncio.Event()

    async def handler(job: Job[Any]) -> None:
        await job.log("started")
        await go_on.wait()

    async with worker(handler):
        await clock.advance(0.2)
        assert (await job.refresh()).logs == ["started"]
        go_on.set()
        await clock.settle()

    assert (await job.refresh()).logs == ["started"]


async def test_logs_that_cannot_be_stored_at_once_are_stored_later_and_told_once(
    queue: Queue[Any],
    worker: MakeWorker,
    clock: ManualClock,
    store: FaultyStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = await queue.add("a")
    go_on = asyncio.Event()

    async def handler(job: Job[Any]) -> None:
        await job.log("started")
        await go_on.wait()

    caplog.set_level(logging.WARNING)
    async with worker(handler):
        store.fail("renew", StoreUnavailableError("gone"), times=3)
        await clock.advance(3)

        assert (await job.refresh()).logs == ["started"]
        assert sum("gone" in record.getMessage() for record in caplog.records) == 1
        go_on.set()
        await clock.settle()


async def test_a_signal_of_ones_own_is_an_ordinary_failure(queue: Queue[Any], worker: MakeWorker) -> None:
    class MineError(Signal):
        pass

    job = await queue.add("a")

    await worker(failing(MineError("what is this"))).run_until_idle()

    await job.refresh()
    assert (job.state, job.failed_reason, job.attempts_made) == (JobState.FAILED, "what is this", 1)


async def test_an_awaitable_that_a_plain_function_returns_too_late_is_not_awaited(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    started, go_on = threading.Event(), threading.Event()
    awaited: list[bool] = []

    async def rest() -> None:
        awaited.append(True)

    def handler(_: Job[Any]) -> Any:
        started.set()
        go_on.wait(5)
        return rest()

    job = await queue.add("a", timeout=1)
    async with worker(handler) as runner:
        await clock.settle()
        await asyncio.to_thread(started.wait, 5)
        await clock.advance(1)
        go_on.set()
        await settled(runner, 1)

    assert awaited == []
    assert (await job.refresh()).attempt_history[0].outcome == "timed-out"


async def test_a_start_that_cannot_be_stored_is_logged_and_its_job_goes_back(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []
    job = await queue.add("a")
    store.fail("renew", RuntimeError("not foreseen"), times=2)

    await worker(lambda job: ran.append(job.id), max_stalled=0).run_until_idle()

    assert ran == [job.id]
    assert (await job.refresh()).state is JobState.COMPLETED
    assert job.attempts_made == 0
    assert f"the start of job(s) {job.id} could not be stored" in caplog.text
