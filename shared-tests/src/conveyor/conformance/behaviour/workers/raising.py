"""Worker behaviour: whatever a handler raises, and handlers that are cancelled by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import Bench
from conveyor.core import (
    Batch,
    Job,
    JobState,
    NewJob,
)


async def cancels_its_own_task(_: Job[Any]) -> None:
    """Cancel the task that it runs in."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def waits_for_a_cancelled_task(_: Job[Any]) -> None:
    """Wait for a task of its own that is cancelled."""
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


async def raises_a_cancellation(_: Job[Any]) -> None:
    """Raise it without being cancelled."""
    raise asyncio.CancelledError


def raises_a_cancellation_in_a_thread(_: Job[Any]) -> None:
    """Raise it as a plain function."""
    raise asyncio.CancelledError


def returns_what_cancels_its_own_task(job: Job[Any]) -> object:
    """Be a plain function that makes a coroutine."""
    return cancels_its_own_task(job)


CANCELLING: list[Callable[[Job[Any]], object]] = [
    cancels_its_own_task,
    waits_for_a_cancelled_task,
    raises_a_cancellation,
    raises_a_cancellation_in_a_thread,
    returns_what_cancels_its_own_task,
]


@area("queue behaviour")
class Raising:
    """It is recorded, and the slot comes back."""

    @pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), None])
    async def test_whatever_a_handler_raises_is_recorded_and_the_slot_comes_back(
        self, bench: Bench, error: BaseException | None
    ) -> None:
        """B5: a slot is never lost."""

        class Broken(Exception):  # noqa: N818 - it is more than an error
            def __str__(self) -> str:
                raise ValueError("no text")

        jobs = await bench.queue.add_bulk([NewJob("work", n) for n in range(3)])

        async def handler(job: Job[Any]) -> None:
            if job.data == 0:
                raise error or Broken("\x00\ud800")

        await bench.run(handler)

        assert [await bench.state(job) for job in jobs[1:]] == [JobState.COMPLETED] * 2
        assert (await jobs[0].refresh()).state in {JobState.FAILED, JobState.WAITING, JobState.COMPLETED}

    @pytest.mark.parametrize("handler", CANCELLING, ids=lambda handler: handler.__name__)
    async def test_a_handler_that_is_cancelled_by_itself_has_failed(
        self, bench: Bench, handler: Callable[[Job[Any]], object]
    ) -> None:
        job = await bench.queue.add("work", attempts=3)

        await bench.run(handler)

        await job.refresh()
        assert (job.state, job.attempts_made) == (JobState.FAILED, 3)
        assert [run.outcome for run in job.attempt_history] == ["failed"] * 3
        assert job.failed_reason

    async def test_a_batch_that_is_cancelled_by_its_handler_has_failed(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work", attempts=2) for _ in range(3)])

        async def handler(jobs: list[Job[Any]]) -> None:
            await cancels_its_own_task(jobs[0])

        await bench.run(handler, batch=Batch(3))

        assert [(await job.refresh()).attempts_made for job in jobs] == [2, 2, 2]
        assert {await bench.state(job) for job in jobs} == {JobState.FAILED}
