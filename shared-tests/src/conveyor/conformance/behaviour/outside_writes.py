"""Queue behaviour: what is written to a job from outside, while nobody runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Bench, Recorder, nothing, until_finished
from conveyor.conformance.kit.make import START
from conveyor.core import FlowJob, FlowProducer, InvalidJobStateError, Job, JobState
from conveyor.core.store import Claimed, Feature, Store
from conveyor.core.testing import WrappedStore

#: How many write at once.
WRITERS = 10


class Interleaved(WrappedStore):
    """A store whose calls let others go first, before they begin and when they are done."""

    async def _pass_on(self, method: str, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        found = await super()._pass_on(method, *args, **kwargs)
        await asyncio.sleep(0)
        return found


class Contended(Interleaved):
    """A store whose claims pass over what others write at that moment, as `skip locked` does."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._writing = 0

    async def _pass_on(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if method in {"claim", "take"} and self._writing:
            return Claimed(jobs=[], now=START)
        self._writing += method == "update"
        try:
            return await super()._pass_on(method, *args, **kwargs)
        finally:
            self._writing -= method == "update"


async def seen_by(handles: Sequence[Store], job: Job[Any]) -> list[Job[Any]]:
    """The job as so many writers have it, who take turns on the handles."""
    queues = [Bench(Interleaved(store)).queue for store in handles]
    found = [await queues[n % len(queues)].get_job(job.id) for n in range(WRITERS)]
    return [one for one in found if one is not None]


async def written_at_once(handles: Sequence[Store], job: Job[Any]) -> None:
    """Have all writers write, and look at what is there then."""
    before = (await job.refresh())._record  # noqa: SLF001 - all of it is to be compared
    writers = await seen_by(handles, job)

    await asyncio.gather(
        *(one.log(f"line {n}") for n, one in enumerate(writers)),
        writers[0].update_progress(40),
        writers[1].discard(),
    )

    await job.refresh()
    assert sorted(job.logs) == [f"line {n}" for n in range(WRITERS)]
    assert (job.progress, job.discarded) == (40, True)
    after = job._record  # noqa: SLF001 - likewise
    assert (after.state, after.run_at, after.pending) == (before.state, before.run_at, before.pending)
    assert (after.attempt, after.processed_at, after.stalled) == (0, None, 0)
    assert (after.token, after.locked_by, job.attempt_history) == (None, None, [])


@area("queue behaviour")
class OutsideWrites:
    """`Job.log`, `update_progress`, `clear_logs` and `discard`, by who does not run the job."""

    @pytest.mark.parametrize("delay", [0, 60])
    async def test_writers_at_once_lose_nothing(
        self, handles: Sequence[Store], bench: Bench, delay: float
    ) -> None:
        await written_at_once(handles, await bench.queue.add("work", delay=delay))

    @needs(Feature.FLOWS)
    async def test_writers_to_a_parent_at_once_lose_nothing(
        self, handles: Sequence[Store], bench: Bench
    ) -> None:
        flow = FlowJob("work", "q", children=[FlowJob("child", "elsewhere")])
        made = await FlowProducer(bench.store, clock=bench.clock).add(flow)

        await written_at_once(handles, made.job)

    async def test_a_job_is_promoted_beside_its_writers(self, handles: Sequence[Store], bench: Bench) -> None:
        job = await bench.queue.add("work", delay=60)
        writers = await seen_by(handles, job)

        *_, promoted = await asyncio.gather(
            *(one.log("line") for one in writers), Bench(Interleaved(handles[0])).queue.promote_jobs()
        )

        await job.refresh()
        assert promoted == 1
        assert (job.state, len(job.logs)) == (JobState.WAITING, WRITERS)

    async def test_a_line_beside_a_claim_is_kept_or_refused(self, store: Store) -> None:
        bench = Bench(Contended(store))
        recorder = Recorder()
        kept: dict[str, list[str]] = {}

        async def write(job: Job[Any], line: str) -> None:
            try:
                await job.log(line)
            except InvalidJobStateError as error:
                assert error.state in {JobState.ACTIVE, JobState.COMPLETED}  # noqa: PT017
            else:
                kept[job.id].append(line)

        jobs: list[Job[Any]] = []
        # The clock stands still, so that nothing is found by polling.
        async with bench.worker(recorder, concurrency=4):
            for _ in range(20):
                job = await bench.queue.add("work")
                jobs.append(job)
                kept[job.id] = []
                await asyncio.gather(*(write(job, f"line {n}") for n in range(3)))
                await until_finished(job)  # or else the next job's events would help this one

        assert sorted(recorder.ids) == sorted(job.id for job in jobs)
        assert {job.id: sorted(job.logs) for job in jobs} == {id: sorted(lines) for id, lines in kept.items()}

    async def test_the_logs_of_a_finished_job_can_be_cleared(self, bench: Bench) -> None:
        async def handler(job: Job[Any]) -> str:
            await job.log("line")
            await job.update_progress(40)
            return "done"

        job = await bench.queue.add("work")
        await bench.run(handler)
        await job.refresh()
        finished = job.completed_at

        await job.clear_logs()

        for seen in (job, await bench.queue.get_job(job.id)):
            assert seen is not None
            assert (seen.state, seen.logs, seen.progress) == (JobState.COMPLETED, [], 40)
            assert (seen.return_value, seen.completed_at) == ("done", finished)
        await job.retry()
        assert ((await job.refresh()).progress, job.return_value) == (0, None)
        await bench.run(nothing)
        assert await bench.state(job) is JobState.COMPLETED
