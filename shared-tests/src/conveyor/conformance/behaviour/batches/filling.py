"""Batches: which jobs a handler gets together, and what a batch counts for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from conveyor.conformance.behaviour.batches.jobs import Jobs, five, states_of
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Bench
from conveyor.conformance.kit.make import claim, span
from conveyor.core import (
    Batch,
    Feature,
    GroupLimit,
    Job,
    JobState,
    NewJob,
    RateLimit,
)


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
