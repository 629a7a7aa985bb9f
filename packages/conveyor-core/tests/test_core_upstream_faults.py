"""The faults of the TypeScript original, by their numbers: each test would fail on what that does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from conveyor.core import (
    Backoff,
    Deduplication,
    InvalidJobStateError,
    Job,
    JobRemovedError,
    JobState,
    Keep,
    LeaseLostError,
    NewJob,
    Queue,
    StoreUnavailableError,
    Worker,
)
from conveyor.core.events import Event, LocalBus
from conveyor.core.store import Claim, Outcome, Where
from conveyor.core.testing import ClockedStore, FaultyStore, ManualClock, WrappedStore, make_job
from conveyor.store.memory import MemoryStore

MakeWorker = Callable[..., Worker[Any]]
S = JobState


class WithBus(WrappedStore):
    """A store with another bus."""

    def __init__(self, store: Any, bus: LocalBus) -> None:
        super().__init__(store)
        self._bus = bus

    @property
    def bus(self) -> LocalBus:
        return self._bus


async def nothing(_: Job[Any]) -> None:
    pass


async def listen(queue: Queue[Any], into: list[str]) -> None:
    async for event in queue.events():
        into.append(type(event).__name__)  # noqa: PERF401 - seen while they come


async def lose_all_leases(store: FaultyStore, clock: ManualClock) -> None:
    await store.advance({"q"}, now=clock.now() + timedelta(hours=1))


async def test_b1_twenty_empty_jobs_take_no_time_whatever_the_poll_interval(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    async with worker(nothing, concurrency=1, poll_interval="1h"):
        await clock.advance(1)
        jobs = await queue.add_bulk([NewJob("a") for _ in range(20)])
        began = clock.monotonic()
        await asyncio.gather(*(job.wait_until_finished() for job in jobs))

        assert clock.monotonic() == began


async def test_b3_a_worker_that_lost_its_lease_can_neither_complete_nor_fail_nor_extend_the_other_run(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    go_on = asyncio.Event()
    raised: list[str] = []

    async def slow(job: Job[Any]) -> str:
        await go_on.wait()
        writes: list[Callable[[], Awaitable[None]]] = [
            lambda: job.update_progress(99),
            lambda: job.update_data("stale"),
        ]
        for write in writes:
            try:
                await write()
            except (LeaseLostError, asyncio.CancelledError):
                raised.append(job.id)
        return "stale"

    job = await queue.add("a", "fresh")
    async with worker(slow, lock_duration="1h"):
        await clock.settle()
        await lose_all_leases(store, clock)
        claim = Claim(queue="q", count=1, token="new", lease=timedelta(seconds=30), worker="other")
        [held] = (await store.claim(claim)).jobs
        go_on.set()
        await clock.settle()

        [record] = await store.find(Where(queue="q", ids=frozenset({job.id})), limit=1)
        assert record == held
        await store.settle([Outcome.completed(held, '{"result":"new","final":true}')])
        assert await job.wait_until_finished() == "new"
    assert raised == [job.id, job.id]


async def test_b3b_one_failed_renewal_does_not_end_renewing(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    go_on = asyncio.Event()

    async def handler(_: Job[Any]) -> str:
        await go_on.wait()
        return "done"

    job = await queue.add("a")
    async with worker(handler, lock_duration=30), worker(nothing, lock_duration=30, stalled_interval=1):
        await clock.settle()
        store.fail("renew", StoreUnavailableError("one lost connection"))
        await clock.advance("5 minutes")
        go_on.set()
        await clock.settle()

        assert (await job.refresh()).return_value == "done"
        assert job.stalled_count == 0


async def test_b4_events_and_removal_that_fail_do_not_turn_a_completed_job_into_a_failed_one(
    clock: ManualClock, worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(LocalBus):
        async def publish(self, events: Any) -> None:
            raise StoreUnavailableError(f"no line for {len(events)}")

    async with WithBus(ClockedStore(MemoryStore(), clock), Broken()) as store:
        record = await make_job(store, queue="q")
        runner = worker(nothing, store=store)
        runner.on("completed", lambda _: 1 / 0)
        await runner.run_until_idle()

        job = await Queue[Any]("q", store).get_job(record.id)
        assert job is not None
        assert (job.state, len(job.attempt_history)) == (S.COMPLETED, 1)
    assert "ZeroDivisionError" in caplog.text


async def test_b5_an_event_that_cannot_be_published_loses_no_slot_and_no_run(
    clock: ManualClock, worker: MakeWorker
) -> None:
    class Broken(LocalBus):
        async def publish(self, events: Any) -> None:
            raise RuntimeError(f"no line for {len(events)}")

    runs: list[str] = []
    async with WithBus(ClockedStore(MemoryStore(), clock), Broken()) as store:
        for _ in range(3):
            await make_job(store, queue="q")
        async with worker(lambda job: runs.append(job.id), store=store) as runner:
            async with asyncio.timeout(10):
                while runner.stats().settled < 3:  # noqa: ASYNC110 - threads: nothing tells when
                    await asyncio.sleep(0.001)
            assert runner.stats().free_slots == 1
    assert len(runs) == 3


async def test_b5b_what_a_handler_decided_is_not_overwritten_when_it_returns(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    async def handler(job: Job[Any]) -> str:
        if job.name == "throttled":
            await job.move_to_delayed("10s")
        elif job.name == "failed":
            await job.move_to_failed("no such user")
        return "completed"

    throttled, failed = await queue.add("throttled"), await queue.add("failed", attempts=3)
    await worker(handler).run_until_idle()

    assert (await throttled.refresh()).state is S.DELAYED
    assert throttled.delay_until == clock.now() + timedelta(seconds=10)
    assert (await failed.refresh()).state is S.FAILED


async def test_b6_two_sweepers_count_a_stall_once_and_a_crash_is_not_fatal_with_one_attempt(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    await store.claim(Claim(queue="q", count=1, token="t", lease=timedelta(seconds=30), worker="dead"))
    await clock.advance(31)

    async with worker(nothing), worker(nothing), worker(nothing):
        await clock.advance(60)

    await job.refresh()
    assert (job.state, job.stalled_count, job.attempts_made) == (S.COMPLETED, 1, 0)


async def test_b6_a_job_that_completed_after_its_lease_ran_out_but_before_the_sweep_stays_completed(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    claim = Claim(queue="q", count=1, token="t", lease=timedelta(seconds=30), worker="slow")
    [held] = (await store.claim(claim)).jobs
    await clock.advance(31)
    await store.settle([Outcome.completed(held, "{}")])

    runs: list[str] = []
    await worker(lambda job: runs.append(job.id)).run_until_idle()

    assert runs == []
    assert (await job.refresh()).state is S.COMPLETED


async def test_b7_a_retry_is_published_and_counted(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    async def handler(_: Job[Any]) -> None:
        raise RuntimeError("again")

    told: list[str] = []
    listening = asyncio.create_task(listen(queue, told))
    await clock.settle()
    job = await queue.add("a", attempts=3)
    await worker(handler).run_until_idle()
    await clock.settle()
    await queue.close()
    await listening

    assert told.count("JobRetrying") == 2
    assert told.count("JobFailed") == 1
    assert ((await job.refresh()).attempts_made, len(job.stacktrace)) == (3, 3)


async def test_b9_a_custom_backoff_survives_the_store_and_works(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    async def handler(_: Job[Any]) -> None:
        raise RuntimeError

    job = await queue.add("a", attempts=3, backoff=Backoff("mine", max_delay="1h"))
    runner = worker(handler, backoff_strategies={"mine": lambda failures: f"{failures * 7} minutes"})

    for minutes in (7, 14):
        await runner.run_until_idle()
        assert (await job.refresh()).delay_until == clock.now() + timedelta(minutes=minutes)
        await clock.advance(timedelta(minutes=minutes))


async def test_b9_an_instant_is_an_instant_again_when_it_comes_back(
    queue: Queue[Any], clock: ManualClock
) -> None:
    at = clock.now() + timedelta(days=1, microseconds=1)
    job = await queue.add("a", run_at=at)

    again = await queue.get_job(job.id)
    assert again is not None
    assert again.delay_until == at


@pytest.mark.parametrize("value", ["ok", "123", "null", "", "true", '"', "{}", None, 0.1, 3.0, True])
async def test_b10_strings_none_and_fractions_come_back_as_they_were(
    queue: Queue[Any], worker: MakeWorker, value: object
) -> None:
    job = await queue.add("a", value)

    async def handler(job: Job[Any]) -> Any:
        await job.update_progress(33.3)
        return job.data

    await worker(handler).run_until_idle()
    again = await queue.get_job(job.id)

    assert again is not None
    assert (again.data, again.return_value, again.progress) == (value, value, 33.3)
    assert type(again.data) is type(again.return_value) is type(value)


async def test_b11_lifo_of_one_job_is_heeded(queue: Queue[Any], worker: MakeWorker) -> None:
    runs: list[int] = []
    for number in (1, 2, 3):
        await queue.add("a", number, lifo=number == 3)

    await worker(lambda job: runs.append(job.data)).run_until_idle()

    assert runs == [3, 1, 2]


async def test_b12_removal_by_age_is_applied(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    await queue.add("a", remove_on_complete=60)
    await queue.add("a", remove_on_complete=Keep(age=60))

    async with worker(nothing, maintenance_interval=5):
        await clock.advance(59)
        assert await queue.count() == 2
        await clock.advance(10)

        assert await queue.count() == 0


async def test_b12b_a_waiter_does_not_hang_when_the_job_is_removed_on_completion(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a", remove_on_complete=True)
    waiting = asyncio.ensure_future(job.wait_until_finished())
    async with worker(nothing):
        await clock.advance(5)

    assert waiting.done()
    with pytest.raises(JobRemovedError):
        await waiting


async def test_b13_a_timeout_ends_the_old_run_before_its_retry_begins(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    running = most = 0

    async def handler(_: Job[Any]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1

    job = await queue.add("a", timeout=1, attempts=3)
    async with worker(handler, concurrency=5):
        await clock.advance(10)

    assert (most, running) == (1, 0)
    assert [a.outcome for a in (await job.refresh()).attempt_history] == ["timed-out"] * 3


async def test_b14_close_cancels_and_gives_back(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    ended = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    job = await queue.add("a")
    runner = worker(handler)
    await runner.start()
    await clock.settle()
    closing = asyncio.create_task(runner.close(1))
    await clock.advance(2)
    await closing

    [record] = await store.find(Where(queue="q", ids=frozenset({job.id})), limit=1)
    assert ended.is_set()
    assert (record.state, record.attempt, record.stalled) == (S.WAITING, 0, 0)


async def test_b14c_a_cancellation_is_published_once_and_when_it_has_happened(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    go_on = asyncio.Event()

    async def handler(_: Job[Any]) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await go_on.wait()
        return "ignored it"

    told: list[str] = []
    listening = asyncio.create_task(listen(queue, told))
    job = await queue.add("a")
    async with worker(handler):
        await clock.settle()
        await job.cancel()
        await clock.settle()
        assert "JobCancelled" not in told
        assert (await job.refresh()).state is S.ACTIVE
        go_on.set()
        await clock.settle()

        assert told.count("JobCancelled") == 1
        assert (await job.refresh()).state is S.CANCELLED
        assert "JobCompleted" not in told
    await queue.close()
    await listening


async def test_b16_equal_keys_added_at_once_give_one_job(queue: Queue[Any]) -> None:
    jobs = await asyncio.gather(
        *(queue.add("a", n, deduplication=Deduplication("k")) for n in range(20)),
    )

    assert len({job.id for job in jobs}) == 1
    assert sum(not job.deduplicated for job in jobs) == 1
    assert await queue.count() == 1


async def test_b16_the_same_data_under_another_name_is_another_job(queue: Queue[Any]) -> None:
    first = await queue.add("a", 1, deduplication=Deduplication.by_payload())
    second = await queue.add("b", 1, deduplication=Deduplication.by_payload())

    assert first.id != second.id


async def test_b16_an_id_that_exists_never_overwrites_a_running_job(
    queue: Queue[Any], store: FaultyStore
) -> None:
    await queue.add("a", "old", job_id="x")
    await store.claim(Claim(queue="q", count=1, token="t", lease=timedelta(seconds=30), worker="w"))

    again = await queue.add("a", "new", job_id="x")

    assert (again.data, again.state, again.deduplicated) == ("old", S.ACTIVE, True)


async def test_b18_only_a_finished_job_can_be_retried_and_it_starts_afresh(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker
) -> None:
    for state in (S.WAITING, S.DELAYED, S.ACTIVE, S.WAITING_CHILDREN):
        record = await make_job(store, state, queue="q")
        live = await queue.get_job(record.id)
        assert live is not None
        with pytest.raises(InvalidJobStateError):
            await live.retry()
    await queue.obliterate(force=True)

    async def handler(job: Job[Any]) -> None:
        await job.discard()
        raise RuntimeError

    job = await queue.add("a", attempts=2)
    await worker(handler).run_until_idle()
    await job.refresh()
    assert job.discarded
    await job.retry()

    assert (job.attempts_made, job.discarded, job.cancelled_at, job.failed_at) == (0, False, None, None)


@pytest.mark.parametrize("by", ["job", "queue"])
async def test_b18_a_cancelled_job_that_is_retried_runs_to_its_end(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, by: str
) -> None:
    async def handler(_: Job[Any]) -> str:
        over = asyncio.Event()
        clock.call_later(60, over.set)
        await over.wait()
        return "done"

    job = await queue.add("a")
    async with worker(handler, lock_duration=6):
        await clock.advance(1)
        await job.cancel()
        await clock.settle()
        assert (await job.refresh()).state is S.CANCELLED

        await (job.retry() if by == "job" else queue.retry_jobs("cancelled"))
        await clock.advance(61)

        await job.refresh()
        assert (job.state, job.return_value, job.cancelled_at) == (S.COMPLETED, "done", None)


async def test_b19_progress_removal_and_pauses_are_published(queue: Queue[Any], clock: ManualClock) -> None:
    told: list[str] = []
    listening = asyncio.create_task(listen(queue, told))
    await clock.settle()

    job = await queue.add("a")
    await job.update_progress(5)
    await queue.pause()
    await queue.resume()
    await job.remove()
    await queue.drain()
    await clock.settle()
    await queue.close()
    await listening

    assert told == [
        "JobWaiting",
        *("JobWaiting", "JobProgress"),  # written to while it waits: workers look again
        *("QueuePaused", "QueueResumed", "JobRemoved", "QueueDrained"),
    ]


async def test_b20_a_thousand_jobs_take_a_few_calls_each_way(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    await queue.add_bulk([NewJob("a") for _ in range(1_000)])
    assert store.calls.count("insert") == 1

    async with worker(nothing, concurrency=100):
        await clock.settle()
        async with asyncio.timeout(10):
            while await queue.count(S.COMPLETED) < 1_000:  # noqa: ASYNC110 - nothing tells when
                await asyncio.sleep(0)
        calls = [call for call in store.calls if call != "count"]

    assert len(calls) < 100


async def test_b20_logging_is_not_a_call_for_each_line(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker
) -> None:
    async def handler(job: Job[Any]) -> None:
        for line in range(500):
            await job.log(str(line))

    job = await queue.add("a")
    await worker(handler).run_until_idle()

    assert store.calls.count("renew") <= 1
    assert len((await job.refresh()).logs) == 500


async def test_b22_pausing_and_resuming_does_not_make_a_worker_poll_more_often(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    async def claims_of_a_minute() -> int:
        store.calls.clear()
        await clock.advance(60)
        return store.calls.count("claim") + store.calls.count("advance")

    async with worker(nothing) as runner:
        await clock.advance(0.5)
        before = await claims_of_a_minute()
        tasks = len(asyncio.all_tasks())
        for _ in range(5):
            await runner.pause()
            await runner.resume()
            await runner.start()
        await clock.advance(0.5)

        assert await claims_of_a_minute() == before
        assert len(asyncio.all_tasks()) == tasks
    assert await queue.count() == 0


def test_every_event_knows_its_queue_and_instant() -> None:
    assert {"queue_name", "at"} <= set(Event.__slots__)
