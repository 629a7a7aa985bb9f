"""Batches: a handler that takes many jobs, each of which keeps a life of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import SOON, Bench, nothing, until_finished
from conveyor.conformance.kit.make import at, child, claim, job, span
from conveyor.core import (
    Batch,
    Feature,
    FlowJob,
    Group,
    GroupLimit,
    Job,
    JobState,
    Keep,
    LeaseLostError,
    NewJob,
    Pause,
    Queue,
    RateLimit,
    RateLimited,
    Retry,
    Snooze,
    Store,
    Unrecoverable,
    Worker,
)
from conveyor.core.store import Where

Jobs = list[Job[Any]]


class Keeper:
    """A batch's handler that keeps the data of what it was given, call by call."""

    def __init__(self, result: Callable[[Job[Any]], object] = lambda job: job.data) -> None:
        """Return this of each job."""
        self.calls: list[list[Any]] = []
        self._result = result

    async def __call__(self, jobs: Jobs) -> list[object]:
        """Keep their data."""
        self.calls.append([job.data for job in jobs])
        return [self._result(job) for job in jobs]


class Door:
    """A batch's handler that waits, and tells how it ended."""

    def __init__(self) -> None:
        """Begin closed."""
        self.begun = asyncio.Event()
        self.opened = asyncio.Event()
        self.cancelled = False
        self.jobs: Jobs = []

    async def __call__(self, jobs: Jobs) -> list[str]:
        """Wait until it is opened."""
        self.jobs = jobs
        self.begun.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return ["cancelled" if job.cancelled else "done" for job in jobs]

    async def until_begun(self) -> None:
        """Return when it has been called."""
        async with asyncio.timeout(SOON):
            await self.begun.wait()


async def five(queue: Queue[Any], **options: Any) -> Jobs:
    """Add five jobs."""
    return await queue.add_bulk([NewJob("work", n, **options) for n in range(5)])


async def states_of(jobs: Jobs) -> list[JobState]:
    """Where they are now."""
    return [(await job.refresh()).state for job in jobs]


