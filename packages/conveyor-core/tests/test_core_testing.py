"""What core offers to tests, and what it offers at all."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import conveyor.core
from conveyor.core import (
    ConveyorError,
    Job,
    JobState,
    Queue,
    Store,
    StoreError,
    StoreUnavailableError,
    Worker,
    errors,
    testing,
)
from conveyor.core import clock as time
from conveyor.core import store as contract
from conveyor.core._manual_clock import START
from conveyor.core.clock import SystemClock
from conveyor.core.store import Where
from conveyor.core.testing import (
    ClockedStore,
    FaultyStore,
    ManualClock,
    WrappedStore,
    make_job,
    make_record,
    run_maintenance,
    run_until_idle,
)

MakeWorker = Callable[..., Worker[Any]]


def test_every_public_name_is_there_once() -> None:
    for module in (conveyor.core, testing, contract):
        assert len(set(module.__all__)) == len(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


def test_every_error_is_public_and_a_conveyor_error() -> None:
    found = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    found -= {"Sequence"}

    assert found <= set(conveyor.core.__all__)
    for name in found:
        error = getattr(errors, name)
        assert issubclass(error, ConveyorError)
        assert name in (errors.__doc__ or "")
        assert error.__doc__


@pytest.mark.parametrize(
    ("name", "retryable"),
    [
        ("StoreUnavailableError", True),
        ("StoreBusyError", True),
        ("StoreFullError", True),
        ("StoreReadOnlyError", True),
        ("StoreForkedError", False),
        ("StoreClosedError", False),
        ("SchemaTooNewError", False),
        ("StoreError", False),
    ],
)
def test_each_store_error_says_whether_a_repeat_may_help(name: str, *, retryable: bool) -> None:
    error = getattr(errors, name)("what happened", outcome_unknown=True)

    assert isinstance(error, StoreError)
    assert (error.retryable, error.outcome_unknown) == (retryable, True)
    assert not getattr(errors, name)("what happened").outcome_unknown


# --------------------------------------------------------------------- clock


async def test_a_manual_clock_stands_still_until_it_is_turned() -> None:
    clock = ManualClock()
    called: list[float] = []
    clock.call_later(5, lambda: called.append(clock.monotonic()))
    clock.call_later(2, lambda: called.append(clock.monotonic()))
    clock.call_later(3, lambda: called.append(-1)).cancel()
    clock.call_later(2, lambda: clock.call_later(1, lambda: called.append(clock.monotonic())))

    await asyncio.sleep(0)
    assert (clock.now(), clock.monotonic(), called) == (START, 0, [])
    await clock.advance("4s")
    assert (clock.now(), called) == (START + timedelta(seconds=4), [2, 3])
    await clock.advance(1)

    assert called == [2, 3, 5]


async def test_a_rest_of_a_second_too_small_to_see_still_passes() -> None:
    clock = ManualClock()
    calls = 0

    def again() -> None:
        nonlocal calls
        calls += 1
        if calls < 1_000:
            clock.call_later(1e-16, again)

    again()
    await asyncio.wait_for(clock.advance(0.0005), 5)

    assert calls == 501


async def test_waiting_ends_with_the_event_or_with_the_time() -> None:
    clock, event = ManualClock(), asyncio.Event()
    waiting = asyncio.create_task(time.wait(clock, event, 5))
    forever = asyncio.create_task(time.wait(clock, event, None))
    sleeping = asyncio.create_task(time.sleep(clock, 5))

    await clock.advance(5)
    assert waiting.result() is False
    assert sleeping.done()
    assert not forever.done()
    event.set()
    await clock.settle()

    assert forever.result() is True
    assert await time.wait(clock, event, 0)


async def test_the_system_clock_is_the_machines() -> None:
    clock, called = SystemClock(), asyncio.Event()

    before = clock.monotonic()
    assert clock.now().utcoffset() == timedelta(0)
    clock.call_later(0.001, called.set)
    clock.call_later(0.001, lambda: 1 / 0).cancel()
    await called.wait()

    assert clock.monotonic() > before


# -------------------------------------------------------------------- stores


@pytest.mark.parametrize("state", list(JobState))
async def test_a_job_can_be_made_in_any_state(store: FaultyStore, queue: Queue[Any], state: JobState) -> None:
    record = await make_job(store, state, queue="q", data={"n": 1}, priority=4)

    job = await queue.get_job(record.id)
    assert job is not None
    assert (job.state, job.data, job.priority) == (state, {"n": 1}, 4)
    assert record == job._record


async def test_a_job_can_be_made_with_its_end(store: FaultyStore, queue: Queue[Any]) -> None:
    done = await make_job(store, JobState.COMPLETED, queue="q", result=[1])
    failed = await make_job(store, JobState.FAILED, queue="q", error=KeyError("x"))

    assert (await queue.get_job(done.id)).return_value == [1]  # type: ignore[union-attr]
    assert (await queue.get_job(failed.id)).failed_reason == "'x'"  # type: ignore[union-attr]
    assert make_record("other", "name", [2], priority=1).payload == "[2]"


async def test_a_faulty_store_fails_as_often_as_it_was_told_before_or_after(
    store: FaultyStore, queue: Queue[Any]
) -> None:
    store.fail("insert", StoreUnavailableError("before"))
    store.fail("insert", StoreUnavailableError("after"), after=True)

    for message, there in (("before", 0), ("after", 1)):
        with pytest.raises(StoreUnavailableError, match=message):
            await queue.add("a")
        assert await queue.count() == there
    await queue.add("a")

    assert await queue.count() == 2
    assert store.calls.count("insert") == 3


async def test_wrapped_stores_are_stores_and_pass_everything_on(clock: ManualClock) -> None:
    from conveyor.store.memory import MemoryStore  # noqa: PLC0415

    inner = MemoryStore()
    wrapped: Any = FaultyStore(ClockedStore(WrappedStore(inner), clock))
    assert isinstance(wrapped, Store)
    assert (wrapped.features, wrapped.bus) == (inner.features, inner.bus)
    assert all(
        inspect.signature(getattr(Store, name)).parameters.keys()
        <= inspect.signature(getattr(WrappedStore, name)).parameters.keys()
        for name in dir(Store)
        if inspect.iscoroutinefunction(getattr(Store, name)) and not name.startswith("_")
    )

    async with wrapped as store:
        queue: Queue[Any] = Queue("q", store, clock=clock)
        await queue.add("a", delay=60)
        await queue.pause()
        await queue.resume()
        await clock.advance(60)
        await store.advance({"q"})
        assert [job.state for job in await queue.get_jobs()] == [JobState.WAITING]
        assert await store.find(Where(queue="q"), limit=1, now=clock.now()) != []
        assert await queue.drain() == 1


async def test_run_maintenance_removes_what_was_kept_for_long_enough(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job: Job[Any] = await queue.add("a", remove_on_complete="1h")
    await run_until_idle(worker(lambda _: 1))

    await run_maintenance(worker(lambda _: 1))
    assert await queue.count() == 1
    await clock.advance("1h")
    await run_maintenance(worker(lambda _: 1))

    assert await queue.get_job(job.id) is None


async def test_run_until_idle_runs_a_worker(queue: Queue[Any], worker: MakeWorker) -> None:
    job: Job[Any] = await queue.add("a")

    await run_until_idle(worker(lambda _: 1))

    assert await job.is_completed()
