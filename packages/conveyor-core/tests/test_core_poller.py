"""What a worker does with jobs that it has claimed and not started."""

import asyncio
import threading
import time
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from conveyor.core import Job, JobState, NewJob, Queue, Worker
from conveyor.core._jobs.ids import new_token
from conveyor.core.store import Advanced, Claim, Claimed, Settled, Store
from conveyor.core.testing import ClockedStore, ManualClock, WrappedStore
from conveyor.store.memory import MemoryStore

T = TypeVar("T")
LEASE = timedelta(seconds=30)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(clock: ManualClock) -> Any:
    async with ClockedStore(MemoryStore.from_url("memory:"), clock) as opened:
        yield opened


@pytest.fixture
def queue(store: Store, clock: ManualClock) -> Queue[Any]:
    return Queue("q", store, clock=clock)


async def die_with(store: Store, count: int) -> None:
    """Claim as a worker does that is never heard of again."""
    await store.claim(Claim(queue="q", count=count, token=new_token(), lease=LEASE, worker="dead"))


async def test_jobs_claimed_ahead_go_back_when_a_handler_turns_out_to_take_long(
    store: Store, queue: Queue[Any], clock: ManualClock
) -> None:
    gate = asyncio.Event()

    async def handler(job: Job[Any]) -> None:
        if job.name == "slow":
            await gate.wait()
        else:
            over = asyncio.Event()
            clock.call_later(0.005, over.set)
            await over.wait()

    await queue.add("fast")
    await queue.add("slow")
    await queue.add_bulk([NewJob("fast") for _ in range(50)])
    async with Worker("q", handler, store, clock=clock) as worker:
        await clock.advance(0.05)
        assert worker.stats().ready > 0

        await clock.advance(0.2)

        assert worker.stats().ready == 0
        counts = await queue.get_job_counts()
        assert (counts[JobState.ACTIVE], counts[JobState.WAITING]) == (1, 50)
        assert all(job.attempts_made == 0 for job in await queue.get_jobs("waiting"))
        gate.set()
        await clock.advance(5)
        assert await queue.count("completed") == 52


async def test_after_a_crash_the_suspects_run_one_by_one_and_each_is_claimed_once(
    store: Store, queue: Queue[Any], clock: ManualClock
) -> None:
    running = most = 0

    async def handler(job: Job[Any]) -> None:
        nonlocal running, most
        running += 1
        if job.stalled_count:
            most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    claimed = 0

    class Counting(WrappedStore):
        async def claim(self, request: Claim, **more: Any) -> Claimed:
            nonlocal claimed
            found = await super().claim(request, **more)
            claimed += len(found.jobs) if request.queue == "q" else 0
            return found

    counting = Counting(store)
    await queue.add_bulk([NewJob("a") for _ in range(600)])
    await die_with(store, 400)
    await clock.advance("31s")

    async with Worker("q", handler, counting, concurrency=20, clock=clock):
        await clock.advance(90)

    assert await queue.count("completed") == 600
    assert most == 1
    assert claimed == 600


@pytest.mark.parametrize("limit", [0, 30])
async def test_what_a_claim_on_its_way_brings_goes_back_when_the_worker_closes(
    store: Store, queue: Queue[Any], clock: ManualClock, limit: int
) -> None:
    on_its_way, go_on = asyncio.Event(), asyncio.Event()

    class Slow(WrappedStore):
        async def claim(self, request: Claim, **more: Any) -> Claimed:
            claimed = await super().claim(request, **more)
            on_its_way.set()
            await go_on.wait()
            return claimed

    async def handler(_: Job[Any]) -> None:
        raise AssertionError

    await queue.add_bulk([NewJob("a") for _ in range(10)])
    worker = Worker("q", handler, Slow(store), concurrency=10, clock=clock)
    await worker.start()
    await on_its_way.wait()

    closing = asyncio.create_task(worker.close(limit))
    await clock.settle()
    go_on.set()
    await clock.advance(1)
    await closing

    counts = await queue.get_job_counts()
    assert (counts[JobState.WAITING], counts[JobState.ACTIVE]) == (10, 0)