@area("batches")
class Gathering:
    """Which jobs run together."""

    async def test_a_handler_gets_the_jobs_in_order_and_returns_their_results(self, bench: Bench) -> None:
        jobs = await five(bench.queue)
        keeper = Keeper(lambda job: job.data * 10)

        await bench.run(keeper, batch=Batch(10))

        assert keeper.calls == [[0, 1, 2, 3, 4]]
        assert [(await job.refresh()).return_value for job in jobs] == [0, 10, 20, 30, 40]

    async def test_a_batch_is_never_larger_than_its_size(self, bench: Bench) -> None:
        await five(bench.queue)
        keeper = Keeper()

        await bench.run(keeper, batch=Batch(2))

        assert keeper.calls == [[0, 1], [2, 3], [4]]

    async def test_a_batch_of_one_job_is_a_list_too(self, bench: Bench) -> None:
        await bench.queue.add("work", "alone")
        keeper = Keeper()

        await bench.run(keeper, batch=Batch(1))

        assert keeper.calls == [["alone"]]

    async def test_a_batch_has_one_slot(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work", n) for n in range(40)])
        running = most = 0

        async def handler(jobs: Jobs) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            assert len(jobs) <= 5
            await asyncio.sleep(0.001)
            running -= 1

        await bench.run(handler, batch=Batch(5), concurrency=3)

        assert most == 3
        assert set(await states_of(jobs)) == {JobState.COMPLETED}

    async def test_by_name_jobs_of_one_name_fill_a_batch(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("xyz"[n % 3], f"{'xyz'[n % 3]}{n}") for n in range(12)])
        keeper = Keeper()

        await bench.run(keeper, batch=Batch(3, by="name"))

        assert sorted(len(call) for call in keeper.calls) == [1, 1, 1, 3, 3, 3]
        assert all(len({data[0] for data in call}) == 1 for call in keeper.calls)
        assert keeper.calls[0] == ["x0", "x3", "x6"]

    async def test_handlers_by_name_get_batches_of_their_names(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("xyz"[n % 3], n) for n in range(9)])
        x, y = Keeper(), Keeper()

        await bench.run({"x": x, "y": y}, batch=Batch(9, by="name"))

        assert (x.calls, y.calls) == ([[0, 3, 6]], [[1, 4, 7]])
        assert await bench.queue.count("waiting") == 3

    @needs(Feature.GROUPS)
    async def test_by_group_jobs_of_one_group_fill_a_batch(self, bench: Bench) -> None:
        await bench.queue.add_bulk(
            [NewJob("work", f"{'gh-'[n % 3]}{n}", group=["g", "h", None][n % 3]) for n in range(12)]
        )
        keeper = Keeper()

        await bench.run(keeper, batch=Batch(3, by="group"))

        assert sorted(len(call) for call in keeper.calls) == [1, 1, 1, 3, 3, 3]
        assert all(len({data[0] for data in call}) == 1 for call in keeper.calls)
        assert keeper.calls[0] == ["g0", "g3", "g6"]

    @needs(Feature.GROUPS)
    async def test_a_batch_of_a_group_leaves_what_is_paused_or_delayed(self, bench: Bench) -> None:
        await bench.queue.add_bulk(
            [
                NewJob("work", "first", group="g"),
                NewJob("held", "paused name", group="g"),
                NewJob("work", "later", group="g", delay="1h"),
                NewJob("work", "second", group="g"),
                NewJob("work", "paused group", group="h"),
            ]
        )
        await bench.queue.pause(job_name="held")
        await bench.queue.pause(group="h")
        keeper = Keeper()

        await bench.run(keeper, batch=Batch(9, by="group"))

        assert keeper.calls == [["first", "second"]]
        assert await bench.queue.count("waiting") == 2
        assert await bench.queue.count("delayed") == 1

    async def test_a_job_that_has_stalled_runs_alone(self, bench: Bench) -> None:
        jobs = await five(bench.queue)
        await bench.store.claim(claim(1, lease=span(30), worker="a dead one"))
        await bench.later("31s")
        keeper = Keeper()

        await bench.run(keeper, batch=Batch(10))

        assert keeper.calls[0] == [0]
        assert sorted(data for call in keeper.calls[1:] for data in call) == [1, 2, 3, 4]
        assert set(await states_of(jobs)) == {JobState.COMPLETED}

    @needs(Feature.ACTIVE_LIMITS)
    async def test_limits_count_jobs_and_not_batches(self, bench: Bench) -> None:
        await five(bench.queue)
        keeper = Keeper()

        await bench.run(keeper, batch=Batch(10), concurrency=4, max_global_concurrency=2)

        assert keeper.calls == [[0, 1], [2, 3], [4]]

    @needs(Feature.RATE_LIMITS)
    async def test_every_job_of_a_batch_is_a_start(self, bench: Bench) -> None:
        await five(bench.queue)
        keeper = Keeper()

        for _ in range(3):
            await bench.run(keeper, batch=Batch(10), limiter=RateLimit(2, per="1 minute"))
            await bench.later("1 minute")

        assert keeper.calls == [[0, 1], [2, 3], [4]]

    @needs(Feature.ACTIVE_LIMITS, Feature.GROUPS)
    async def test_a_batch_of_a_group_keeps_to_the_groups_limit(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("work", f"{'gh'[n % 2]}{n}", group="gh"[n % 2]) for n in range(8)])
        keeper = Keeper()

        await bench.run(keeper, batch=Batch(4, by="group"), group=GroupLimit(concurrency=2))

        assert sorted(map(len, keeper.calls)) == [2, 2, 2, 2]
        assert all(len({data[0] for data in call}) == 1 for call in keeper.calls)


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
        ("result", "told"),
        [([1, 2], "2 results"), ([], "0 results"), ("abcde", "str"), ({"a": 1}, "dict"), (5, "int")],
        ids=["too few", "none", "text", "mapping", "number"],
    )
    async def test_the_wrong_number_of_results_fails_every_job(
        self, bench: Bench, result: object, told: str
    ) -> None:
        jobs = await five(bench.queue, attempts=2, backoff="1h")

        async def handler(_: Jobs) -> object:
            return result

        await bench.run(handler, batch=Batch(10))

        assert await states_of(jobs) == [JobState.DELAYED] * 5
        assert {job.attempts_made for job in jobs} == {1}
        assert {job.attempt_history[-1].error_type for job in jobs} == {"BatchResultError"}
        assert all(f"for 5 jobs it returned {told}" in str(job.failed_reason) for job in jobs)

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

    async def test_each_job_that_fails_for_good_leaves_a_letter_of_its_own(self, bench: Bench) -> None:
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


