"""How a worker ends, and how it lives through a store in trouble."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from conveyor.core import (
    InvalidOptionError,
    Job,
    JobState,
    LeaseLostError,
    NewJob,
    Queue,
    RateLimited,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    Worker,
    WorkerClosedError,
)
from conveyor.core._queue_names import workers_of
from conveyor.core.events import LocalBus
from conveyor.core.store import Beat, Claim, Claimed, JobRecord, Renewed, Where
from conveyor.core.testing import ClockedStore, FaultyStore, ManualClock, WrappedStore
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


async def nothing(_: Job[Any]) -> None:
    pass


async def forever(_: Job[Any]) -> None:
    await asyncio.Event().wait()


async def record_of(store: Any, job: Job[Any]) -> JobRecord:
    [record] = await store.find(Where(queue=job.queue_name, ids=frozenset({job.id})), limit=1)
    found: JobRecord = record
    return found


async def others() -> set[asyncio.Task[Any]]:
    """The tasks that are left, once all that can end has."""
    await asyncio.sleep(0.001)
    return asyncio.all_tasks() - {asyncio.current_task()}


async def until_done(*tasks: asyncio.Task[Any]) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=5)


async def closes(worker: Worker[Any], clock: ManualClock, timeout: float, within: float) -> None:
    """Close, and say how long it took by the clock: no more than `within`."""
    closing = asyncio.create_task(worker.close(timeout))
    started = clock.monotonic()
    while not closing.done() and clock.monotonic() - started <= within:
        await clock.advance(0.5)
    assert closing.done(), f"close({timeout}) took more than {within} s"
    await closing


# --------------------------------------------------------------------- close


async def test_close_waits_for_running_handlers(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    finish = asyncio.Event()

    async def handler(_: Job[Any]) -> str:
        await finish.wait()
        return "done"

    runner = worker(handler)
    await runner.start()
    await clock.settle()
    closing = asyncio.create_task(runner.close(30))
    await clock.advance(29)
    assert not closing.done()
    finish.set()
    await closing

    assert (await job.refresh()).return_value == "done"
    assert await others() == set()


async def test_close_cancels_at_its_limit_and_gives_the_job_back_with_no_attempt_used(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    runner = worker(forever)
    await runner.start()
    await clock.settle()

    await closes(runner, clock, timeout=5, within=6)

    record = await record_of(store, job)
    assert (record.state, record.attempt, record.token) == (JobState.WAITING, 0, None)
    assert (await job.refresh()).attempt_history == []
    assert await others() == set()


async def test_close_gives_back_what_has_not_started_at_once_with_no_attempt_used(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    jobs = await queue.add_bulk([NewJob("a") for _ in range(4)])
    runner = worker(forever, prefetch=3)
    await runner.start()
    await clock.settle()
    assert runner.stats().ready == 3

    closing = asyncio.create_task(runner.close(30))
    await clock.settle()

    for job in jobs[1:]:
        record = await record_of(store, job)
        assert (record.state, record.attempt, record.stalled) == (JobState.WAITING, 0, 0)
    await clock.advance(31)
    await closing


async def test_another_worker_learns_at_once_of_jobs_given_back(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    first = worker(forever)
    await first.start()
    await clock.settle()
    async with worker(nothing, poll_interval="1 hour"):
        await closes(first, clock, timeout=0, within=1)
        await clock.settle()

        assert (await job.refresh()).state is JobState.COMPLETED


async def test_a_handler_that_ignores_its_cancellation_does_not_hold_up_close(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    job = await queue.add("stubborn")
    end = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue

    runner = worker(handler)
    await runner.start()
    await clock.settle()

    await closes(runner, clock, timeout=3, within=8)

    assert "stubborn" in caplog.text
    assert job.id in caplog.text
    assert (await job.refresh()).state is JobState.ACTIVE
    end.set()
    assert await others() == set()
    assert (await job.refresh()).state is JobState.ACTIVE


async def test_a_thread_that_blocks_does_not_hold_up_close(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    await queue.add("a")
    started, end = threading.Event(), threading.Event()

    def handler(_: Job[Any]) -> None:
        started.set()
        end.wait(10)

    runner = worker(handler)
    await runner.start()
    await clock.settle()
    await asyncio.to_thread(started.wait, 5)
    try:
        await closes(runner, clock, timeout=1, within=5)
    finally:
        end.set()
    await until_done(*await others())


async def test_a_claim_on_its_way_is_waited_for_and_its_jobs_go_back(
    clock: ManualClock, worker: MakeWorker
) -> None:
    arrived, answer = asyncio.Event(), asyncio.Event()
    runs: list[str] = []

    class Slow(WrappedStore):
        async def claim(self, request: Claim, **kwargs: Any) -> Claimed:
            claimed = await super().claim(request, **kwargs)
            if claimed.jobs:
                arrived.set()
                await answer.wait()
            return claimed

    async def handler(job: Job[Any]) -> None:
        runs.append(job.id)

    async with Slow(ClockedStore(MemoryStore(), clock)) as store:
        queue: Queue[Any] = Queue("q", store, clock=clock)
        job = await queue.add("a")
        runner = worker(handler, store=store)
        await runner.start()
        await arrived.wait()
        closing = asyncio.create_task(runner.close(30))
        await clock.advance(1)
        assert not closing.done()
        answer.set()
        await closing

        record = await record_of(store, job)
        assert (record.state, record.attempt) == (JobState.WAITING, 0)
        assert runs == []


async def test_a_claim_that_never_answers_does_not_hold_up_close(
    clock: ManualClock, worker: MakeWorker
) -> None:
    class Hung(WrappedStore):
        async def claim(self, request: Claim, **kwargs: Any) -> Claimed:
            await asyncio.Event().wait()
            return await super().claim(request, **kwargs)

    async with Hung(ClockedStore(MemoryStore(), clock)) as store:
        runner = worker(nothing, store=store)
        await runner.start()
        await clock.settle()

        await closes(runner, clock, timeout=3, within=8)

    assert await others() == set()


@pytest.mark.parametrize("method", ["settle", "renew", "claim", "advance", "delete", "find"])
async def test_a_store_that_is_gone_does_not_hold_up_close(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock, method: str
) -> None:
    await queue.add("a")
    store.fail(method, StoreUnavailableError("gone"), times=100_000)
    runner = worker({"a": nothing}, lock_duration=1, maintenance_interval=1)
    await runner.start()
    await clock.advance(2)

    await closes(runner, clock, timeout=3, within=8)

    assert await others() == set()


async def test_a_second_close_that_gives_no_time_hurries_the_first_one(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    runner = worker(forever)
    await runner.start()
    await clock.settle()
    patient = asyncio.create_task(runner.close(1_000))
    await clock.advance(5)
    assert not patient.done()

    await closes(runner, clock, timeout=0, within=1)

    await patient
    assert (await record_of(store, job)).state is JobState.WAITING


async def test_hurry_does_not_wait_for_a_store_that_is_gone(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    await queue.add("a")
    store.fail("settle", StoreUnavailableError("gone"), times=100_000)
    runner = worker(nothing)
    await runner.start()
    await clock.settle()
    patient = asyncio.create_task(runner.close(1_000))
    await clock.advance(5)

    await closes(runner, clock, timeout=0, within=5)

    await patient


async def test_close_can_be_called_twice_and_before_the_start(worker: MakeWorker, clock: ManualClock) -> None:
    unused, used = worker(nothing), worker(nothing)
    await unused.close()
    await unused.close()
    async with used:
        await clock.settle()
    await used.close()

    for closed in (used, unused):
        for again in (closed.start, closed.run, closed.run_until_idle):
            with pytest.raises(WorkerClosedError, match="make a new one") as caught:
                await again()
            assert not isinstance(caught.value, InvalidOptionError)
            assert caught.value.worker == closed.name


async def test_a_worker_that_is_closed_while_it_starts_claims_nothing(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue.add("a")
    asked, answer = asyncio.Event(), asyncio.Event()

    async def paused(_: str) -> dict[Any, Any]:
        asked.set()
        await answer.wait()
        return {}

    monkeypatch.setattr(store, "paused", paused)
    runner = worker(nothing)
    running = asyncio.create_task(runner.run())
    await asked.wait()
    store.calls.clear()

    closing = asyncio.create_task(runner.close())
    await asyncio.sleep(0)
    answer.set()
    await asyncio.gather(running, closing)

    assert "claim" not in store.calls
    assert await queue.count("waiting") == 1


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), StoreError("odd")])
async def test_a_worker_starts_while_its_store_is_away(
    *, queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock, error: StoreError
) -> None:
    job = await queue.add("a")
    store.fail("paused", error)

    async with worker(nothing):
        await clock.advance(1)

    assert (await job.refresh()).state is JobState.COMPLETED


async def test_no_task_begins_when_the_event_loop_has_cancelled_all_there_are(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    """A loop that ends waits for no task that begins then, and Python complains of each."""

    class Slow(WrappedStore):
        async def _pass_on(self, method: str, *args: Any, **kwargs: Any) -> Any:
            if method in {"settle", "renew"}:
                await clock.settle()
            return await super()._pass_on(method, *args, **kwargs)

    writes: list[BaseException] = []

    async def handler(job: Job[Any]) -> None:
        await job.log("begins")
        try:
            await asyncio.Event().wait()
        finally:
            await job.log("ends")
            try:
                await job.update_progress(100)
            except LeaseLostError as error:
                writes.append(error)

    runner = worker(handler, store=Slow(store), concurrency=3)
    runner.on("active", lambda _: None)
    await queue.add_bulk([NewJob("a")] * 3)
    await runner.start()
    await clock.advance(1)
    assert runner.stats().running == 3

    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)

    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert len(writes) == 3


async def test_a_cancelled_close_stops_at_once_in_order_and_is_cancelled_after_that(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    jobs = await queue.add_bulk([NewJob("a"), NewJob("a")])
    runner = worker(forever, prefetch=1)
    await runner.start()
    await clock.settle()
    closing = asyncio.create_task(runner.close(1_000))
    await clock.settle()

    closing.cancel()
    await clock.advance(1)

    assert closing.cancelled()
    assert [(await record_of(store, job)).state for job in jobs] == [JobState.WAITING] * 2
    assert await others() == set()


async def test_a_cancelled_start_leaves_nothing_behind(clock: ManualClock, worker: MakeWorker) -> None:
    class Endless(LocalBus):
        def subscribe(self, *_: Any, **__: Any) -> Any:
            class Never:
                async def __aenter__(self) -> None:
                    await asyncio.Event().wait()

                async def __aexit__(self, *_: object) -> None:
                    pass

            return Never()

    async with WithBus(ClockedStore(MemoryStore(), clock), Endless()) as store:
        starting = asyncio.create_task(worker(nothing, store=store).start())
        await clock.settle()
        starting.cancel()
        await clock.advance(1)

        assert starting.cancelled()
        assert await others() == set()


async def test_nothing_is_claimed_after_close_began(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    await queue.add("a")
    runner = worker(forever, concurrency=5)
    await runner.start()
    await clock.settle()
    closing = asyncio.create_task(runner.close(10))
    await clock.settle()
    store.calls.clear()

    await queue.add("a")
    await clock.advance(20)
    await closing

    assert "claim" not in store.calls


async def test_a_worker_whose_event_loop_ends_under_it_fails_no_job(clock: ManualClock) -> None:
    """What ends a loop cancels all its tasks: no handler has done anything to deserve that."""
    before = asyncio.all_tasks()
    async with ClockedStore(MemoryStore.from_url("memory:"), clock) as store:
        queue: Queue[Any] = Queue("q", store, clock=clock)
        jobs = await queue.add_bulk([NewJob("a") for _ in range(2)])

        async def endless(_: Job[Any]) -> None:
            await asyncio.Event().wait()

        running: Worker[Any] = Worker("q", endless, store, clock=clock)
        await running.start()
        await clock.settle()
        idling = asyncio.create_task(Worker("q", endless, store, clock=clock).run_until_idle())
        await clock.settle()
        assert await queue.count("active") == 2

        for task in asyncio.all_tasks() - before:
            task.cancel()
        await asyncio.wait([idling])
        await clock.settle()

        for job in jobs:
            await job.refresh()
            assert (job.state.terminal, job.attempts_made) == (False, 0)
        await running.close(0)


async def test_leases_are_renewed_while_close_waits(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    finish = asyncio.Event()

    async def handler(_: Job[Any]) -> str:
        await finish.wait()
        return "done"

    runner = worker(handler, lock_duration=3)
    await runner.start()
    await clock.settle()
    closing = asyncio.create_task(runner.close(100))
    async with worker(nothing, lock_duration=3, stalled_interval=1):
        await clock.advance(30)
        finish.set()
        await closing
        await clock.settle()

        assert (await job.refresh()).return_value == "done"
        assert job.stalled_count == 0


# ------------------------------------------------------------- signals, run


PROGRAM = """
import asyncio, sys, time, warnings
from conveyor.core import Queue, Worker
from conveyor.store.memory import MemoryStore
warnings.simplefilter("error")

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # a loaded machine is no fault
    async with MemoryStore() as store:
        queue = Queue("q", store)
        job = await queue.add("a")
        {handler}
        worker = Worker("q", handler, store)
        worker.on("active", lambda _: print("active", flush=True))
        await worker.run()
        await job.refresh()
        print(job.state, flush=True)

