"""Ageing: a job that waits gains priority, so that none waits for ever."""

from __future__ import annotations

from typing import Any

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import Bench, Recorder
from conveyor.conformance.kit.make import at
from conveyor.core import Job, NewJob, Queue


def aged(bench: Bench) -> Queue[Any]:
    """The queue "q", whose jobs gain a step of priority every ten minutes."""
    return bench.another_queue("q", ageing="10 minutes")


async def order(bench: Bench) -> list[Any]:
    """Run everything, one by one, and return the data in the order of the runs."""
    recorder = Recorder()
    await bench.run(recorder, prefetch=0)
    return recorder.data


@area("ageing")
class Ageing:
    """`Queue(ageing=...)`."""

    async def test_a_job_gains_one_step_of_priority_for_each_period(self, bench: Bench) -> None:
        queue = aged(bench)
        await queue.add("work", "old", priority=3)
        await bench.later("29m59s")
        await queue.add("work", "before three periods", priority=0)
        await bench.later("2s")
        await queue.add("work", "after three periods", priority=0)

        assert await order(bench) == ["before three periods", "old", "after three periods"]

    async def test_jobs_of_one_priority_go_in_order(self, bench: Bench) -> None:
        queue = aged(bench)
        for n in range(5):
            await queue.add("work", n)
            await bench.later("1s")

        assert await order(bench) == [0, 1, 2, 3, 4]

    async def test_priority_decides_between_jobs_of_one_time(self, bench: Bench) -> None:
        await aged(bench).add_bulk([NewJob("work", n, priority=-n) for n in range(5)])

        assert await order(bench) == [4, 3, 2, 1, 0]

    async def test_no_job_waits_longer_than_its_priority_in_periods(self, bench: Bench) -> None:
        """Urgent jobs come without end, faster than they run: without ageing the late one would starve."""
        queue = aged(bench)
        late = await queue.add("work", "late", priority=2)
        ran: list[Any] = []

        async def handler(job: Job[Any]) -> None:
            ran.append((job.data, job.processed_at))
            await bench.queue.pause()

        for _ in range(30):
            await queue.add_bulk([NewJob("work", "urgent") for _ in range(3)])
            await bench.run(handler, prefetch=0)
            await bench.queue.resume()
            await bench.later("1m")

        # What was added in its first twenty minutes is before it, and nothing that came later.
        assert [data for data, _ in ran] == ["urgent"] * 30
        await bench.run(handler, prefetch=0)
        overtook = await bench.queue.get_jobs("waiting", order="claim", limit=100)
        before = overtook[: [job.id for job in overtook].index(late.id)]
        assert all(job.created_at <= at(20 * 60) for job in before)
        assert len(before) + 31 <= 3 * 21

    async def test_bulk_schedule_and_single_adds_age_alike(self, bench: Bench) -> None:
        queue = aged(bench)
        await queue.add("work", "single", priority=1)
        await bench.later("1s")
        await queue.add_bulk([NewJob("work", "bulk", priority=1)])
        await bench.later("1s")
        await queue.schedule("5m", "work", "scheduled", priority=1)
        await bench.later("1s")
        await queue.now("work", "now", priority=1)
        await bench.later("10m")
        await queue.add("work", "fresh", priority=0)

        # A job that runs later has its place from when it was added, as everywhere.
        assert await order(bench) == ["single", "bulk", "scheduled", "now", "fresh"]

    async def test_a_retried_job_keeps_the_age_it_has(self, bench: Bench) -> None:
        queue = aged(bench)
        await queue.add("work", "old", priority=1, attempts=2, backoff="1h")
        failed: list[Any] = []

        async def handler(job: Job[Any]) -> None:
            failed.append(job.data)
            if job.attempts_made == 0 and job.data == "old":
                raise RuntimeError("once")

        await bench.later("30m")
        await queue.add("work", "new", priority=0, delay="90m")
        await bench.later("30m")
        await bench.run(handler)
        await bench.later("1h")
        await bench.run(handler, prefetch=0)

        assert failed == ["old", "old", "new"]

    async def test_a_changed_priority_keeps_the_age(self, bench: Bench) -> None:
        queue = aged(bench)
        first = await queue.add("work", "first", priority=5)
        later = await queue.add("work", "second", priority=5)
        await bench.later("10m")
        await queue.add("work", "third", priority=4)

        await later.change_priority(3)
        assert [job.data for job in await queue.get_jobs(order="claim")] == ["second", "first", "third"]
        await first.change_priority(6)

        assert await order(bench) == ["second", "third", "first"]