@area("batches")
class Interruptions:
    """Timeouts, cancellation, lost leases, shutdown."""

    async def test_the_least_timeout_ends_the_batch(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk(
            [NewJob("work", 0), NewJob("work", 1, timeout="5s"), NewJob("work", 2, timeout="1h")]
        )
        door = Door()
        work = asyncio.create_task(bench.run(door, batch=Batch(10)))
        await door.until_begun()

        ended = []
        for by in ("4s", "1s"):
            await bench.later(by)
            ended.append(door.cancelled)
        await work

        assert ended == [False, True]
        assert await states_of(jobs) == [JobState.FAILED] * 3
        assert {job.attempt_history[-1].outcome for job in jobs} == {"timed-out"}
        assert {job.failed_reason for job in jobs} == {
            "the handler ran longer than its timeout of 0:00:05 and was cancelled"
        }

    async def test_cancelling_one_job_disturbs_no_other(self, store: Store) -> None:
        queue: Queue[Any] = Queue("q", store)
        jobs = await five(queue)
        door = Door()

        async with Worker("q", door, store, batch=Batch(10)):
            await door.until_begun()
            assert await queue.cancel(jobs[2].id)
            async with asyncio.timeout(SOON):
                while not door.jobs[2].cancelled:  # noqa: ASYNC110 - what a handler looks at is no event
                    await asyncio.sleep(0.01)
            door.opened.set()
            for one in jobs:
                await until_finished(one)

        assert not door.cancelled
        assert [one.state for one in jobs] == [
            JobState.CANCELLED if n == 2 else JobState.COMPLETED for n in range(5)
        ]
        assert [one.return_value for one in jobs] == ["done", "done", None, "done", "done"]

    async def test_a_batch_all_of_whose_jobs_are_cancelled_is_cancelled(self, store: Store) -> None:
        queue: Queue[Any] = Queue("q", store)
        jobs = await five(queue)
        door = Door()

        async with Worker("q", door, store, batch=Batch(10)):
            await door.until_begun()
            for one in jobs:
                assert await queue.cancel(one.id)
            for one in jobs:
                await until_finished(one)

        assert door.cancelled
        assert {one.state for one in jobs} == {JobState.CANCELLED}

    async def test_a_lost_lease_of_one_job_disturbs_no_other(self, bench: Bench) -> None:
        jobs = await five(bench.queue)
        door = Door()
        refused: list[int] = []

        async def handler(jobs: Jobs) -> list[str]:
            results = await door(jobs)
            for n, one in enumerate(jobs):
                try:
                    await one.update_progress(50)
                except LeaseLostError:
                    refused.append(n)
            return results

        work = asyncio.create_task(bench.run(handler, batch=Batch(10)))
        await door.until_begun()
        await bench.store.delete(Where(queue="q", ids=frozenset({jobs[3].id})), limit=1)
        door.opened.set()
        await work

        assert refused == [3]
        kept = [one for n, one in enumerate(jobs) if n != 3]
        assert await states_of(kept) == [JobState.COMPLETED] * 4
        assert [one.progress for one in kept] == [50] * 4
        assert await bench.queue.get_job(jobs[3].id) is None

    async def test_a_closing_worker_gives_back_every_job_of_a_batch(self, store: Store) -> None:
        queue: Queue[Any] = Queue("q", store)
        jobs = await five(queue)
        door = Door()
        worker: Worker[Any] = Worker("q", door, store, batch=Batch(10))
        await worker.start()
        await door.until_begun()

        await worker.close(timeout=0)

        assert door.cancelled
        assert await states_of(jobs) == [JobState.WAITING] * 5
        assert {one.attempts_made for one in jobs} == {0}

    @needs(Feature.GROUPS)
    async def test_a_full_group_counts_the_jobs_of_batches_out(self, bench: Bench) -> None:
        group = Group("g", max_size=2)
        await bench.queue.add_bulk([NewJob("work", n, group=group) for n in range(2)])
        door = Door()
        work = asyncio.create_task(bench.run(door, batch=Batch(2)))
        await door.until_begun()

        await bench.queue.add_bulk([NewJob("work", n, group=group) for n in range(2)])
        door.opened.set()
        await work

        assert await bench.queue.count("completed") == 4


class Batches(Gathering, Outcomes, Interruptions):
    """Batches."""