asyncio.run(main())
print("over", flush=True)
"""
FINISHES = """
        async def handler(job): await asyncio.sleep(0.1)
"""
ENDLESS = """
        async def handler(job): await asyncio.sleep(1000)
"""
BLOCKED = """
        def handler(job): time.sleep(1000)
"""


def with_handler(handler: str) -> str:
    return PROGRAM.replace("        {handler}\n", handler.strip("\n") + "\n")


def run(program: str, *signals: signal.Signals, timeout: float = 20) -> tuple[str, str, int]:
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "active\n"
        for number, kind in enumerate(signals):
            if number:
                # Two of a kind that come at once are one.
                threading.Event().wait(0.05)
            process.send_signal(kind)
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
        process.communicate()
    return out, err, process.returncode


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_a_worker_lets_its_handlers_finish(kind: signal.Signals) -> None:
    out, err, status = run(with_handler(FINISHES), kind)

    assert (out, err, status) == ("completed\nover\n", "", 0)


@pytest.mark.slow
def test_told_to_stop_twice_a_worker_stops_now() -> None:
    out, err, status = run(with_handler(ENDLESS), signal.SIGTERM, signal.SIGTERM)

    assert (out, status) == ("waiting\nover\n", 0)
    assert "Task was destroyed" not in err


@pytest.mark.slow
def test_a_thread_that_never_ends_does_not_keep_the_process_alive() -> None:
    out, err, status = run(with_handler(BLOCKED), signal.SIGTERM, signal.SIGINT)

    assert (out, status) == ("active\nover\n", 0)
    assert "Traceback" not in err
    assert "Warning" not in err


TWO_WORKERS = """
import asyncio, signal
from conveyor.core import Queue, Worker
from conveyor.store.memory import MemoryStore

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # a loaded machine is no fault
    before = signal.getsignal(signal.SIGTERM)
    async with MemoryStore() as store:
        async def handler(job): await asyncio.sleep(0.05)
        workers = [Worker(name, handler, store) for name in ("one", "two")]
        for worker in workers:
            worker.on("active", lambda _: print("active", flush=True))
        await Queue("one", store).add("a")
        await asyncio.gather(*(worker.run() for worker in workers))
    assert signal.getsignal(signal.SIGTERM) is before

