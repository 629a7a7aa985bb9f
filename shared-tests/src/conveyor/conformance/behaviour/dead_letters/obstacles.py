"""Dead letters: what may come between a job and its way back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from conveyor.conformance.behaviour.dead_letters.jobs import dead_letters
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Bench, fail
from conveyor.conformance.kit.make import everything
from conveyor.core import (
    Deduplication,
    Feature,
    JobState,
    Queue,
    Store,
    StoreUnavailableError,
    Worker,
)
from conveyor.core.testing import WrappedStore


class _Dying(WrappedStore):
    """A store whose caller dies at its n-th call: before it is made, or before the answer comes."""

    def __init__(self, store: Store, at_call: int, *, after: bool) -> None:
        super().__init__(store)
        self._left = at_call
        self._after = after

    async def _pass_on(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left < 0 or (self._left == 0 and not self._after):
            raise StoreUnavailableError("gone")
        found = await super()._pass_on(method, *args, **kwargs)
        if self._left == 0:
            raise StoreUnavailableError("gone")
        return found


@area("dead letters")
class Obstacles:
    """Ids and keys that are taken, others who redrive, and calls that are cut short."""

    async def test_a_dead_letter_stays_where_another_job_has_its_id(self, bench: Bench) -> None:
        await bench.queue.add("work", 1, job_id="order-42", dead_letter="dead", remove_on_fail=True)
        await bench.run(fail)
        await bench.later("1s")
        other = await bench.queue.add("work", 2, job_id="order-42")

        assert await bench.another_queue("dead").redrive() == 0

        [dead_letter] = await dead_letters(bench)
        assert (dead_letter.state, dead_letter.data) == (JobState.WAITING, 1)
        await other.remove()
        assert await bench.another_queue("dead").redrive() == 1

    @needs(Feature.UNIQUE_KEYS)
    @pytest.mark.parametrize("removed", [False, True], ids=["still there", "removed"])
    async def test_a_dead_letter_stays_where_another_job_has_its_key(
        self, bench: Bench, *, removed: bool
    ) -> None:
        once = Deduplication("report")
        await bench.queue.add("work", 1, deduplication=once, dead_letter="dead", remove_on_fail=removed)
        await bench.run(fail)
        other = await bench.queue.add("work", 2, deduplication=once)

        assert await bench.another_queue("dead").redrive() == 0

        [dead_letter] = await dead_letters(bench)
        assert dead_letter.state is JobState.WAITING
        await other.cancel()
        assert await bench.another_queue("dead").redrive() == 1
        assert [job.data for job in await bench.queue.get_jobs("waiting")] == [1]

    @needs(Feature.UNIQUE_KEYS)
    @pytest.mark.parametrize("taken", ["id", "key"])
    async def test_a_dead_letter_whose_place_is_taken_in_the_last_moment_waits_again(
        self, bench: Bench, taken: str
    ) -> None:
        once = Deduplication("report")

        class Late(WrappedStore):
            async def settle(self, *args: Any, **options: Any) -> Any:
                if taken == "id":
                    await bench.queue.add("work", 2, job_id="order-42")
                else:
                    await bench.queue.add("work", 2, deduplication=once)
                return await super().settle(*args, **options)

        await bench.queue.add(
            "work", 1, job_id="order-42", deduplication=once, dead_letter="dead", remove_on_fail=True
        )
        await bench.run(fail)

        assert await Queue[Any]("dead", Late(bench.store), clock=bench.clock).redrive() == 0

        [dead_letter] = await dead_letters(bench)
        assert (dead_letter.state, dead_letter.data) == (JobState.WAITING, 1)
        assert dead_letter.dead_letter_of is not None
        assert [job.data for job in await bench.queue.get_jobs()] == [2]

    async def test_the_dead_letter_of_a_job_that_was_retried_by_hand_goes_and_is_not_counted(
        self, bench: Bench
    ) -> None:
        job = await bench.queue.add("work", dead_letter="dead")
        await bench.run(fail)
        await job.retry()
        await bench.run()

        assert await bench.another_queue("dead").redrive() == 0

        assert await dead_letters(bench) == []
        assert await bench.state(job) is JobState.COMPLETED

    async def test_two_dead_letters_of_one_job_send_it_back_once(self, bench: Bench) -> None:
        job = await bench.queue.add("work", dead_letter="dead")
        await bench.run(fail)
        await job.retry()
        await bench.run(fail)
        assert len(await dead_letters(bench)) == 2

        assert await bench.another_queue("dead").redrive() == 1

        assert await dead_letters(bench) == []
        assert await bench.state(job) is JobState.WAITING

    async def test_many_who_redrive_at_once_send_each_job_back_once(
        self, handles: tuple[Store, Store]
    ) -> None:
        queue: Queue[Any] = Queue("q", handles[0], dead_letter="dead")
        jobs = [await queue.add("work", n, remove_on_fail=n % 2 == 0) for n in range(40)]
        worker: Worker[Any] = Worker("q", fail, handles[0])
        await worker.run_until_idle()

        sent = await asyncio.gather(*(Queue[Any]("dead", store).redrive() for store in [*handles] * 3))

        assert sum(sent) == 40
        found = await everything(handles[0])
        assert {job.id for job in found} == {job.id for job in jobs}
        assert {job.state for job in found} == {JobState.WAITING}
        assert await everything(handles[1], "dead") == []

    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("removed", [False, True], ids=["still there", "removed"])
    async def test_whoever_dies_at_any_call_loses_and_doubles_nothing(
        self, bench: Bench, *, removed: bool, after: bool
    ) -> None:
        job = await bench.queue.add("work", 1, job_id="order-42", dead_letter="dead", remove_on_fail=removed)
        dead = bench.another_queue("dead")
        at_call, done = 0, False
        while not done:
            at_call += 1
            await bench.run(fail)
            dying: Queue[Any] = Queue("dead", _Dying(bench.store, at_call, after=after), clock=bench.clock)
            try:
                await dying.redrive()
                done = True
            except StoreUnavailableError:
                await bench.later("31s")
                await dead.redrive()

            live = await bench.queue.get_jobs("waiting")
            assert [(one.id, one.data) for one in live] == [("order-42", 1)]
            assert [
                one.state for one in await dead_letters(bench) if one.state is not JobState.COMPLETED
            ] == []
            await dead.clean("completed")
        assert at_call > 4
        assert job.id == "order-42"

    async def test_a_call_that_is_cancelled_leaves_no_dead_letter_held(self, bench: Bench) -> None:
        reached = asyncio.Event()

        class Slow(WrappedStore):
            async def settle(self, *args: Any, **options: Any) -> Any:
                reached.set()
                await asyncio.sleep(0.01)
                return await super().settle(*args, **options)

        await bench.queue.add("work", dead_letter="dead", remove_on_fail=True)
        await bench.run(fail)
        calling: asyncio.Future[int] = asyncio.ensure_future(
            Queue[Any]("dead", Slow(bench.store), clock=bench.clock).redrive()
        )
        await reached.wait()
        calling.cancel()
        assert await _ends_cancelled(calling)
        for _ in range(50):
            await asyncio.sleep(0.01)
            if await bench.queue.count("waiting") and not await dead_letters(bench):
                break

        assert await bench.queue.count("waiting") == 1
        assert await dead_letters(bench) == []


async def _ends_cancelled(task: Awaitable[object]) -> bool:
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False
