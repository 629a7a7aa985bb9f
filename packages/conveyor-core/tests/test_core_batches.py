"""Batches: waiting for company, threads, closing, and what is refused."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from conveyor.core import (
    Batch,
    GroupLimit,
    InvalidOptionError,
    Job,
    JobState,
    NewJob,
    Pause,
    Queue,
    StoreUnavailableError,
    Worker,
)
from conveyor.core.store import Where
from conveyor.core.testing import FaultyStore, ManualClock, run_until_idle
from conveyor.store.memory import MemoryStore

Jobs = list[Job[Any]]
Make = Callable[..., Worker[Any]]


class Keeper:
    """Keeps the data of what it was given, call by call."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []

    async def __call__(self, jobs: Jobs) -> None:
        self.calls.append([job.data for job in jobs])


async def test_a_batch_waits_for_more_jobs_as_long_as_it_lingers_and_not_longer(
    queue: Queue[Any], clock: ManualClock, worker: Make
) -> None:
    keeper = Keeper()
    async with worker(keeper, batch=Batch(10, linger="10s")):
        await queue.add("work", 1)
        await clock.advance(6)
        await queue.add("work", 2)
        await clock.advance("3900ms")
        assert keeper.calls == []

        await clock.advance("100ms")

        assert keeper.calls == [[1, 2]]
        await queue.add("work", 3)
        await clock.advance("9900ms")
        assert keeper.calls == [[1, 2]]
        await clock.advance("100ms")
        assert keeper.calls == [[1, 2], [3]]


async def test_a_full_batch_starts_at_once(queue: Queue[Any], clock: ManualClock, worker: Make) -> None:
    keeper = Keeper()
    async with worker(keeper, batch=Batch(3, linger="10s")):
        for n in range(7):
            await queue.add("work", n)
        await clock.advance(0)

        assert keeper.calls == [[0, 1, 2], [3, 4, 5]]
        await clock.advance(10)
        assert keeper.calls == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("by", ["name", "group"])
async def test_a_lingering_batch_is_filled_by_its_own_kind(
    queue: Queue[Any], clock: ManualClock, worker: Make, by: Any
) -> None:
    keeper = Keeper()
    async with worker(keeper, batch=Batch(2, linger="10s", by=by), concurrency=2):
        await queue.add("x", "x1", group="x")
        await clock.advance(1)
        await queue.add("y", "y1", group="y")
        await clock.advance(1)
        assert keeper.calls == []
        await queue.add("y", "y2", group="y")
        await clock.advance(0)
        assert keeper.calls == [["y1", "y2"]]
        await clock.advance(8)
        assert keeper.calls == [["y1", "y2"], ["x1"]]


async def test_lingering_delays_no_shutdown(queue: Queue[Any], clock: ManualClock, worker: Make) -> None:
    keeper = Keeper()
    [job] = await queue.add_bulk([NewJob("work", 1)])
    one = worker(keeper, batch=Batch(10, linger="1h"))
    await one.start()
    await clock.advance(1)
    assert one.stats().ready == 1

    await one.close()

    assert keeper.calls == []
    assert (await job.refresh()).state is JobState.WAITING
    assert (job.attempts_made, job.stalled_count) == (0, 0)


async def test_what_lingers_goes_back_when_it_is_paused(
    queue: Queue[Any], clock: ManualClock, worker: Make
) -> None:
    keeper = Keeper()
    async with worker(keeper, batch=Batch(10, linger="10s")):
        await queue.add("work", 1)
        await queue.add("other", 2)
        await clock.advance(1)
        await queue.pause(job_name="work")
        await clock.advance(10)

        assert keeper.calls == [[2]]
        assert await queue.count("waiting") == 1


async def test_a_lingering_job_that_is_cancelled_does_not_run(
    queue: Queue[Any], clock: ManualClock, worker: Make
) -> None:
    keeper = Keeper()
    async with worker(keeper, batch=Batch(10, linger="10s")):
        jobs = await queue.add_bulk([NewJob("work", n) for n in range(2)])
        await clock.advance(1)

        assert await jobs[0].cancel()
        await clock.advance(0)

        assert (await jobs[0].refresh()).state is JobState.CANCELLED
        await clock.advance(10)
        assert keeper.calls == [[1]]


async def test_run_until_idle_lingers_not(queue: Queue[Any], worker: Make) -> None:
    await queue.add("work", 1)
    keeper = Keeper()

    await run_until_idle(worker(keeper, batch=Batch(10, linger="1h")))

    assert keeper.calls == [[1]]


async def test_a_plain_function_takes_a_batch_in_a_thread(queue: Queue[Any], worker: Make) -> None:
    jobs = await queue.add_bulk([NewJob("work", n) for n in range(3)])
    threads: list[threading.Thread] = []

    def handler(jobs: Jobs) -> list[Any]:
        threads.append(threading.current_thread())
        for job in jobs:
            job.log(f"line {job.data}")
        return [ValueError("no") if job.data == 1 else job.data for job in jobs]

    await run_until_idle(worker(handler, batch=Batch(3)))

    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    found = [await job.refresh() for job in jobs]
    assert [job.state for job in found] == [JobState.COMPLETED, JobState.FAILED, JobState.COMPLETED]
    assert [job.logs for job in found] == [["line 0"], ["line 1"], ["line 2"]]


