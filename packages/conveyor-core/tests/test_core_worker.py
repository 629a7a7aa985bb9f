"""The worker: what it claims, how many at once, and what it tells."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from conveyor.core import (
    GroupLimit,
    InvalidOptionError,
    Job,
    JobState,
    NewJob,
    Queue,
    RateLimit,
    UnsupportedFeatureError,
    Worker,
)
from conveyor.core._engine.loop_lag import LagWatch
from conveyor.core.events import CancelRequested, Event, JobWaiting, LocalBus, QueuePaused
from conveyor.core.store import Beat, Claim, Claimed, Feature, JobRecord, Limit, Rate, Store, Where
from conveyor.core.testing import ClockedStore, FaultyStore, ManualClock, WrappedStore, make_job, make_record
from conveyor.store.memory import MemoryStore

MakeWorker = Callable[..., Worker[Any]]


class Email(BaseModel):
    to: str


@dataclass
class Parcel:
    weight: float


async def nothing(_: Job[Any]) -> None:
    pass


async def settled(worker: Worker[Any], jobs: int) -> None:
    """Return when that many jobs are settled, also by threads."""
    async with asyncio.timeout(10):
        while worker.stats().settled < jobs:  # noqa: ASYNC110 - nothing tells a test when
            await asyncio.sleep(0.001)


class Gate:
    """A handler whose runs wait until they are let go."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.runs: list[Any] = []
        self.running = self.most = 0

    async def __call__(self, job: Job[Any]) -> Any:
        self.runs.append(job.data)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.open.wait()
        finally:
            self.running -= 1
        return job.data