async def test_a_job_whose_outcome_cannot_be_decided_stalls_instead_of_being_held_for_ever(
    store: Store, queue: Queue[Any], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(_: Job[Any]) -> None:
        return None

    job = await queue.add("a")
    worker = Worker("q", handler, store, max_stalled=0, clock=clock)

    def broken(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr("conveyor.core._engine.outcome_policy.OutcomePolicy.settlement", broken)
    async with worker:
        await clock.advance(120)

        assert (await job.refresh()).state is JobState.FAILED
        assert worker.stats().free_slots == 1


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit


class HostileError(Exception, metaclass=Nameless):
    pass


async def test_an_exception_whose_class_hides_its_name_fails_its_job_alone(
    store: Store, queue: Queue[Any], clock: ManualClock
) -> None:
    async def handler(_: Job[Any]) -> None:
        raise HostileError("boom")

    job = await queue.add("a")

    await Worker("q", handler, store, clock=clock).run_until_idle()

    await job.refresh()
    assert (job.state, job.failed_reason) == (JobState.FAILED, "boom")
    assert job.attempt_history[0].error_type == "HostileError"


async def test_cancelling_a_cancellation_leaves_no_job_held(queue: Queue[Any], clock: ManualClock) -> None:
    for steps in range(12):
        job = await queue.add("a")
        cancelling = asyncio.ensure_future(queue.cancel(job.id))
        for _ in range(steps):
            await asyncio.sleep(0)
        cancelling.cancel()
        await asyncio.wait([cancelling])
        await clock.settle()

        assert (await job.refresh()).state in {JobState.WAITING, JobState.CANCELLED}


async def test_a_plain_handler_that_sees_the_shutdown_and_returns_has_not_done_its_job(
    store: Store, queue: Queue[Any], clock: ManualClock
) -> None:
    started = threading.Event()

    def handler(job: Job[Any]) -> str:
        started.set()
        while not job.cancelled:
            time.sleep(0.001)
        return "broken off"

    job = await queue.add("a", attempts=1)
    worker = Worker("q", handler, store, clock=clock)
    await worker.start()
    await asyncio.to_thread(started.wait)

    await worker.close(0)

    await job.refresh()
    assert (job.state, job.attempts_made, job.return_value) == (JobState.WAITING, 0, None)


class HoldsBack(WrappedStore):
    """A store whose answers to one call are kept back until `go_on`."""

    def __init__(self, store: Store, call: str) -> None:
        super().__init__(store)
        self.call = call
        self.on_its_way, self.go_on = asyncio.Event(), asyncio.Event()

    async def claim(self, request: Claim, **more: Any) -> Claimed:
        return await self._late("claim", await super().claim(request, **more), of=request.queue)

    async def advance(self, queues: Any, **more: Any) -> Advanced:
        return await self._late("advance", await super().advance(queues, **more), of=next(iter(queues)))

    async def _late(self, call: str, answer: T, *, of: str) -> T:
        if (call, of) == (self.call, "q"):
            self.on_its_way.set()
            await self.go_on.wait()
        return answer


async def test_a_job_added_while_a_claim_finds_none_is_claimed_at_once(
    store: Store, queue: Queue[Any], clock: ManualClock
) -> None:
    """The claim knows nothing of it, and must not have the news forgotten."""
    ran: list[str] = []

    async def handler(job: Job[Any]) -> None:
        ran.append(job.name)

    slow = HoldsBack(store, "claim")
    async with Worker("q", handler, slow, poll_interval=60, clock=clock):
        await slow.on_its_way.wait()
        await queue.add("a")
        await clock.settle()

        slow.go_on.set()
        await clock.settle()

        assert ran == ["a"]


async def test_a_job_delayed_while_time_is_advanced_starts_when_it_is_due(
    store: Store, queue: Queue[Any], clock: ManualClock
) -> None:
    async def handler(_: Job[Any]) -> None:
        raise AssertionError

    slow = HoldsBack(store, "advance")
    async with Worker("q", handler, slow, poll_interval=60, clock=clock) as worker:
        await slow.on_its_way.wait()
        await worker.pause()  # so that no claim tells of it
        await queue.add("a", delay=5)
        await clock.settle()

        slow.go_on.set()
        await clock.settle()
        await clock.advance(5)

        assert await queue.count("delayed") == 0


async def test_room_under_a_limit_that_comes_while_a_claim_finds_none_is_used_at_once(
    store: Store, queue: Queue[Any], clock: ManualClock
) -> None:
    """A slot is free as its handler returns, and the claim for it may look before the outcome is written."""
    done: list[int] = []
    looked, go_on = asyncio.Event(), asyncio.Event()

    class Slow(WrappedStore):
        async def settle(self, outcomes: Any, **more: Any) -> Settled:
            await looked.wait()
            return await super().settle(outcomes, **more)

        async def claim(self, request: Claim, **more: Any) -> Claimed:
            claimed = await super().claim(request, **more)
            if not claimed.jobs and request.queue == "q" and not go_on.is_set():
                looked.set()
                await go_on.wait()
            return claimed

    async def handler(job: Job[Any]) -> None:
        done.append(job.data)

    await queue.add_bulk([NewJob("a", n) for n in range(2)])
    async with Worker("q", handler, Slow(store), max_global_concurrency=1, poll_interval=60, clock=clock):
        await clock.settle()
        go_on.set()
        await clock.settle()

        assert done == [0, 1]
