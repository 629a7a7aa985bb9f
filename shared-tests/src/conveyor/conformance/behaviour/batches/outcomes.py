"""Batches: each job of one has an end of its own."""

from __future__ import annotations

import pytest

from conveyor.conformance.behaviour.batches.jobs import Jobs, five, states_of
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Bench, nothing
from conveyor.conformance.kit.make import at, child, job
from conveyor.core import (
    Batch,
    Feature,
    FlowJob,
    Job,
    JobState,
    Keep,
    NewJob,
    Pause,
    RateLimited,
    Retry,
    Snooze,
    Unrecoverable,
    Worker,
)


@area("batches")
class Outcomes:
    """What becomes of each job."""

    async def test_an_exception_in_the_place_of_a_result_fails_that_job_alone(self, bench: Bench) -> None:
        jobs = await five(bench.queue)

        async def handler(jobs: Jobs) -> list[object]:
            return [ValueError("odd") if job.data % 2 else "even" for job in jobs]

        await bench.run(handler, batch=Batch(10))

        assert await states_of(jobs) == [JobState.FAILED if n % 2 else JobState.COMPLETED for n in range(5)]
        assert [job.failed_reason for job in jobs] == [None, "odd", None, "odd", None]
        assert jobs[1].attempt_history[-1].error_type == "ValueError"

    async def test_what_a_handler_raises_fails_every_job(self, bench: Bench) -> None:
        jobs = await five(bench.queue)

        async def handler(_: Jobs) -> None:
            raise RuntimeError("all of it")

        await bench.run(handler, batch=Batch(10))

        assert await states_of(jobs) == [JobState.FAILED] * 5
        assert {job.failed_reason for job in jobs} == {"all of it"}

    @pytest.mark.parametrize(
        ("result", "described"),
        [([1, 2], "2 results"), ([], "0 results"), ("abcde", "str"), ({"a": 1}, "dict"), (5, "int")],
        ids=["too few", "none", "text", "mapping", "number"],
    )
    async def test_the_wrong_number_of_results_fails_every_job(
        self, bench: Bench, result: object, described: str
    ) -> None:
        jobs = await five(bench.queue, attempts=2, backoff="1h")

        async def handler(_: Jobs) -> object:
            return result

        await bench.run(handler, batch=Batch(10))

        assert await states_of(jobs) == [JobState.DELAYED] * 5
        assert {job.attempts_made for job in jobs} == {1}
        assert {job.attempt_history[-1].error_type for job in jobs} == {"BatchResultError"}
        assert all(f"for 5 jobs it returned {described}" in str(job.failed_reason) for job in jobs)

    async def test_a_handler_that_returns_nothing_has_done_every_job(self, bench: Bench) -> None:
        jobs = await five(bench.queue)

        async def handler(_: Jobs) -> None:
            pass

        await bench.run(handler, batch=Batch(10))

        assert await states_of(jobs) == [JobState.COMPLETED] * 5
        assert {job.return_value for job in jobs} == {None}

    async def test_each_job_has_its_own_attempts_and_backoff(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk(
            [
                NewJob("work", 0, attempts=1),
                NewJob("work", 1, attempts=2, backoff="5s"),
                NewJob("work", 2, attempts=3, backoff="7s"),
            ]
        )

        async def handler(jobs: Jobs) -> list[object]:
            return [RuntimeError("no") for _ in jobs]

        await bench.run(handler, batch=Batch(10))

        assert await states_of(jobs) == [JobState.FAILED, JobState.DELAYED, JobState.DELAYED]
        assert [job.delay_until for job in jobs[1:]] == [at(5), at(7)]

    async def test_what_is_no_json_fails_its_own_job_only(self, bench: Bench) -> None:
        jobs = await five(bench.queue, attempts=3)

        async def handler(jobs: Jobs) -> list[object]:
            return [object() if job.data == 2 else "ok" for job in jobs]

        await bench.run(handler, batch=Batch(10))

        assert [state for state in await states_of(jobs) if state is JobState.COMPLETED] == [
            JobState.COMPLETED
        ] * 4
        assert jobs[2].attempt_history[-1].error_type == "UnserialisableResultError"

    async def test_signals_in_the_place_of_results_decide_for_their_jobs(self, bench: Bench) -> None:
        jobs = await five(bench.queue, attempts=3, backoff="1h")

        async def handler(_: Jobs) -> list[object]:
            return [Snooze("10s"), Retry("20s"), Unrecoverable("never"), "done", RuntimeError("no")]

        await bench.run(handler, batch=Batch(10))

        assert await states_of(jobs) == [
            JobState.DELAYED,
            JobState.DELAYED,
            JobState.FAILED,
            JobState.COMPLETED,
            JobState.DELAYED,
        ]
        assert [job.delay_until for job in jobs] == [at(10), at(20), None, None, at(3_600)]
        assert [job.attempts_made for job in jobs] == [0, 1, 1, 0, 1]

    async def test_a_signal_that_is_raised_decides_for_all(self, bench: Bench) -> None:
        jobs = await five(bench.queue)

        async def handler(_: Jobs) -> None:
            raise Snooze("10s")

        await bench.run(handler, batch=Batch(10))

        assert {job.delay_until for job in jobs if await job.refresh()} == {at(10)}
        assert {job.attempts_made for job in jobs} == {0}

    @needs(Feature.GROUPS)
    async def test_a_rate_that_is_hit_pauses_the_groups_of_the_jobs_that_say_so(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work", n, group="gh"[n % 2]) for n in range(4)])

        async def handler(jobs: Jobs) -> list[object]:
            return [RateLimited("1 minute") if job.group_id == "g" else "done" for job in jobs]

        await bench.run(handler, batch=Batch(4))

        assert await bench.queue.get_paused() == {Pause(group="g"): at(60)}
        assert await states_of(jobs) == [JobState.WAITING, JobState.COMPLETED] * 2
        assert {job.attempts_made for job in jobs} == {0}

    async def test_what_a_handler_decided_of_one_job_holds(self, bench: Bench) -> None:
        jobs = await five(bench.queue)

        async def handler(jobs: Jobs) -> None:
            await jobs[1].move_to_delayed("1h")
            await jobs[2].move_to_failed("on purpose")

        await bench.run(handler, batch=Batch(10))

        assert await states_of(jobs) == [
            JobState.COMPLETED,
            JobState.DELAYED,
            JobState.FAILED,
            JobState.COMPLETED,
            JobState.COMPLETED,
        ]

    async def test_each_job_is_kept_as_long_as_it_says(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk(
            [
                NewJob("work", 0, remove_on_complete=True),
                NewJob("work", 1),
                NewJob("work", 2, remove_on_fail=True),
                NewJob("work", 3, remove_on_fail=Keep(age="1h")),
            ]
        )

        async def handler(jobs: Jobs) -> list[object]:
            return [RuntimeError("no") if job.data > 1 else "ok" for job in jobs]

        await bench.run(handler, batch=Batch(10))

        assert [await bench.queue.get_job(job.id) is not None for job in jobs] == [False, True, False, True]

    async def test_each_job_has_its_own_progress_logs_and_data(self, bench: Bench) -> None:
        jobs = await five(bench.queue)

        async def handler(jobs: Jobs) -> None:
            for one in jobs:
                await one.log(f"line of {one.data}")
                await one.update_progress(one.data)
            await jobs[0].update_data("new")

        await bench.run(handler, batch=Batch(10))

        found = [await job.refresh() for job in jobs]
        assert [one.logs for one in found] == [[f"line of {n}"] for n in range(5)]
        assert [one.progress for one in found] == [0, 1, 2, 3, 4]
        assert [one.data for one in found] == ["new", 1, 2, 3, 4]

    @needs(Feature.FLOWS)
    async def test_each_job_releases_its_own_parent(self, bench: Bench) -> None:
        await bench.store.insert(
            [
                *(child(f"{of}-{n}", of=of, name="kid") for of in ("one", "two") for n in range(2)),
                job("one", name="parent"),
                job("two", name="parent"),
            ]
        )

        async def handler(jobs: Jobs) -> list[object]:
            return [Snooze("1h") if one.id == "two-1" else one.id for one in jobs]

        await bench.run({"kid": handler}, batch=Batch(10, by="name"))

        parents = [await bench.queue.get_job(of) for of in ("one", "two")]
        assert [parent and parent.state for parent in parents] == [
            JobState.WAITING,
            JobState.WAITING_CHILDREN,
        ]

    @needs(Feature.FLOWS)
    async def test_each_job_waits_for_the_children_it_added_itself(self, bench: Bench) -> None:
        jobs = await five(bench.queue)

        async def handler(batch: Jobs) -> list[object]:
            results: list[object] = []
            for one in batch:
                if one.data in (1, 2):
                    await one.add_children([FlowJob("kid", "kids", job_id=f"kid-{one.data}")])
                results.append(ValueError("odd") if one.data == 1 else list(one.children_ids))
            return results

        await bench.run(handler, batch=Batch(10))
        states = await states_of(jobs)
        assert states == ["completed", "failed", "waiting-children", "completed", "completed"]
        await Worker("kids", nothing, bench.store, clock=bench.clock).run_until_idle()
        await bench.run(handler, batch=Batch(10))

        assert (await jobs[2].refresh()).return_value == ["kid-2"]
        assert await bench.another_queue("kids").count() == 1

    async def test_each_job_that_fails_for_good_leaves_a_dead_letter_of_its_own(self, bench: Bench) -> None:
        for n in range(4):
            await bench.queue.add("work", n, dead_letter="dead" if n else None, attempts=1 + (n == 2))

        async def handler(jobs: Jobs) -> list[object]:
            return [RuntimeError(f"no {one.data}") if one.data != 3 else None for one in jobs]

        await bench.run(handler, batch=Batch(10), max_stalled=0)

        found = [letter.dead_letter_of for letter in await bench.another_queue("dead").get_jobs()]
        assert [one and (one.failed_reason, one.attempts_made) for one in found] == [("no 1", 1), ("no 2", 2)]

    async def test_a_typed_batch_gets_typed_data(self, bench: Bench) -> None:
        seen: list[int] = []

        async def handler(jobs: list[Job[list[int]]]) -> None:
            for one in jobs:
                seen.extend(one.data)

        await bench.queue.add_bulk([NewJob("work", ["1", n]) for n in range(2)])
        await bench.run(handler, batch=Batch(10), payload=list[int])

        assert seen == [1, 0, 1, 1]