class Requests(WrappedStore):
    """Keeps the claims that were asked for."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.claims: list[Claim] = []

    async def claim(self, request: Claim, **kwargs: Any) -> Claimed:
        self.claims.append(request)
        return await super().claim(request, **kwargs)


class WithBus(WrappedStore):
    """A store with another bus."""

    def __init__(self, store: Any, bus: LocalBus) -> None:
        super().__init__(store)
        self._bus = bus

    @property
    def bus(self) -> LocalBus:
        return self._bus


# ------------------------------------------------------------------ handlers


async def plain_coroutine(job: Job[Any]) -> str:
    return f"coroutine {job.data}"


def plain_function(job: Job[Any]) -> str:
    return f"thread {job.data} {threading.current_thread() is not threading.main_thread()}"


async def with_more(prefix: str, job: Job[Any]) -> str:
    return f"{prefix} {job.data}"


class AsyncCallable:
    async def __call__(self, job: Job[Any]) -> str:
        return f"object {job.data}"


def returns_awaitable(job: Job[Any]) -> Any:
    return plain_coroutine(job)


@pytest.mark.parametrize(
    ("handler", "result"),
    [
        (plain_coroutine, "coroutine 1"),
        (plain_function, "thread 1 True"),
        (functools.partial(with_more, "partial"), "partial 1"),
        (functools.partial(functools.partial(with_more), "twice"), "twice 1"),
        (AsyncCallable(), "object 1"),
        (AsyncCallable().__call__, "object 1"),
        (returns_awaitable, "coroutine 1"),
        (lambda job: f"lambda {job.data}", "lambda 1"),
        ({"a": plain_coroutine, "b": plain_function}, "coroutine 1"),
    ],
)
async def test_every_kind_of_callable_can_be_a_handler(
    queue: Queue[Any], worker: MakeWorker, handler: Any, result: str
) -> None:
    job = await queue.add("a", 1)

    await worker(handler).run_until_idle()

    assert (await job.refresh()).return_value == result


async def test_a_mapping_runs_each_name_with_its_own_handler_and_leaves_others(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    known = [await queue.add("a"), await queue.add("b")]
    unknown = [await queue.add("c"), await queue.add("c")]

    async with worker({"a": lambda _: "A", "b": lambda _: "B"}, maintenance_interval=1) as runner:
        await settled(runner, 2)
        await clock.advance(5)

    assert [(await job.refresh()).return_value for job in known] == ["A", "B"]
    assert [(await job.refresh()).state for job in unknown] == [JobState.WAITING] * 2
    assert [(await job.refresh()).attempt_history for job in unknown] == [[], []]
    assert sum("named 'c'" in record.getMessage() for record in caplog.records) == 1


async def test_methods_of_the_job_block_in_a_thread_and_return_their_results(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    job = await queue.add("a", {"n": 1})
    seen: list[Any] = []

    def handler(job: Job[Any]) -> str:
        seen.append(job.update_progress(25))
        seen.append(job.log("half"))
        seen.append(job.update_data({"n": 2}))
        seen.append(job.data)
        seen.append(job.is_active())
        seen.append(job.refresh())
        return "done"

    async with worker(handler) as runner:
        await settled(runner, 1)

    assert seen[:5] == [None, None, None, {"n": 2}, True]
    await job.refresh()
    assert (job.progress, job.logs, job.data, job.return_value) == (25, ["half"], {"n": 2}, "done")


async def test_handlers_in_threads_see_the_context_of_the_worker_and_leave_it_alone(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    import contextvars  # noqa: PLC0415

    tenant = contextvars.ContextVar("tenant", default="none")
    tenant.set("seven")
    seen: list[str] = []

    def handler(_: Job[Any]) -> None:
        seen.append(tenant.get())
        tenant.set("changed")

    await queue.add_bulk([NewJob("a"), NewJob("a")])
    await worker(handler).run_until_idle()

    assert seen == ["seven", "seven"]
    assert tenant.get() == "seven"


async def email_by_annotation(job: Job[Email]) -> str:
    return f"{type(job.data).__name__} {job.data.to}"


class EmailSender:
    async def __call__(self, job: Job[Email]) -> str:
        return f"{type(job.data).__name__} {job.data.to}"


async def test_the_payload_type_comes_from_the_handlers_annotation(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    jobs = [await queue.add("a", {"to": "ada"}) for _ in range(3)]

    for handler in (email_by_annotation, EmailSender(), functools.partial(email_by_annotation)):
        await worker(handler, prefetch=0).run_until_idle()

    assert [(await job.refresh()).return_value for job in jobs] == ["Email ada"] * 3


async def test_the_payload_type_comes_from_the_option(
    store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    queue = Queue("q", store, payload=Parcel, clock=clock)
    job = await queue.add("a", Parcel(1.5))

    async def handler(job: Any) -> Any:
        return [type(job.data).__name__, job.data.weight]

    await worker(handler, payload=Parcel).run_until_idle()

    assert (await job.refresh()).return_value == ["Parcel", 1.5]
    assert job.data == Parcel(1.5)


async def test_data_that_does_not_fit_the_handlers_type_fails_its_job_alone(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    bad, good = await queue.add("a", {"to": 5, "secret": "hunter2"}), await queue.add("a", {"to": "ada"})

    await worker(email_by_annotation, concurrency=2).run_until_idle()

    await bad.refresh()
    assert (bad.state, (await good.refresh()).return_value) == (JobState.FAILED, "Email ada")
    assert "to" in (bad.failed_reason or "")
    assert "hunter2" not in (bad.failed_reason or "")


class Explosive(BaseModel):
    n: int

    def model_post_init(self, _: Any) -> None:
        if self.n == 13:
            raise RuntimeError("a validator with a bug")


async def explosive(job: Job[Explosive]) -> int:
    return job.data.n


async def test_a_payload_type_that_raises_anything_fails_its_job_alone(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    jobs = await queue.add_bulk([NewJob("a", {"n": n}) for n in (12, 13, 14)])

    await worker(explosive, concurrency=3).run_until_idle()

    states = [(await job.refresh()).state for job in jobs]
    assert states == [JobState.COMPLETED, JobState.FAILED, JobState.COMPLETED]


# --------------------------------------------------------------- concurrency


async def test_no_more_handlers_run_at_once_than_the_concurrency_says(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    gate = Gate()
    await queue.add_bulk([NewJob("a", n) for n in range(10)])

    async with worker(gate, concurrency=3, prefetch=4) as runner:
        await clock.advance(5)
        stats = runner.stats()
        assert (stats.running, stats.free_slots, stats.ready) == (3, 0, 4)
        gate.open.set()
        await clock.advance(1)

        assert runner.stats().settled == 10
    assert gate.most == 3


async def test_threads_run_at_once_up_to_the_concurrency(queue: Queue[Any], worker: MakeWorker) -> None:
    together = threading.Barrier(3, timeout=5)
    await queue.add_bulk([NewJob("a") for _ in range(3)])

    async with worker(lambda _: together.wait() >= 0, concurrency=3) as runner:
        await settled(runner, 3)

    assert (await queue.get_job_counts())[JobState.COMPLETED] == 3


async def test_a_worker_that_knows_no_handler_time_claims_no_more_than_it_can_start(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    gate = Gate()
    await queue.add_bulk([NewJob("a") for _ in range(10)])

    async with worker(gate, concurrency=2) as runner:
        await clock.advance(3)
        assert (await queue.get_job_counts())[JobState.ACTIVE] == 2
        assert runner.stats().ready == 0
        gate.open.set()
        await clock.settle()


@pytest.mark.parametrize(("seconds", "ahead"), [(0.01, 10), (0.05, 2), (10, 0), (0.0001, 500)])
async def test_a_worker_claims_about_a_tenth_of_a_second_ahead(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, seconds: float, ahead: int
) -> None:
    gate = Gate()

    async def handler(job: Job[Any]) -> None:
        if job.data == "first":
            await clock_sleep(clock, seconds)
        else:
            await gate(job)

    await queue.add("a", "first")
    async with worker(handler) as runner:
        await clock.advance(seconds)
        await queue.add_bulk([NewJob("a", n) for n in range(600)])
        await clock.advance(0.05)

        assert runner.stats().ready == ahead
        gate.open.set()
        await clock.advance(1)


async def clock_sleep(clock: ManualClock, seconds: float) -> None:
    over = asyncio.Event()
    clock.call_later(seconds, over.set)
    await over.wait()


@pytest.mark.parametrize(
    "limits",
    [
        {"max_global_concurrency": 5},
        {"limiter": RateLimit(100, per=1)},
        {"group": GroupLimit(concurrency=5)},
        {"group": GroupLimit(limiter=RateLimit(100, per=1))},
    ],
    ids=["active", "rate", "group active", "group rate"],
)
async def test_with_a_limit_nothing_is_claimed_ahead(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, limits: Any
) -> None:
    gate = Gate()
    gate.open.set()
    await queue.add("a")
    async with worker(gate, **limits) as runner:
        await clock.advance(1)
        gate.open.clear()
        await queue.add_bulk([NewJob("a") for _ in range(10)])
        await clock.advance(3)

        assert runner.stats().ready == 0
        assert (await queue.get_job_counts())[JobState.ACTIVE] == 1
        gate.open.set()
        await clock.settle()


async def test_limits_are_passed_to_the_store_as_they_were_given(
    clock: ManualClock, worker: MakeWorker
) -> None:
    async with Requests(ClockedStore(MemoryStore(), clock)) as store:
        runner = worker(
            nothing,
            store=store,
            concurrency=4,
            max_global_concurrency=7,
            limiter=RateLimit(100, per="1 minute"),
            group=GroupLimit(concurrency=2, limiter=RateLimit(10, per="1s")),
            lifo=True,
            lock_duration="45s",
            name="anna",
        )
        await runner.run_until_idle()
        await runner.run_until_idle()

    first, second = store.claims
    assert first.limit == Limit(active=7, rate=Rate(max=100, per=timedelta(minutes=1)))
    assert first.group_limit == Limit(active=2, rate=Rate(max=10, per=timedelta(seconds=1)))
    assert (first.newest_first, first.lease, first.worker) == (True, timedelta(seconds=45), "anna")
    assert (first.queue, first.count, first.names) == ("q", 4, None)
    assert first.token != second.token


async def test_a_global_limit_holds_over_two_workers_and_a_free_place_is_taken_soon(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    gate = Gate()
    await queue.add_bulk([NewJob("a", n) for n in range(6)])

    async with (
        worker(gate, concurrency=4, max_global_concurrency=3),
        worker(gate, concurrency=4, max_global_concurrency=3),
    ):
        await clock.advance(3)
        assert gate.running == 3
        gate.open.set()
        await clock.advance(3)

    assert gate.most == 3
    assert len(gate.runs) == 6


async def test_a_rate_limit_lets_no_more_start_in_any_window(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    starts: list[float] = []

    async def handler(_: Job[Any]) -> None:
        starts.append(clock.monotonic())

    async with worker(handler, concurrency=5, limiter=RateLimit(2, per=10)):
        await clock.advance(1)
        await queue.add_bulk([NewJob("a") for _ in range(7)])
        await clock.advance(40)

    assert starts == [1, 1, 11, 11, 21, 21, 31]


@pytest.mark.parametrize(
    ("limits", "feature"),
    [
        ({"max_global_concurrency": 1}, Feature.ACTIVE_LIMITS),
        ({"limiter": RateLimit(1, per=1)}, Feature.RATE_LIMITS),
        ({"group": GroupLimit(concurrency=1)}, Feature.GROUPS),
    ],
)
async def test_a_worker_that_needs_what_the_store_does_not_offer_is_refused(
    store: FaultyStore, limits: Any, feature: Feature
) -> None:
    class Poor(WrappedStore):
        @property
        def features(self) -> frozenset[Feature]:
            return super().features - {feature}

    with pytest.raises(UnsupportedFeatureError, match="Poor does not offer") as caught:
        Worker("q", nothing, Poor(store), **limits)

    assert caught.value.feature == feature


async def test_a_lifo_worker_takes_the_newest_first_within_a_priority(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    gate = Gate()
    gate.open.set()
    await queue.add("a", "old")
    await queue.add("a", "lifo", lifo=True)
    await queue.add("a", "new")
    await queue.add("a", "urgent", priority=-1)

    await worker(gate, lifo=True).run_until_idle()

    assert gate.runs == ["urgent", "new", "lifo", "old"]


async def test_jobs_run_by_priority_then_lifo_ones_newest_first_then_in_the_order_added(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    gate = Gate()
    gate.open.set()
    await queue.add("a", "third")
    await queue.add("a", "second", lifo=True)
    await queue.add("a", "fourth")
    await queue.add("a", "first", lifo=True)
    await queue.add("a", "last", priority=2_147_483_647)
    await queue.add("a", "zeroth", priority=-2_147_483_648)

    await worker(gate).run_until_idle()

    assert gate.runs == ["zeroth", "first", "second", "third", "fourth", "last"]


# ------------------------------------------------------------------- waking


async def test_an_idle_worker_starts_an_added_job_at_once(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    async with worker(nothing):
        await clock.advance(10)
        job = await queue.add("a")
        await clock.settle()

        assert (await job.refresh()).state is JobState.COMPLETED


async def test_a_delayed_job_starts_exactly_when_it_is_due(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    async with worker(nothing, poll_interval="1 hour", stalled_interval="1 hour"):
        await clock.advance(1)
        job = await queue.add("a", delay=7.25)
        await clock.advance(7.24)
        assert (await job.refresh()).state is JobState.DELAYED
        await clock.advance(0.01)

        assert (await job.refresh()).state is JobState.COMPLETED


@pytest.mark.parametrize("delay", [None, 0.7])
async def test_polling_finds_the_jobs_whose_events_were_lost(
    clock: ManualClock, delay: float | None, worker: MakeWorker
) -> None:
    async with WithBus(ClockedStore(MemoryStore(), clock), LocalBus()) as store:
        queue: Queue[Any] = Queue("q", ClockedStore(store.wrapped, clock), clock=clock)
        async with worker(nothing, store=store, poll_interval=3):
            await clock.advance(10)
            job = await queue.add("a", delay=delay)
            await clock.advance(4)

            assert (await job.refresh()).state is JobState.COMPLETED


async def test_a_worker_whose_bus_brings_nothing_polls(
    clock: ManualClock, caplog: pytest.LogCaptureFixture, worker: MakeWorker
) -> None:
    from conveyor.core import StoreUnavailableError  # noqa: PLC0415

    class Broken(LocalBus):
        def subscribe(self, *_: Any, **__: Any) -> Any:
            raise StoreUnavailableError("no line")

    async with WithBus(ClockedStore(MemoryStore(), clock), Broken()) as store:
        job = await make_job(store, queue="q")
        async with worker(nothing, store=store):
            await clock.advance(2)
        assert (await Queue[Any]("q", store).get_job(job.id)).state is JobState.COMPLETED  # type: ignore[union-attr]
    assert "no line" in caplog.text


# ------------------------------------------------------------------- pausing


async def test_a_paused_worker_claims_nothing_and_gives_back_what_it_has_not_started(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    gate = Gate()
    jobs = await queue.add_bulk([NewJob("a", n) for n in range(4)])
    async with worker(gate, prefetch=2) as runner:
        await clock.settle()
        assert runner.stats().ready == 2

        await runner.pause()
        gate.open.set()
        await clock.advance(10)

        assert gate.runs == [0]
        assert [(await job.refresh()).state for job in jobs[1:]] == [JobState.WAITING] * 3
        assert [record.attempt for record in await records(runner, jobs[1:])] == [0, 0, 0]
        await runner.resume()
        await clock.settle()

        assert gate.runs == [0, 1, 2, 3]


async def records(worker: Worker[Any], jobs: list[Job[Any]]) -> list[JobRecord]:
    from conveyor.core.store import Where  # noqa: PLC0415

    ids = frozenset(job.id for job in jobs)
    return list(await worker._context.store.find(Where(queue="q", ids=ids), limit=100))


async def test_jobs_that_arrive_after_a_pause_of_the_worker_go_back(
    clock: ManualClock, worker: MakeWorker
) -> None:
    held = asyncio.Event()

    class Slow(WrappedStore):
        async def claim(self, request: Claim, **kwargs: Any) -> Claimed:
            claimed = await super().claim(request, **kwargs)
            await held.wait()
            return claimed

    async with Slow(ClockedStore(MemoryStore(), clock)) as store:
        queue: Queue[Any] = Queue("q", store, clock=clock)
        job = await queue.add("a")
        async with worker(nothing, store=store) as runner:
            await clock.settle()
            await runner.pause()
            held.set()
            await clock.settle()

            assert (await job.refresh()).state is JobState.WAITING
            assert runner.stats().ready == 0


@pytest.mark.parametrize(("what", "left"), [({}, []), ({"job_name": "b"}, ["a", "a"])])
async def test_prefetched_jobs_go_back_when_a_pause_is_received(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, what: Any, left: list[str]
) -> None:
    gate = Gate()
    await queue.add_bulk([NewJob(name, name) for name in ("x", "a", "b", "a", "b")])
    async with worker(gate, prefetch=4):
        await clock.settle()

        await queue.pause(**what)
        await clock.settle()
        gate.open.set()
        await clock.advance(5)

        assert gate.runs == ["x", *left]
        await queue.resume(**what)
        await clock.advance(1)
        assert sorted(gate.runs) == ["a", "a", "b", "b", "x"]


async def test_a_paused_name_lets_the_others_run(queue: Queue[Any], worker: MakeWorker) -> None:
    gate = Gate()
    gate.open.set()
    await queue.add_bulk([NewJob("a", 1), NewJob("b", 2)])
    await queue.pause("a")

    await worker(gate).run_until_idle()

    assert gate.runs == [2]


async def test_running_jobs_finish_while_the_queue_is_paused(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    gate = Gate()
    job = await queue.add("a")
    async with worker(gate):
        await clock.settle()
        await queue.pause()
        gate.open.set()
        await clock.settle()

        assert (await job.refresh()).state is JobState.COMPLETED


# ------------------------------------------------------------------ stalling


async def stalled_job(store: Store, clock: ManualClock, times: int = 1) -> JobRecord:
    """A job that was claimed by a worker that died, that often."""
    record = await make_job(store)
    for _ in range(times):
        lease = timedelta(seconds=30)
        claimed = await store.claim(
            Claim(queue="q", count=1, token=str(clock.monotonic()), lease=lease, worker="dead")
        )
        await store.renew([Beat(lease=held.lease, started=True) for held in claimed.jobs], lease)
        await clock.advance(30)
        await store.advance({"q"})
    return record


async def test_a_job_whose_worker_died_runs_again_and_uses_no_attempt(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    record = await stalled_job(store, clock)

    await worker(nothing).run_until_idle()

    job = await queue.get_job(record.id)
    assert job is not None
    assert (job.state, job.attempts_made, job.stalled_count) == (JobState.COMPLETED, 0, 1)
    assert [a.outcome for a in job.attempt_history] == ["stalled", "completed"]


@pytest.mark.parametrize(
    ("times", "most", "state"), [(3, 3, "completed"), (4, 3, "failed"), (1, 0, "failed")]
)
async def test_a_job_that_stalls_too_often_fails_without_running(
    *,
    queue: Queue[Any],
    store: FaultyStore,
    worker: MakeWorker,
    clock: ManualClock,
    times: int,
    most: int,
    state: str,
) -> None:
    record = await stalled_job(store, clock, times)

    await worker(nothing, max_stalled=most).run_until_idle()

    job = await queue.get_job(record.id)
    assert job is not None
    assert job.state == state
    assert job.stalled_count == times
    if state == "failed":
        assert (job.failed_reason or "").startswith("stalled")
        assert job.attempts_made == 0


async def test_a_running_worker_takes_back_leases_that_ran_out(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    told: list[str] = []
    record = await make_job(store)
    await store.claim(Claim(queue="q", count=1, token="t", lease=timedelta(seconds=30), worker="dead"))
    runner = worker(nothing)
    runner.on("stalled", lambda event: told.append(event.job_id))
    async with runner:
        await clock.advance(29.9)
        assert (await queue.get_job_counts())[JobState.ACTIVE] == 1
        await clock.advance(0.2)

        assert (await queue.get_job_counts())[JobState.COMPLETED] == 1
        assert told == [record.id]


async def test_a_job_that_has_stalled_before_runs_alone(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    suspect = await stalled_job(store, clock)
    gate = Gate()
    others = await queue.add_bulk([NewJob("a", n) for n in range(4)])

    async with worker(gate, concurrency=3, prefetch=2) as runner:
        await clock.advance(2)
        assert gate.runs == [None]
        assert (runner.stats().running, runner.stats().ready) == (1, 0)
        assert [r.attempt for r in await records(runner, others)] == [0, 0, 0, 0]
        gate.open.set()
        await clock.advance(2)

        assert len(gate.runs) == 5
    assert (await queue.get_job(suspect.id)).state is JobState.COMPLETED  # type: ignore[union-attr]


async def test_a_job_that_has_stalled_before_waits_for_those_that_run(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    gate = Gate()
    running = await queue.add("a", "running")
    async with worker(gate, concurrency=3) as runner:
        await clock.settle()
        [suspect] = await store.insert([make_record(name="suspect", delay=timedelta(hours=1))])
        lease = timedelta(seconds=1)
        await store.take("q", [suspect.key.id], token="t", lease=lease, worker="dead")
        await clock.advance(31)
        await queue.promote_jobs()
        await queue.add("a", "later")
        await clock.advance(1)
        stats = runner.stats()
        gate.open.set()
        await clock.advance(2)

    assert (stats.running, stats.ready) == (1, 1)
    assert gate.runs == ["running", None, "later"]
    assert gate.most == 1
    assert (await running.refresh()).state is JobState.COMPLETED


# -------------------------------------------------------------------- events


async def test_a_callback_gets_the_events_of_this_worker(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, str]] = []

    async def handler(job: Job[Any]) -> None:
        if job.name == "bad":
            raise RuntimeError("no")

    runner = worker(handler)

    async def later(event: Any) -> None:
        told.append((type(event).__name__, event.job_id))

    def broken(_: Event) -> None:
        raise RuntimeError("a callback with a bug")

    runner.on("completed", broken)
    for name in ("active", "completed", "failed", "retrying"):
        runner.on(name, later)
    good, bad = await queue.add("good"), await queue.add("bad", attempts=2)
    async with runner:
        await clock.advance(1)

    assert [name for name, job_id in told if job_id == good.id] == ["JobActive", "JobCompleted"]
    assert [name for name, job_id in told if job_id == bad.id] == [
        "JobActive",
        "JobRetrying",
        "JobActive",
        "JobFailed",
    ]
    assert "a callback with a bug" in caplog.text


async def test_a_callback_that_never_returns_stops_neither_the_worker_nor_its_events(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    runner = worker(nothing)
    called: list[Event] = []

    async def endless(event: Event) -> None:
        called.append(event)
        await asyncio.Event().wait()

    runner.on("completed", endless)
    first, second = await queue.add("a"), await queue.add("a")
    async with runner:
        waiting = asyncio.gather(first.wait_until_finished(), second.wait_until_finished())
        await clock.settle()
        assert waiting.done()
        assert len(called) == 1
        closing = asyncio.create_task(runner.close(1))
        await clock.advance(10)
        assert closing.done()


async def test_a_callback_that_is_cancelled_is_only_logged(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    runner = worker(nothing)
    called: list[str] = []

    async def cancelled(event: Any) -> None:
        called.append(event.job_id)
        raise asyncio.CancelledError

    runner.on("completed", cancelled)
    jobs = await queue.add_bulk([NewJob("a"), NewJob("a")])
    async with runner:
        await clock.settle()

    assert called == [job.id for job in jobs]
    assert "callback for JobCompleted" in caplog.text


async def test_a_callback_that_cancels_its_own_task_keeps_no_event_from_the_others(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    heard: list[str] = []

    async def hostile(_: Event) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    jobs = await queue.add_bulk([NewJob("a") for _ in range(5)])
    async with worker(nothing, concurrency=5) as runner:
        runner.on("completed", hostile)
        runner.on("completed", lambda event: heard.append(event.job_id))
        await clock.advance(1)

    assert sorted(heard) == sorted(job.id for job in jobs)


async def test_a_bus_that_raises_does_not_disturb_the_worker(
    clock: ManualClock, caplog: pytest.LogCaptureFixture, worker: MakeWorker
) -> None:
    class Broken(LocalBus):
        async def publish(self, events: Any) -> None:
            raise RuntimeError(f"no line for {len(events)}")

    async with WithBus(ClockedStore(MemoryStore(), clock), Broken()) as store:
        await make_job(store)
        await worker(nothing, store=store).run_until_idle()
        counts = await Queue[Any]("q", store).get_job_counts()
    assert counts[JobState.COMPLETED] == 1
    assert "events could not be published" in caplog.text


@pytest.mark.parametrize(("event", "callback"), [("complete", nothing), ("completed", "print")])
async def test_a_listener_that_cannot_work_is_refused(worker: MakeWorker, event: str, callback: Any) -> None:
    with pytest.raises(InvalidOptionError):
        worker(nothing).on(event, callback)


# ----------------------------------------------------------------- run_until_idle


async def test_run_until_idle_runs_what_jobs_add_and_leaves_what_is_delayed(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    runs: list[int] = []

    async def handler(job: Job[int]) -> None:
        runs.append(job.data)
        if job.data < 3:
            await queue.add("a", job.data + 1)

    await queue.add("a", 1)
    later = await queue.add("a", 99, delay=1)

    await worker(handler, concurrency=2).run_until_idle()

    assert runs == [1, 2, 3]
    assert (await later.refresh()).state is JobState.DELAYED


async def test_a_worker_says_what_it_is_without_secrets(worker: MakeWorker) -> None:
    runner = worker(nothing, name="anna")

    assert repr(runner) == "<Worker 'anna' of 'q'>"
    assert runner.id != worker(nothing).id
    assert runner.id == runner.id.strip()


async def test_a_short_lease_is_allowed_with_a_warning(store: FaultyStore) -> None:
    with pytest.warns(UserWarning, match="lock_duration"):
        Worker("q", nothing, store, lock_duration=1)


async def test_a_blocked_event_loop_is_named_with_the_jobs_that_run(
    queue: Queue[Any], store: FaultyStore, caplog: pytest.LogCaptureFixture, worker: MakeWorker
) -> None:
    class Late(ManualClock):
        late = 0.0

        def monotonic(self) -> float:
            return super().monotonic() + self.late

    clock = Late()
    gate = Gate()
    await queue.add("crunch")
    async with worker(gate, store=store, clock=clock):
        await clock.settle()
        clock.late = 4.0
        await clock.advance(10)
        gate.open.set()
        await clock.settle()

    assert "blocked for 4.0 s" in caplog.text
    assert "crunch" in caplog.text


def block(clock: ManualClock, seconds: float) -> None:
    """Let time pass while nothing runs, timers included."""
    clock._passed += timedelta(seconds=seconds)


def lengths(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"blocked for (\d+\.\d) s", text)]


@pytest.mark.parametrize("seconds", [1.3, 4.0, 12.0])
async def test_a_job_that_blocked_the_loop_and_ended_is_named(
    queue: Queue[Any],
    worker: MakeWorker,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
    seconds: float,
) -> None:
    async def handler(job: Job[Any]) -> None:
        if job.name == "crunch":
            block(clock, seconds)

    earlier = await queue.add("earlier")
    async with worker(handler):
        await clock.advance(5)
        crunch = await queue.add("crunch")
        await clock.advance(5)

    [warning] = [record.getMessage() for record in caplog.records]
    assert [seconds - 0.31 < length <= seconds for length in lengths(warning)] == [True]
    assert f"running: crunch ({crunch.id})." in warning
    assert earlier.id not in warning


@pytest.mark.parametrize("before", [0.0, 0.02, 0.24, 0.25, 3.33])
async def test_the_length_of_a_block_is_right_to_a_quarter_of_a_second(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, caplog: pytest.LogCaptureFixture, before: float
) -> None:
    gate = Gate()
    await queue.add("crunch")
    async with worker(gate):
        await clock.advance(before)
        block(clock, 4)
        await clock.advance(1)
        gate.open.set()
        await clock.settle()

    assert [3.75 <= length <= 4.0 for length in lengths(caplog.text)] == [True]


async def test_a_loop_that_is_late_by_less_than_a_second_is_not_reported(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    await queue.add("crunch")
    async with worker(gate):
        for _ in range(10):
            await clock.advance(1)
            block(clock, 0.9)
        gate.open.set()
        await clock.settle()

    assert caplog.text == ""


async def test_the_latest_of_many_jobs_that_may_have_blocked_the_loop_are_named(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = await queue.add_bulk([NewJob("quick", n) for n in range(50)])

    async def handler(job: Job[int]) -> None:
        if job.data == 49:
            block(clock, 4)

    async with worker(handler):
        await clock.advance(1)

    assert [3.75 <= length <= 4.0 for length in lengths(caplog.text)] == [True]
    assert jobs[49].id in caplog.text
    assert sum(job.id in caplog.text for job in jobs) == 10


async def test_a_worker_looks_after_the_loop_only_while_it_has_jobs(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    look = LagWatch._look

    def counted(watch: LagWatch) -> None:
        looks.append(clock.monotonic())
        look(watch)

    monkeypatch.setattr(LagWatch, "_look", counted)
    gate = Gate()
    async with worker(gate):
        await clock.advance(10)
        assert looks == []
        await queue.add("a")
        await clock.advance(0.9)
        assert looks == [10.25, 10.5, 10.75]
        gate.open.set()
        await clock.advance(10)

    assert looks[3:] == [11]


async def test_events_that_are_none_of_its_business_do_not_make_a_worker_claim(
    clock: ManualClock, worker: MakeWorker
) -> None:
    async with Requests(ClockedStore(MemoryStore(), clock)) as store, worker(nothing, store=store):
        await clock.settle()
        before = len(store.claims)
        at = clock.now()
        await store.bus.publish([CancelRequested(queue_name="q", at=at, job_id="x")])
        await store.bus.publish([QueuePaused(queue_name="q", at=at)])
        await store.bus.publish([JobWaiting(queue_name="other", at=at, job_id="x")])
        await clock.settle()

        assert len(store.claims) == before


async def test_a_claim_that_finds_nothing_readable_goes_on(
    clock: ManualClock, caplog: pytest.LogCaptureFixture, worker: MakeWorker
) -> None:
    caplog.set_level(logging.ERROR)
    async with ClockedStore(MemoryStore(), clock) as store:
        broken = [
            await make_job(store, payload="{"),
            await make_job(store, options="[]"),
            await make_job(store, options="{"),
            await make_job(store, report="[1]"),
            await make_job(store, report='{"history": [{}]}'),
            await make_job(store, options='{"backoff": {"kind": 5}}'),
            await make_job(store, payload="[" * 100_000),
        ]
        good = await make_job(store)
        await worker(nothing, store=store, concurrency=20).run_until_idle()

        queue: Queue[Any] = Queue("q", store, clock=clock)
        for record in broken:
            job = await queue.get_job(record.id)
            assert job is not None
            assert job.state is JobState.FAILED
            assert "cannot be read" in (job.failed_reason or "")
        assert (await queue.get_job(good.id)).state is JobState.COMPLETED  # type: ignore[union-attr]
    assert [getattr(record, "job_id", None) for record in caplog.records] == [one.id for one in broken]


async def test_a_row_that_the_store_cannot_decode_is_failed_with_the_reason(
    clock: ManualClock, worker: MakeWorker
) -> None:
    from conveyor.core.store import Undecodable  # noqa: PLC0415

    class Garbled(WrappedStore):
        async def claim(self, request: Claim, **kwargs: Any) -> Claimed:
            claimed = await super().claim(request, **kwargs)
            bad = tuple(
                Undecodable(lease=job.lease, attempt=job.attempt, reason="bad bytes")
                for job in claimed.jobs
                if job.name == "bad"
            )
            return replace(claimed, jobs=[job for job in claimed.jobs if job.name != "bad"], undecodable=bad)

    async with Garbled(ClockedStore(MemoryStore(), clock)) as store:
        bad, good = await make_job(store, name="bad"), await make_job(store, name="good")
        await worker(nothing, store=store, concurrency=2).run_until_idle()

        queue: Queue[Any] = Queue("q", store, clock=clock)
        failed = await queue.get_job(bad.id)
        assert failed is not None
        assert failed.state is JobState.FAILED
        assert "bad bytes" in (failed.failed_reason or "")
        assert (await queue.get_job(good.id)).state is JobState.COMPLETED  # type: ignore[union-attr]


async def test_a_prefetched_job_whose_lease_was_lost_is_not_run(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    gate = Gate()
    await queue.add("a", 1, timeout="1h")
    lost = await queue.add("a", 2)
    async with worker(gate, prefetch=1, lock_duration=30) as runner:
        await clock.settle()
        assert runner.stats().ready == 1
        await store.delete(Where(queue="q", ids=frozenset({lost.id})), limit=1)
        await clock.advance(11)
        gate.open.set()
        await clock.advance(1)

        assert gate.runs == [1]
        assert (runner.stats().ready, runner.stats().free_slots) == (0, 1)


async def test_a_built_in_function_can_be_a_handler(queue: Queue[Any], worker: MakeWorker) -> None:
    job = await queue.add("a")

    await worker(max).run_until_idle()

    assert (await job.refresh()).state is JobState.FAILED
    assert "not iterable" in (job.failed_reason or "")