asyncio.run(main())
print("over", flush=True)
"""


@pytest.mark.slow
def test_one_signal_stops_every_worker_of_a_process() -> None:
    out, err, status = run(TWO_WORKERS, signal.SIGTERM)

    assert (out, err, status) == ("over\n", "", 0)


# ------------------------------------------------- a store in trouble: leases


async def test_leases_are_renewed_for_as_long_as_a_handler_runs(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    async with worker(forever, lock_duration="30s") as runner, worker(nothing, stalled_interval=1):
        await clock.advance("10 minutes")
        await job.refresh()
        assert (job.state, job.stalled_count) == (JobState.ACTIVE, 0)
        await closes(runner, clock, timeout=0, within=1)


@pytest.mark.parametrize("error", [StoreUnavailableError("gone"), StoreError("odd"), RuntimeError("a bug")])
async def test_a_renewal_that_fails_every_second_time_loses_no_lease(
    clock: ManualClock, error: Exception, worker: MakeWorker
) -> None:
    class Flaky(WrappedStore):
        calls = 0

        async def renew(self, *args: Any, **kwargs: Any) -> Renewed:
            self.calls += 1
            if self.calls % 2:
                raise error
            return await super().renew(*args, **kwargs)

    async with Flaky(ClockedStore(MemoryStore(), clock)) as store:
        queue: Queue[Any] = Queue("q", store, clock=clock)
        job = await queue.add("a")
        runner = worker(forever, store=store, lock_duration=5, stalled_interval=1)
        async with runner:
            await clock.advance(60)
            await job.refresh()
            assert (job.state, job.stalled_count) == (JobState.ACTIVE, 0)
            assert store.calls > 10
            await closes(runner, clock, timeout=0, within=1)


async def test_one_renewal_that_fails_is_tried_again_soon(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    async with worker(forever, lock_duration=3) as runner:
        await clock.settle()
        store.fail("renew", StoreUnavailableError("gone"), times=4)
        await clock.advance(2)
        lease = (await record_of(store, job)).lease_until

        assert lease is not None
        assert lease >= clock.now() + timedelta(seconds=2)
        await closes(runner, clock, timeout=0, within=1)


async def test_all_leases_are_renewed_in_one_call(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    await queue.add_bulk([NewJob("a") for _ in range(20)])
    async with worker(forever, concurrency=10, prefetch=10, lock_duration=30) as runner:
        await clock.settle()
        store.calls.clear()
        await clock.advance(10)

        assert store.calls.count("renew") == 1
        await closes(runner, clock, timeout=0, within=1)


async def lose(store: Any, clock: ManualClock, seconds: float = 3_600) -> None:
    """Let every lease run out and be taken back, unheard by the worker."""
    await store.advance({"q"}, now=clock.now() + timedelta(seconds=seconds))


async def test_a_lost_lease_cancels_the_handler_and_its_outcome_is_not_written(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    ended: list[bool] = []

    async def handler(job: Job[Any]) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(job.cancelled)
        return "never"

    runner = worker(handler, lock_duration=30, max_stalled=0)
    async with runner:
        await clock.settle()
        await lose(store, clock)
        await queue.pause()
        await clock.advance(11)

        assert ended == [True]
        assert runner.stats().free_slots == 1
        await job.refresh()
        assert (job.state, job.stalled_count) == (JobState.WAITING, 1)


async def test_writes_of_a_handler_that_lost_its_lease_raise_and_change_nothing(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a", {"n": 1})
    raised: list[str] = []
    go_on = asyncio.Event()

    async def handler(job: Job[Any]) -> None:
        await go_on.wait()
        writes: list[Callable[[], Awaitable[None]]] = [
            lambda: job.update_progress(50),
            lambda: job.update_data({"n": 2}),
            lambda: job.log("too late"),
            job.discard,
            job.clear_logs,
        ]
        for write in writes:
            try:
                await write()
            except LeaseLostError as error:
                raised.append(error.job_id)
            except asyncio.CancelledError:
                raised.append("cancelled")

    async with worker(handler, lock_duration="1h"):
        await clock.settle()
        await queue.pause()
        await lose(store, clock)
        go_on.set()
        await clock.settle()

    assert raised.count(job.id) >= 4
    await job.refresh()
    assert (job.data, job.progress, job.logs, job.discarded) == ({"n": 1}, 0, [], False)
    assert job.attempt_history == []


async def test_a_handler_that_is_being_cancelled_learns_that_its_write_was_lost(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a", timeout=5)
    raised: list[type[BaseException]] = []

    async def handler(job: Job[Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await job.update_progress(99)
            except LeaseLostError as error:
                raised.append(type(error))

    async with worker(handler, lock_duration="1h"):
        await clock.settle()
        await queue.pause()
        await lose(store, clock)
        await clock.advance(5)

    assert raised == [LeaseLostError]
    assert (await job.refresh()).progress == 0


async def test_a_write_is_stored_when_it_returns_even_while_leases_are_renewed(
    clock: ManualClock, worker: MakeWorker
) -> None:
    hold = asyncio.Event()
    renewing = asyncio.Event()

    class Slow(WrappedStore):
        async def renew(self, beats: Any, *args: Any, **kwargs: Any) -> Renewed:
            if all(beat.report is None for beat in beats):
                renewing.set()
                await hold.wait()
            return await super().renew(beats, *args, **kwargs)

    stored: list[float] = []
    go_on = asyncio.Event()

    async def handler(job: Job[Any]) -> None:
        await go_on.wait()
        await job.update_progress(30)
        found = await queue.get_job(job.id)
        assert found is not None
        stored.append(found.progress)
        hold.set()

    async with Slow(ClockedStore(MemoryStore(), clock)) as store:
        queue: Queue[Any] = Queue("q", store, clock=clock)
        job = await queue.add("a")
        async with worker(handler, store=store):
            await clock.advance(11)
            assert renewing.is_set()
            go_on.set()
            await clock.settle()

        assert stored == [30]
        assert (await job.refresh()).progress == 30


async def test_writes_of_many_handlers_go_together(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker
) -> None:
    async def handler(job: Job[Any]) -> None:
        await job.update_progress(10)

    await queue.add_bulk([NewJob("a") for _ in range(50)])
    await worker(handler, concurrency=50).run_until_idle()

    assert store.calls.count("renew") <= 2
    assert store.calls.count("settle") <= 3


async def test_a_failed_write_is_told_to_the_handler_and_not_to_its_neighbours(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    caught: list[str] = []

    async def handler(job: Job[Any]) -> None:
        try:
            await job.update_progress(50)
        except StoreUnavailableError as error:
            caught.append(str(error))

    job = await queue.add("a")
    store.fail("renew", StoreUnavailableError("gone"))
    async with worker(handler):
        await clock.advance(1)

    assert caught == ["gone"]
    assert (await job.refresh()).state is JobState.COMPLETED


# --------------------------------------------------- a store in trouble: all


METHODS = ["claim", "settle", "renew", "advance", "delete", "find", "pause"]
#: Only of the first is it not known what came of the call.
ERRORS = [
    StoreError("cut", outcome_unknown=True),
    StoreUnavailableError("gone"),
    StoreFullError("full"),
    StoreClosedError("closed"),
    RuntimeError("a bug of the store"),
]


def failures() -> Iterator[Any]:
    """Each method with each error; of those that are known before and after by turns."""
    for (m, method), (e, error), after in product(enumerate(METHODS), enumerate(ERRORS), (False, True)):
        if e == 0 or (m + e + after) % 2:
            how = "after" if after else "before"
            yield pytest.param(method, error, after, id=f"{method}-{type(error).__name__}-{how}")


@pytest.mark.parametrize(("method", "error", "after"), [*failures()])
async def test_a_worker_outlives_each_failure_of_its_store(
    *,
    queue: Queue[Any],
    store: FaultyStore,
    worker: MakeWorker,
    clock: ManualClock,
    method: str,
    error: Exception,
    after: bool,
) -> None:
    jobs = await queue.add_bulk([NewJob("a", n, attempts=2) for n in range(6)])
    runs: list[int] = []

    async def handler(job: Job[Any]) -> int:
        runs.append(job.data)
        await job.log("hello")
        if job.data == 3 and runs.count(3) == 1:
            raise RuntimeError("once")
        if job.data == 4 and runs.count(4) == 1:
            raise RateLimited(1)
        await asyncio.sleep(0)
        data: int = job.data
        return data

    runner = worker(
        {"a": handler}, concurrency=2, lock_duration=6, stalled_interval=2, maintenance_interval=3
    )
    store.fail(method, error, times=3, after=after)
    async with runner:
        await clock.advance(60)

        assert [(await job.refresh()).state for job in jobs] == [JobState.COMPLETED] * 6
        stats = runner.stats()
        assert (stats.free_slots, stats.running, stats.ready, stats.unwritten) == (2, 0, 0, 0)
    assert await others() == set()


async def test_an_outage_is_logged_once_and_so_is_its_end(
    queue: Queue[Any],
    store: FaultyStore,
    worker: MakeWorker,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    job = await queue.add("a")
    store.fail("claim", StoreUnavailableError("the database went away"), times=20)

    async with worker(nothing):
        await clock.advance(300)
        assert (await job.refresh()).state is JobState.COMPLETED

    told = [record.getMessage() for record in caplog.records]
    assert sum("went away" in line for line in told) == 1
    assert sum("works again, after 20 failures" in line for line in told) == 1


async def test_a_store_in_trouble_is_not_hammered(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    await queue.add("a")
    store.fail("claim", StoreUnavailableError("gone"), times=10_000)

    async with worker(nothing):
        await clock.advance(60)

        assert store.calls.count("claim") < 40


async def test_the_other_outcomes_of_a_batch_survive_one_that_the_store_cannot_take(
    clock: ManualClock, caplog: pytest.LogCaptureFixture, worker: MakeWorker
) -> None:
    poison = ""

    class Picky(WrappedStore):
        async def settle(self, outcomes: Any, **kwargs: Any) -> Any:
            if any(outcome.lease.id == poison for outcome in outcomes):
                raise ValueError("cannot be stored")
            return await super().settle(outcomes, **kwargs)

    async with Picky(ClockedStore(MemoryStore(), clock)) as store:
        queue: Queue[Any] = Queue("q", store, clock=clock)
        jobs = await queue.add_bulk([NewJob("a") for _ in range(5)])
        poison = jobs[2].id
        async with worker(nothing, store=store, concurrency=5) as runner:
            await clock.advance(1)
            assert runner.stats().free_slots == 5
        states = [(await job.refresh()).state for job in jobs]

    assert states.count(JobState.COMPLETED) == 4
    assert poison in caplog.text


async def test_an_outage_while_a_batch_is_written_one_by_one_loses_no_outcome(
    clock: ManualClock, worker: MakeWorker
) -> None:
    class Picky(WrappedStore):
        singles = 0

        async def settle(self, outcomes: Any, **kwargs: Any) -> Any:
            if len(outcomes) > 1:
                raise ValueError("a bug of the store")
            self.singles += 1
            if self.singles == 2:
                raise StoreUnavailableError("gone")
            return await super().settle(outcomes, **kwargs)

    async with Picky(ClockedStore(MemoryStore(), clock)) as store:
        queue: Queue[Any] = Queue("q", store, clock=clock)
        jobs = await queue.add_bulk([NewJob("a") for _ in range(4)])
        async with worker(nothing, store=store, concurrency=4):
            await clock.advance(5)

            assert [(await job.refresh()).state for job in jobs] == [JobState.COMPLETED] * 4
            assert [job.stalled_count for job in jobs] == [0] * 4


async def test_with_too_many_outcomes_unwritten_nothing_more_is_claimed(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    await queue.add_bulk([NewJob("a") for _ in range(5_000)])
    store.fail("settle", StoreUnavailableError("gone"), times=8)

    async with worker(nothing, concurrency=500) as runner:
        for _ in range(400):
            await asyncio.sleep(0)
        assert 2_000 <= runner.stats().unwritten <= 2_500
        await clock.advance(60)

        assert (await queue.get_job_counts())[JobState.COMPLETED] == 5_000


async def test_nothing_is_left_to_be_collected_while_a_worker_works(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    async def handler(job: Job[Any]) -> None:
        gc.collect(0)
        await asyncio.sleep(0)
        gc.collect(0)
        if job.data % 3 == 0:
            raise RuntimeError("no")

    await queue.add_bulk([NewJob("a", n) for n in range(30)])
    store.fail("settle", StoreUnavailableError("gone"), times=2)
    async with worker(handler, concurrency=4):
        await clock.advance(30)
    gc.collect()

    counts = await queue.get_job_counts()
    assert (counts[JobState.COMPLETED], counts[JobState.FAILED]) == (20, 10)
    assert await others() == set()


async def test_beats_of_settled_jobs_are_not_sent(
    queue: Queue[Any], clock: ManualClock, worker: MakeWorker
) -> None:
    class Counting(WrappedStore):
        beats: list[Beat]

        async def renew(self, beats: Any, *args: Any, **kwargs: Any) -> Renewed:
            self.beats = [*getattr(self, "beats", []), *beats]
            return await super().renew(beats, *args, **kwargs)

    async with Counting(ClockedStore(MemoryStore(), clock)) as store:
        queue = Queue("q", store, clock=clock)
        await queue.add_bulk([NewJob("a") for _ in range(10)])
        async with worker(nothing, store=store, concurrency=3):
            await clock.advance(100)
        assert {beat.lease.queue for beat in store.beats} == {workers_of("q")}
