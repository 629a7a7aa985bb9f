"""Queue behaviour: what a run that has ended left behind, a task or a thread, writes nothing any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import SOON, Bench, Gate, nothing
from conveyor.core import FlowJob, Job, JobState, LeaseLostError, Retry
from conveyor.core.store import Feature, JobRecord, Where
from conveyor.core.testing import WrappedStore

#: Every method of a job that writes for its run.
WRITES: dict[str, Callable[[Job[Any]], Awaitable[None]]] = {
    "update_progress": lambda job: job.update_progress(50),
    "log": lambda job: job.log("too late"),
    "clear_logs": lambda job: job.clear_logs(),
    "update_data": lambda job: job.update_data("too late"),
    "discard": lambda job: job.discard(),
    "add_children": lambda job: job.add_children([]),
    "move_to_delayed": lambda job: job.move_to_delayed("1h"),
    "move_to_failed": lambda job: job.move_to_failed("too late"),
}


async def run_once(bench: Bench) -> Job[Any]:
    """The job as its first run was given it; it is to run again in a minute."""
    left: list[Job[Any]] = []

    async def handler(job: Job[Any]) -> None:
        left.append(job)
        await job.log("in time")
        raise Retry("1 minute")

    await bench.queue.add("work", "given", attempts=3)
    await bench.run(handler)
    return left[0]


@area("queue behaviour")
class EndedRuns:
    """What the end of a run means for the job that its handler was given."""

    @pytest.mark.parametrize("write", WRITES)
    @pytest.mark.parametrize("then", ["waits", "runs again", "is finished"])
    async def test_what_an_ended_run_left_behind_cannot_write(
        self, bench: Bench, then: str, write: str
    ) -> None:
        left = await run_once(bench)
        gate = Gate()
        running = None
        if then != "waits":
            await bench.later("1 minute")
            running = asyncio.create_task(bench.run(gate))
            await gate.until_begun()
            if then == "is finished":
                gate.opened.set()
                await running

        with pytest.raises(LeaseLostError, match=left.id):
            await WRITES[write](left)

        if running is not None:
            gate.opened.set()
            await running
        found = await bench.queue.get_job(left.id)
        assert found is not None
        assert found.state is (JobState.DELAYED if then == "waits" else JobState.COMPLETED)
        assert (found.data, found.progress, found.logs, found.discarded) == ("given", 0, ["in time"], False)
        assert [run.outcome for run in found.attempt_history] == ["failed", "completed"][: 1 + gate.runs]

    async def test_a_thread_that_was_left_behind_cannot_write(self, bench: Bench) -> None:
        go_on = threading.Event()
        raised: dict[str, BaseException | None] = dict.fromkeys(WRITES)

        def write_on(job: Job[Any]) -> None:
            go_on.wait(SOON)
            for name, write in WRITES.items():
                try:
                    write(job)
                except BaseException as error:  # noqa: BLE001 - whatever it is, the test looks at it
                    raised[name] = error

        thread: list[threading.Thread] = []

        def handler(job: Job[Any]) -> None:
            thread.append(threading.Thread(target=write_on, args=[job]))
            thread[0].start()

        job = await bench.queue.add("work", "given")
        await bench.run(handler)
        go_on.set()
        await asyncio.to_thread(thread[0].join, SOON)

        assert {name: type(error) for name, error in raised.items()} == dict.fromkeys(WRITES, LeaseLostError)
        await job.refresh()
        assert (job.state, job.data, job.progress, job.logs) == (JobState.COMPLETED, "given", 0, [])

    async def test_what_an_ended_run_left_behind_can_read_and_act_like_anybody(self, bench: Bench) -> None:
        left = await run_once(bench)

        assert (await left.refresh()).state is JobState.DELAYED
        assert not await left.is_completed()
        await left.promote()
        await left.change_priority(3)
        await bench.run(nothing)
        assert await left.wait_until_finished(SOON) is None
        assert not left.cancelled
        await left.retry()
        assert await left.cancel()
        assert (await left.refresh()).cancelled
        await left.remove()

        assert await bench.queue.get_job(left.id) is None

    async def test_a_job_that_was_read_is_written_to_beside_what_an_ended_run_left(
        self, bench: Bench
    ) -> None:
        left = await run_once(bench)
        read = await bench.queue.get_job(left.id)
        assert read is not None

        await read.log("from outside")
        await read.update_data("new")

        assert (await left.refresh()).data == "new"
        assert left.logs == ["in time", "from outside"]

    @needs(Feature.FLOWS)
    async def test_children_that_come_after_the_end_of_the_run_are_refused(self, bench: Bench) -> None:
        """The run ends while its job's children are looked for."""

        class Slow(WrappedStore):
            asked, answer = asyncio.Event(), asyncio.Event()

            async def find(self, where: Where, **kwargs: Any) -> list[JobRecord]:
                if where.ids == frozenset({"kid"}):
                    self.asked.set()
                    await self.answer.wait()
                return list(await super().find(where, **kwargs))

        slow = Slow(bench.store)
        bench.store = slow  # type: ignore[assignment]
        adding: list[asyncio.Task[None]] = []

        async def add(job: Job[Any]) -> None:
            await job.add_children([FlowJob("kid", "q", job_id="kid")])

        async def handler(job: Job[Any]) -> str:
            adding.append(asyncio.create_task(add(job)))
            await slow.asked.wait()
            return "kept"

        job = await bench.queue.add("work")
        await bench.run(handler)
        slow.answer.set()

        with pytest.raises(LeaseLostError):
            await adding[0]
        await job.refresh()
        assert (job.state, job.return_value, job.children_ids) == (JobState.COMPLETED, "kept", ())
        assert await bench.queue.get_job("kid") is None
