"""Following jobs and queues from outside: outcomes, and events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from conveyor.core import (
    ConveyorError,
    Deduplication,
    InvalidOptionError,
    Job,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobRemovedError,
    JobState,
    Queue,
    StoreClosedError,
    WaitTimeoutError,
    Worker,
)
from conveyor.core.events import EVENTS, Event, Gap, JobProgress, LocalBus
from conveyor.core.testing import ClockedStore, FaultyStore, ManualClock, WrappedStore, make_job
from conveyor.store.memory import MemoryStore

MakeWorker = Callable[..., Worker[Any]]


class WithBus(WrappedStore):
    """A store with another bus."""

    def __init__(self, store: Any, bus: LocalBus) -> None:
        super().__init__(store)
        self._bus = bus

    @property
    def bus(self) -> LocalBus:
        return self._bus


async def collect(events: AsyncIterator[Event], into: list[Event]) -> None:
    async for event in events:
        into.append(event)  # noqa: PERF401 - seen while they come


def names(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


# --------------------------------------------------------- wait_until_finished


async def test_a_result_is_waited_for(queue: Queue[Any], worker: MakeWorker, clock: ManualClock) -> None:
    job = await queue.add("a")
    waiting = asyncio.ensure_future(job.wait_until_finished())
    await clock.settle()
    assert not waiting.done()

    await worker(lambda _: {"sent": True}).run_until_idle()
    await clock.settle()

    assert waiting.done()
    assert await waiting == {"sent": True}


async def test_a_failure_is_raised_with_its_reason_and_type(queue: Queue[Any], worker: MakeWorker) -> None:
    def handler(_: Job[Any]) -> None:
        raise KeyError("colour")

    job = await queue.add("a")
    await worker(handler).run_until_idle()

    with pytest.raises(JobFailedError, match="colour") as caught:
        await job.wait_until_finished()

    assert (caught.value.job_id, caught.value.reason, caught.value.error_type) == (
        job.id,
        "'colour'",
        "KeyError",
    )


async def test_a_cancellation_is_raised(queue: Queue[Any], clock: ManualClock) -> None:
    job = await queue.add("a")
    waiting = asyncio.ensure_future(job.wait_until_finished())
    await clock.settle()

    await job.cancel()
    await clock.settle()

    with pytest.raises(JobCancelledError, match=job.id):
        await waiting


async def test_a_failure_that_will_be_retried_is_no_end(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    runs = 0

    async def handler(_: Job[Any]) -> str:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise RuntimeError
        return "second"

    job = await queue.add("a", attempts=2, backoff=60)
    waiting = asyncio.ensure_future(job.wait_until_finished())
    async with worker(handler):
        await clock.advance(59)
        assert not waiting.done()
        await clock.advance(2)

    assert await waiting == "second"


@pytest.mark.parametrize("how", ["remove", "drain", "obliterate", "remove_on_complete", "unknown"])
async def test_a_job_that_is_removed_is_not_waited_for_any_more(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, how: str
) -> None:
    job = await queue.add("a", remove_on_complete=True)
    if how == "unknown":
        await job.remove()
    waiting = asyncio.ensure_future(job.wait_until_finished())
    await clock.settle()

    match how:
        case "remove":
            await job.remove()
        case "drain":
            await queue.drain()
        case "obliterate":
            await queue.obliterate()
        case "remove_on_complete":
            await worker(lambda _: None).run_until_idle()
    await clock.advance(5)

    assert waiting.done()
    with pytest.raises(JobRemovedError, match=job.id):
        await waiting


async def test_a_timeout_leaves_the_job_as_it_is(queue: Queue[Any], clock: ManualClock) -> None:
    job = await queue.add("a")
    waiting = asyncio.ensure_future(job.wait_until_finished(timeout=30))

    await clock.advance(29.9)
    assert not waiting.done()
    await clock.advance(0.2)

    assert waiting.done()
    with pytest.raises(WaitTimeoutError, match=job.id) as caught:
        await waiting
    assert isinstance(caught.value, ConveyorError)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.job_id, caught.value.timeout) == (job.id, timedelta(seconds=30))
    assert (await job.refresh()).state is JobState.WAITING
    with pytest.raises(InvalidOptionError):
        await job.wait_until_finished(timeout=-1)
    with pytest.raises(WaitTimeoutError):
        await job.wait_until_finished(timeout=0)


@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled", "removed"])
async def test_a_waiter_that_receives_nothing_finds_out_all_the_same(clock: ManualClock, ending: str) -> None:
    async with WithBus(ClockedStore(MemoryStore(), clock), LocalBus()) as store:
        queue: Queue[Any] = Queue("q", store, clock=clock)
        job = await queue.add("a")
        waiting = asyncio.ensure_future(job.wait_until_finished())
        following = asyncio.create_task(_last(job))
        await clock.settle()

        def handler(_: Job[Any]) -> str:
            if ending == "failed":
                raise RuntimeError("lost")
            return "found"

        silent = ClockedStore(store.wrapped, clock)
        match ending:
            case "cancelled":
                await Queue[Any]("q", silent, clock=clock).cancel(job.id)
            case "removed":
                await Queue[Any]("q", silent, clock=clock).remove(job.id)
            case _:
                await Worker("q", handler, silent, clock=clock).run_until_idle()
        await clock.advance(5)

        assert waiting.done()
        assert following.done()
        assert following.result() == f"Job{ending.capitalize()}"
        if ending == "completed":
            assert waiting.result() == "found"
        else:
            assert type(waiting.exception()).__name__ == f"Job{ending.capitalize()}Error"


async def _last(job: Job[Any]) -> str:
    seen: list[Event] = []
    await collect(job.observe(), seen)
    return names(seen)[-1]


async def test_waiting_for_a_job_that_was_retried_looks_at_the_store_not_at_the_snapshot(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    record = await make_job(store, JobState.FAILED, queue="q")
    job = await queue.get_job(record.id)
    assert job is not None
    await queue.retry_jobs()
    waiting = asyncio.ensure_future(job.wait_until_finished())
    await clock.settle()
    assert not waiting.done()

    await worker(lambda _: "mended").run_until_idle()
    await clock.settle()

    assert await waiting == "mended"


async def test_a_report_that_cannot_be_read_is_an_end_all_the_same(
    queue: Queue[Any], store: FaultyStore, clock: ManualClock
) -> None:
    from conveyor.core.store import Claim, Outcome  # noqa: PLC0415

    for ending in (Outcome.completed, Outcome.failed):
        await queue.add("a")
        [held] = (
            await store.claim(Claim(queue="q", count=1, token="t", lease=timedelta(seconds=9), worker="w"))
        ).jobs
        await store.settle([ending(held, "{")])
        job = await queue.get_job(held.id)
        assert job is not None
        with pytest.raises(JobFailedError, match="cannot be read"):
            await job.wait_until_finished()
        seen: list[Event] = []
        await collect(job.observe(), seen)
        assert len(seen) == 1
    assert clock.now() is not None


async def test_a_waiter_that_is_cancelled_leaves_nothing_behind(
    queue: Queue[Any], clock: ManualClock
) -> None:
    job = await queue.add("a")
    waiting = asyncio.ensure_future(job.wait_until_finished())
    await clock.settle()

    waiting.cancel()
    await clock.settle()

    assert waiting.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_store_that_is_closed_ends_the_waiting(clock: ManualClock) -> None:
    store = ClockedStore(MemoryStore(), clock)
    await store.open()
    queue: Queue[Any] = Queue("q", store, clock=clock)
    job = await queue.add("a")
    waiting = asyncio.ensure_future(job.wait_until_finished())
    events: list[Event] = []
    listening = asyncio.create_task(collect(queue.events(), events))
    await clock.settle()

    await store.close()
    await clock.advance(5)

    assert listening.done()
    with pytest.raises(StoreClosedError):
        await waiting


# -------------------------------------------------------------------- events


async def test_a_jobs_life_is_published_in_order_until_its_end(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    runs = 0

    async def handler(job: Job[Any]) -> None:
        nonlocal runs
        runs += 1
        await job.update_progress(50)
        if runs == 1:
            raise RuntimeError("once")

    job = await queue.add("a", attempts=2, backoff=5)
    mine: list[Event] = []
    all_of_them: list[Event] = []
    following = asyncio.create_task(collect(queue.observe(job.id), mine))
    listening = asyncio.create_task(collect(queue.events(), all_of_them))
    await clock.settle()
    async with worker(handler):
        await clock.settle()
        await queue.add("other", delay=60)
        await clock.advance(10)
        assert following.done()

    assert names(mine) == [
        "JobActive",
        "JobProgress",
        "JobRetrying",
        "JobDelayed",
        "JobWaiting",
        "JobActive",
        "JobProgress",
        "JobCompleted",
    ]
    assert isinstance(mine[1], JobProgress)
    assert mine[1].progress == 50
    assert {event.queue_name for event in all_of_them} == {"q"}
    assert len(all_of_them) == len(mine) + 1
    await queue.close()
    await clock.settle()
    assert listening.done()


@pytest.mark.parametrize(
    ("state", "end"),
    [
        (JobState.COMPLETED, "JobCompleted"),
        (JobState.FAILED, "JobFailed"),
        (JobState.CANCELLED, "JobCancelled"),
    ],
)
async def test_observing_a_finished_job_yields_its_end(
    queue: Queue[Any], store: FaultyStore, state: JobState, end: str, clock: ManualClock
) -> None:
    record = await make_job(store, state, queue="q")
    await clock.advance(10)
    seen: list[Event] = []

    await collect(queue.observe(record.id), seen)

    assert names(seen) == [end]
    assert seen[0].at == record.finished_at


async def test_observing_a_job_that_is_not_there(queue: Queue[Any]) -> None:
    seen: list[Event] = []
    with pytest.raises(JobNotFoundError, match="nobody") as caught:
        await collect(queue.observe("nobody"), seen)
    assert (caught.value.queue_name, caught.value.job_id, seen) == ("q", "nobody", [])

    job = await queue.add("a")
    await job.remove()
    await collect(job.observe(), seen)  # that it was there is known
    assert names(seen) == ["JobRemoved"]
    with pytest.raises(JobNotFoundError):
        await collect(queue.observe(job.id), seen)


async def test_a_job_that_goes_while_it_is_looked_for_is_reported(
    queue: Queue[Any], store: FaultyStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await queue.add("a")
    find = store.find

    async def removed_first(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        await queue.remove(job.id)
        await clock.settle()
        return await find(*args, **options)

    monkeypatch.setattr(store, "find", removed_first)
    seen: list[Event] = []
    await collect(queue.observe(job.id), seen)

    assert names(seen) == ["JobRemoved"]


async def test_closing_the_queue_ends_its_observers(queue: Queue[Any], clock: ManualClock) -> None:
    job = await queue.add("a")
    one: list[Event] = []
    every: list[Event] = []
    tasks = [
        asyncio.create_task(collect(queue.observe(job.id), one)),
        asyncio.create_task(collect(queue.events(), every)),
    ]
    await clock.settle()

    await queue.close()
    await clock.settle()

    assert all(task.done() for task in tasks)
    assert (await job.refresh()).state is JobState.WAITING


async def test_an_observer_that_cannot_keep_up_learns_how_much_it_missed(clock: ManualClock) -> None:

    async with WithBus(ClockedStore(MemoryStore(), clock), LocalBus(room=3)) as store:
        queue: Queue[Any] = Queue("q", store, clock=clock)
        async with store.bus.subscribe({"q"}) as events:
            for _ in range(10):
                await queue.add("a")
            first = await anext(events)

        assert isinstance(first, Gap)
        assert first.missed == 7


async def test_a_follower_that_missed_the_end_reads_it(clock: ManualClock) -> None:

    async with WithBus(ClockedStore(MemoryStore(), clock), LocalBus(room=1)) as store:
        queue: Queue[Any] = Queue("q", store, clock=clock)
        job = await queue.add("a")
        waiting = asyncio.ensure_future(job.wait_until_finished())
        await clock.settle()

        await store.bus.publish([Gap(queue_name="q", at=clock.now(), missed=5)])
        await make_done(store, job)
        await clock.settle()

        assert waiting.done() or not waiting.cancelled()
        await clock.advance(3)
        assert await waiting == "done"


async def make_done(store: Any, job: Job[Any]) -> None:
    from conveyor.core._jobs.report import Report  # noqa: PLC0415
    from conveyor.core.store import Outcome  # noqa: PLC0415

    [held] = (await store.take("q", [job.id], token="t", lease=timedelta(seconds=9))).jobs
    await store.settle([Outcome.completed(held, Report(result="done").encode(final=True))])


async def test_every_kind_of_event_is_published_somewhere(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    events: list[Event] = []
    listening = asyncio.create_task(collect(queue.events(), events))
    await clock.settle()
    running = asyncio.Event()

    async def handler(job: Job[Any]) -> None:
        await job.update_progress(1)
        if job.name == "bad":
            raise RuntimeError
        if job.name == "endless":
            running.set()
            await asyncio.Event().wait()

    from conveyor.core.store import Claim  # noqa: PLC0415

    dead = await queue.add("dead")
    await store.claim(Claim(queue="q", count=1, token="t", lease=timedelta(seconds=1), worker="dead"))
    await clock.advance(2)
    async with worker(handler):
        await queue.add("bad", attempts=2, backoff=1)
        endless = await queue.add("endless")
        await clock.advance(5)
        await endless.cancel()
        await clock.settle()
        await queue.pause()
        await queue.add("a", deduplication=Deduplication("k"))
        waiting = await queue.add("a")
        await waiting.remove()
        await queue.drain()
        await queue.resume()
        await clock.settle()
        assert (await dead.refresh()).state is JobState.COMPLETED
        await queue.obliterate()
    await queue.close()
    await listening

    assert (
        set(names(events))
        == {
            "JobWaiting",
            "JobDelayed",
            "JobActive",
            "JobProgress",
            "JobCompleted",
            "JobRetrying",
            "JobFailed",
            "JobStalled",
            "JobCancelled",
            "CancelRequested",
            "JobRemoved",
            "QueuePaused",
            "QueueResumed",
            "QueueDrained",
            "QueueObliterated",
        }
        == {*EVENTS} - {"JobWaitingChildren", "Gap"}
    )


async def test_an_observer_that_takes_nothing_costs_a_bounded_number_of_events(
    store: FaultyStore, clock: ManualClock, queue: Queue[Any]
) -> None:
    events = queue.events()
    first = asyncio.ensure_future(anext(events))
    await clock.settle()
    at = clock.now()

    for number in range(300):
        await store.bus.publish(
            [JobProgress(queue_name="q", job_id="x", at=at, progress=number) for _ in range(100)]
        )
        await asyncio.sleep(0)
    seen: list[Event] = [await first, *[await anext(events) for _ in range(9_000)]]
    await queue.close()
    seen += [event async for event in events]

    missed = sum(event.missed for event in seen if isinstance(event, Gap))
    assert 19_000 <= missed < 30_000
