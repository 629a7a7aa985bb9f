"""Dead letters: what fails for good is added elsewhere, in the same step."""

from __future__ import annotations

import asyncio
from typing import Any

from conveyor.conformance.behaviour.dead_letters.jobs import dead_letters, give_up, lost, unstorable
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import Bench, Gate, Watcher, fail, nothing
from conveyor.conformance.kit.make import at
from conveyor.core import (
    DeadLetter,
    Job,
    JobState,
    Queue,
    Store,
    Unrecoverable,
    Worker,
)
from conveyor.core.events import JobWaiting
from conveyor.core.testing import WrappedStore


@area("dead letters")
class Dying:
    """What becomes a dead letter, and what it says."""

    async def test_a_job_that_fails_for_good_is_added_to_its_dead_letter_queue(self, bench: Bench) -> None:
        job = await bench.queue.add(
            "charge", {"n": 1}, attempts=2, backoff="5s", priority=3, dead_letter="dead", timeout="1m"
        )

        async def handler(job: Job[Any]) -> None:
            await job.log(f"run {job.attempts_made + 1}")
            await job.update_progress(40)
            await fail(job)

        await bench.run(handler)
        assert await dead_letters(bench) == []
        await bench.later("5s")
        await bench.run(handler)

        [dead_letter] = await dead_letters(bench)
        assert (dead_letter.name, dead_letter.data, dead_letter.state) == (
            "charge",
            {"n": 1},
            JobState.WAITING,
        )
        assert (dead_letter.attempts_made, dead_letter.logs, dead_letter.parent_id) == (0, [], None)
        origin = dead_letter.dead_letter_of
        assert isinstance(origin, DeadLetter)
        assert (origin.queue_name, origin.job_id, origin.priority) == ("q", job.id, 3)
        assert (origin.created_at, origin.failed_at) == (at(0), at(5))
        assert (origin.failed_reason, origin.error_type) == ("run 2 went wrong", "RuntimeError")
        assert (origin.attempts_made, origin.stalled_count, origin.progress) == (2, 0, 40)
        assert origin.logs == ("run 1", "run 2")
        assert [run.message for run in origin.attempt_history] == ["run 1 went wrong", "run 2 went wrong"]
        assert origin.options == job.options
        await job.refresh()
        assert (job.state, job.dead_letter_of) == (JobState.FAILED, None)

    async def test_a_dead_letter_has_the_data_that_the_job_had_in_the_end(self, bench: Bench) -> None:
        async def handler(job: Job[Any]) -> None:
            await job.update_data(job.data | {"step": 2})
            await fail(job)

        await bench.queue.add("charge", {"n": 1}, dead_letter="dead", remove_on_fail=True)
        await bench.run(handler)

        [dead_letter] = await dead_letters(bench)
        assert dead_letter.data == {"n": 1, "step": 2}
        assert await bench.another_queue("dead").redrive() == 1
        assert [job.data for job in await bench.queue.get_jobs()] == [{"n": 1, "step": 2}]

    async def test_every_way_of_failing_for_good_makes_a_dead_letter(self, bench: Bench) -> None:
        queue = bench.another_queue("q", dead_letter="dead", default_job_options={"attempts": 5})
        await queue.add("given up")
        await bench.run(give_up)
        await queue.add("unstorable")
        await bench.run(unstorable)
        await queue.add("untyped", "text")
        await bench.run(nothing, payload=dict)
        discarded = await queue.add("discarded")
        await discarded.discard()
        await bench.run(fail)
        stalled = await queue.add("stalled")
        await lost(bench, stalled)
        await bench.run(nothing, max_stalled=0)
        await queue.add("late", timeout="1s", attempts=1)
        gate = Gate()
        running = asyncio.create_task(bench.run(gate))
        await gate.until_begun()
        await bench.later("1s")
        await running

        found = {dead_letter.name: dead_letter.dead_letter_of for dead_letter in await dead_letters(bench)}

        assert {name: origin and origin.error_type for name, origin in found.items()} == {
            "given up": "Unrecoverable",
            "unstorable": "UnserialisableResultError",
            "untyped": "undecodable",
            "discarded": "RuntimeError",
            "stalled": "stalled",
            "late": "JobTimeoutError",
        }
        of_stalled = found["stalled"]
        assert of_stalled is not None
        assert [run.outcome for run in of_stalled.attempt_history] == ["stalled"]

    async def test_what_does_not_fail_for_good_makes_none(self, bench: Bench) -> None:
        queue = bench.another_queue("q", dead_letter="dead")
        await queue.add("done")
        await bench.run()
        await queue.add("retried", attempts=2, backoff="1h")
        await bench.run(fail)
        cancelled = await queue.add("cancelled", delay="1h")
        await cancelled.cancel()
        await queue.add("without", dead_letter=None)
        await bench.run(fail)

        assert await dead_letters(bench) == []

    async def test_a_dead_letter_comes_though_the_job_is_removed_in_the_same_step(self, bench: Bench) -> None:
        job = await bench.queue.add("work", 1, dead_letter="dead", remove_on_fail=True)

        await bench.run(fail)

        [dead_letter] = await dead_letters(bench)
        assert await bench.queue.get_job(job.id) is None
        assert (dead_letter.data, dead_letter.dead_letter_of and dead_letter.dead_letter_of.job_id) == (
            1,
            job.id,
        )

    async def test_an_outcome_that_is_written_twice_makes_one_dead_letter(self, bench: Bench) -> None:
        class Twice(WrappedStore):
            async def settle(self, outcomes: Any, **options: Any) -> Any:
                await super().settle(outcomes, **options)
                return await super().settle(outcomes, **options)

        await bench.queue.add("work", dead_letter="dead")
        worker: Worker[Any] = Worker("q", fail, Twice(bench.store), clock=bench.clock)

        await worker.run_until_idle()

        assert len(await dead_letters(bench)) == 1

    async def test_a_worker_that_lost_its_lease_makes_no_dead_letter(self, bench: Bench) -> None:
        gate = Gate()

        async def handler(job: Job[Any]) -> None:
            if gate.runs:
                return  # the run that took its place
            await gate(job)
            raise Unrecoverable("too late")

        job = await bench.queue.add("work", dead_letter="dead")
        late = asyncio.create_task(bench.run(handler))
        await gate.until_begun()
        await bench.later("1m")
        await bench.store.advance({"q"})
        gate.opened.set()
        await late

        assert await dead_letters(bench) == []
        assert await bench.state(job) is JobState.COMPLETED

    async def test_each_life_of_a_job_that_fails_leaves_a_dead_letter(self, bench: Bench) -> None:
        job = await bench.queue.add("work", dead_letter="dead")
        await bench.run(fail)
        await job.retry()
        await bench.run(fail)

        assert [one.dead_letter_of and one.dead_letter_of.job_id for one in await dead_letters(bench)] == [
            job.id,
            job.id,
        ]

    async def test_dead_letters_can_be_worked_like_other_jobs_and_keep_what_they_say(
        self, bench: Bench
    ) -> None:
        await bench.queue.add("work", {"n": 1}, dead_letter="dead")
        await bench.run(fail)
        seen: list[Any] = []

        async def inspect(dead_letter: Job[Any]) -> str:
            await dead_letter.log("looked at")
            assert dead_letter.dead_letter_of is not None
            seen.append((dead_letter.data, dead_letter.dead_letter_of.failed_reason))
            return "told"

        worker: Worker[Any] = Worker("dead", inspect, bench.store, clock=bench.clock)
        await worker.run_until_idle()

        [dead_letter] = await dead_letters(bench)
        assert seen == [({"n": 1}, "run 1 went wrong")]
        assert (dead_letter.state, dead_letter.return_value, dead_letter.logs) == (
            JobState.COMPLETED,
            "told",
            ["looked at"],
        )
        assert dead_letter.dead_letter_of is not None

    async def test_workers_of_the_dead_letter_queue_receive_an_event(
        self, handles: tuple[Store, Store]
    ) -> None:
        mine, other = handles
        job = await Queue[Any]("q", mine).add("work", dead_letter="dead")

        async with Watcher(Queue("dead", other), mine) as watching, Worker("q", give_up, mine):
            event = (await watching.until(JobWaiting))[-1]

        assert event.queue_name == "dead"
        assert (await job.refresh()).state is JobState.FAILED
