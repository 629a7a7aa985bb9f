"""Schedules: misfires, overlap, limits and the like."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from conveyor.conformance.behaviour.schedules.runs import HOUR, hours, made
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Bench, Gate, nothing
from conveyor.conformance.kit.make import at
from conveyor.core import (
    Deduplication,
    Feature,
    Group,
    JobState,
)


@area("schedules")
class Options:
    """The options of `add`, for each job of a schedule."""

    async def test_options_go_for_each_job(self, bench: Bench) -> None:
        await bench.queue.every(
            "1 hour",
            "x",
            key="x",
            attempts=3,
            backoff="5s",
            priority=7,
            lifo=True,
            timeout="30s",
            delay="1 minute",
        )

        await hours(bench, 1, 2)

        for job in await made(bench):
            assert (job.options.attempts, job.priority, job.options.timeout) == (3, 7, timedelta(seconds=30))
            assert job.scheduled_for is not None
        first, second = await made(bench)
        assert first.delay_until is None
        assert (first.state, second.delay_until) == (JobState.COMPLETED, at(2 * HOUR + 60))

    async def test_defaults_of_the_queue_are_those_at_the_add(self, bench: Bench) -> None:
        queue = bench.another_queue("q", default_job_options={"attempts": 4, "remove_on_complete": True})
        await queue.every("1 hour", "x", key="x")
        await bench.later(HOUR)
        await bench.run({"none of these": nothing})

        [job] = await made(bench)
        assert job.options.attempts == 4
        await bench.run()
        assert await made(bench) == []

    @needs(Feature.GROUPS)
    async def test_jobs_are_in_their_group(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "x", key="x", group=Group("tenant", max_size=5))

        await hours(bench, 1)

        assert [job.group_id for job in await made(bench)] == ["tenant"]

    @needs(Feature.UNIQUE_KEYS)
    async def test_a_tick_makes_no_job_while_its_deduplication_key_is_held(self, bench: Bench) -> None:
        held = await bench.queue.add("x", 0, delay="1 day", deduplication=Deduplication("only"))
        keep = Deduplication("only")
        await bench.queue.every("1 hour", "x", 1, key="x", deduplication=keep)

        await hours(bench, 1, 2)

        assert await made(bench) == []
        assert (await held.refresh()).data == 0
        found = await bench.queue.get_schedule("x")
        assert found is not None
        assert found.next_run_at == at(3 * HOUR)

    @needs(Feature.UNIQUE_KEYS)
    async def test_a_tick_replaces_the_data_of_the_holder_of_its_key(self, bench: Bench) -> None:
        held = await bench.queue.add("x", 0, delay="1 day", deduplication=Deduplication("only"))
        swap = Deduplication("only", mode="replace")
        await bench.queue.every("1 hour", "x", 1, key="x", deduplication=swap)

        await hours(bench, 1)

        assert ((await held.refresh()).data, held.state) == (1, JobState.DELAYED)
        again = await bench.queue.trigger_schedule("x")
        assert (again.id, again.deduplicated) == (held.id, True)

    async def test_schedules_fire_whatever_else_the_worker_may_do(self, bench: Bench) -> None:
        """A mapping of names, a paused queue: its jobs wait, and are made all the same."""
        await bench.queue.every("1 hour", "other", key="x")
        await bench.queue.pause()
        await bench.later(HOUR)

        await bench.run({"mine": nothing})

        assert [job.state for job in await made(bench)] == [JobState.WAITING]

    @needs(Feature.ACTIVE_LIMITS)
    async def test_schedules_fire_while_a_limit_is_reached(self, bench: Bench) -> None:
        await bench.queue.add("long")
        gate = Gate()
        running = asyncio.create_task(bench.run(gate, max_global_concurrency=1))
        await gate.until_begun()
        await bench.queue.every("10 s", "x", key="x")
        await bench.later(10)

        await bench.run(max_global_concurrency=1)

        assert [job.state for job in await made(bench)] == [JobState.WAITING]
        gate.opened.set()
        await running