@pytest.mark.parametrize("result", [None, [1]], ids=["nothing", "too few"])
async def test_a_thread_that_stops_half_way_as_its_worker_closes_has_done_nothing(result: Any) -> None:
    async with MemoryStore() as store:
        queue: Queue[Any] = Queue("q", store)
        jobs = await queue.add_bulk([NewJob("work", n) for n in range(3)])
        begun = threading.Event()

        def handler(jobs: Jobs) -> Any:
            begun.set()
            while not jobs[0].cancelled:
                time.sleep(0.001)
            return result

        worker: Worker[Any] = Worker("q", handler, store, batch=Batch(3))
        await worker.start()
        await asyncio.to_thread(begun.wait)
        await worker.close(timeout=0)

        assert [(await job.refresh()).state for job in jobs] == [JobState.WAITING] * 3
        assert [job.attempts_made for job in jobs] == [0, 0, 0]


async def test_a_group_whose_pause_cannot_be_read_fills_no_batch(
    store: FaultyStore, queue: Queue[Any], worker: Make
) -> None:
    await queue.add_bulk([NewJob("work", n, group="g") for n in range(3)])
    keeper = Keeper()
    store.fail("paused", StoreUnavailableError("gone"), times=1)

    await run_until_idle(worker(keeper, batch=Batch(3, by="group")))

    assert keeper.calls == [[0], [1, 2]]
    assert await queue.count("completed") == 3


class Email(BaseModel):
    to: str


@pytest.mark.parametrize("kind", ["list", "Sequence"])
async def test_the_annotation_of_a_batch_tells_the_type_of_its_data(
    queue: Queue[Any], worker: Make, kind: str
) -> None:
    seen: list[Email] = []

    async def of_list(jobs: list[Job[Email]]) -> None:
        seen.extend(job.data for job in jobs)

    async def of_sequence(jobs: Sequence[Job[Email]]) -> None:
        seen.extend(job.data for job in jobs)

    await queue.add("work", {"to": "ada"})
    await run_until_idle(worker(of_list if kind == "list" else of_sequence, batch=Batch(2)))

    assert seen == [Email(to="ada")]


async def test_a_batch_of_one_name_takes_only_the_names_of_the_mapping(
    queue: Queue[Any], worker: Make
) -> None:
    await queue.add_bulk([NewJob(name, name) for name in "xyxz"])
    x, y = Keeper(), Keeper()

    await run_until_idle(worker({"x": x, "y": y}, batch=Batch(5, by="name"), concurrency=2))

    assert (x.calls, y.calls) == ([["x", "x"]], [["y"]])


async def test_a_paused_group_fills_no_batch(queue: Queue[Any], store: FaultyStore, worker: Make) -> None:
    """The pause comes between the claim of the first job and that of its company."""
    await queue.add_bulk([NewJob("work", n, group="g") for n in range(3)])
    keeper = Keeper()
    find = store.find

    async def paused_meanwhile(where: Where, **kwargs: Any) -> Any:
        found = await find(where, **kwargs)
        if where.group == "g":
            await store.pause("q", Pause(group="g"))
        return found

    store.find = paused_meanwhile  # type: ignore[method-assign]
    await run_until_idle(worker(keeper, batch=Batch(3, by="group")))

    assert keeper.calls == [[0]]
    assert await queue.count("waiting") == 2


def test_a_batch_is_a_value() -> None:
    batch = Batch(100, linger="200ms", by="group")

    assert (batch.size, batch.linger, batch.by) == (100, timedelta(milliseconds=200), "group")
    assert Batch(1) == Batch(1, 0, None)


@pytest.mark.parametrize(
    ("option", "make"),
    [
        ("size", lambda: Batch(0)),
        ("size", lambda: Batch(2.0)),  # type: ignore[arg-type]
        ("size", lambda: Batch(10_001)),
        ("linger", lambda: Batch(1, linger=-1)),
        ("linger", lambda: Batch(1, linger="soon")),
        ("by", lambda: Batch(1, by="id")),  # type: ignore[arg-type]
    ],
)
def test_a_batch_that_cannot_be_is_refused(option: str, make: Callable[[], Batch]) -> None:
    with pytest.raises(InvalidOptionError) as refused:
        make()

    assert refused.value.option == option


@pytest.mark.parametrize(
    ("option", "options"),
    [
        ("batch", {"batch": 10}),
        ("batch", {"handler": {"x": Keeper()}, "batch": Batch(2)}),
        ("batch", {"handler": {"x": Keeper()}, "batch": Batch(2, by="group")}),
        ("prefetch", {"batch": Batch(2), "prefetch": 3}),
    ],
)
def test_a_worker_of_batches_that_cannot_be_is_refused(
    worker: Make, option: str, options: dict[str, Any]
) -> None:
    handler = options.pop("handler", Keeper())

    with pytest.raises(InvalidOptionError) as refused:
        worker(handler, **options)

    assert refused.value.option == option


async def test_with_a_group_limit_a_batch_takes_what_claims_bring(queue: Queue[Any], worker: Make) -> None:
    await queue.add_bulk([NewJob("work", f"{'gh'[n % 2]}{n}", group="gh"[n % 2]) for n in range(6)])
    keeper = Keeper()

    await run_until_idle(
        worker(keeper, batch=Batch(4, by="group"), group=GroupLimit(concurrency=1), concurrency=2)
    )

    assert sorted(map(len, keeper.calls)) == [1] * 6
