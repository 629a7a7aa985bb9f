"""Groups as users meet them: with `Queue` and `Worker`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, many_calls, needs
from conveyor.conformance.kit.bench import Bench, Gate, Recorder, Watcher, fail
from conveyor.conformance.kit.make import at
from conveyor.core import (
    Feature,
    Group,
    GroupFullError,
    GroupLimit,
    InvalidOptionError,
    Job,
    JobState,
    NewJob,
    Queue,
    RateLimit,
    RateLimited,
    Store,
)
from conveyor.core.events import QueueDrained


def jobs_of(group: str | None, count: int, **options: Any) -> list[NewJob[Any]]:
    """So many jobs of a group, that say so."""
    return [NewJob("work", f"{group}{n}", group=group, **options) for n in range(count)]


@area("group behaviour", Feature.GROUPS)
class LookingAtGroups:
    """`get_groups`, `get_group`."""

    async def test_groups_are_listed_with_their_counts(self, bench: Bench) -> None:
        queue = bench.queue
        await queue.add_bulk([*jobs_of("g", 3), *jobs_of("h", 2, delay="1h"), *jobs_of(None, 4)])

        found = await queue.get_groups()

        assert [(one.id, one.waiting, one.delayed, one.active, one.unfinished) for one in found] == [
            ("g", 3, 0, 0, 3),
            ("h", 0, 2, 0, 2),
        ]
        assert all((one.paused, one.paused_until) == (False, None) for one in found)
        assert set(found[0].counts) == {
            JobState.WAITING,
            JobState.WAITING_CHILDREN,
            JobState.DELAYED,
            JobState.ACTIVE,
        }

    async def test_running_jobs_count_as_active(self, bench: Bench) -> None:
        await bench.queue.add_bulk(jobs_of("g", 3))
        gate = Gate()
        work = asyncio.create_task(bench.run(gate, concurrency=2, prefetch=0))
        await gate.until_begun()

        [group] = await bench.queue.get_groups()
        gate.opened.set()
        await work

        assert (group.active, group.waiting) == (2, 1)

    async def test_finished_groups_are_listed_when_asked_for(self, bench: Bench) -> None:
        await bench.queue.add_bulk([*jobs_of("done", 2), *jobs_of("failed", 1)])
        await bench.queue.add("never", group="waits")

        async def handler(job: Job[Any]) -> None:
            if job.group_id == "failed":
                await fail(job)

        await bench.run({"work": handler})

        assert [one.id for one in await bench.queue.get_groups()] == ["waits"]
        found = await bench.queue.get_groups(finished=True)
        assert [(one.id, one.unfinished) for one in found] == [("done", 0), ("failed", 0), ("waits", 1)]
        assert all(set(one.counts) == set(JobState) for one in found)
        assert found[0].counts[JobState.COMPLETED] == 2
        assert found[1].counts[JobState.FAILED] == 1

    async def test_one_group_is_read_whole(self, bench: Bench) -> None:
        await bench.queue.add_bulk([*jobs_of("g", 2), *jobs_of("h", 1)])
        await bench.run()
        await bench.queue.add_bulk(jobs_of("g", 3))
        await bench.queue.pause(group="g")

        found = await bench.queue.get_group("g")

        assert found.id == "g"
        assert (found.waiting, found.counts[JobState.COMPLETED], found.unfinished) == (3, 2, 3)
        assert found.paused
        assert (await bench.queue.get_group("no such group")).unfinished == 0

    async def test_a_paused_group_says_until_when(self, bench: Bench) -> None:
        await bench.queue.add_bulk(jobs_of("g", 1))

        async def limited(_: Job[Any]) -> None:
            raise RateLimited("1 minute")

        await bench.run(limited)
        await bench.queue.pause(group="empty")

        assert [(one.id, one.paused, one.paused_until) for one in await bench.queue.get_groups()] == [
            ("empty", True, None),
            ("g", True, at(60)),
        ]
        await bench.later("1 minute")
        assert [(one.id, one.paused) for one in await bench.queue.get_groups()] == [
            ("empty", True),
            ("g", False),
        ]

    async def test_groups_are_read_page_by_page(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("work", group=f"g{n}") for n in range(7)])
        pages: list[list[str]] = []
        after = None

        while page := await bench.queue.get_groups(limit=3, after=after):
            pages.append([one.id for one in page])
            after = page[-1].id

        assert pages == [["g0", "g1", "g2"], ["g3", "g4", "g5"], ["g6"]]

    async def test_bad_options_are_refused(self, bench: Bench) -> None:
        for call in (
            bench.queue.get_groups(limit=0),
            bench.queue.get_groups(after=""),
            bench.queue.get_groups(finished=1),  # type: ignore[arg-type]
            bench.queue.get_group(""),
            bench.queue.drain(group=""),
        ):
            with pytest.raises(InvalidOptionError):
                await call


@area("group behaviour", Feature.GROUPS)
class KeepingGroups:
    """Pausing, draining, and sizes."""

    async def test_a_paused_group_is_left_and_others_go_on(self, bench: Bench) -> None:
        await bench.queue.add_bulk([*jobs_of("g", 2), *jobs_of("h", 2)])
        await bench.queue.pause(group="g")
        recorder = Recorder()

        await bench.run(recorder)
        assert recorder.data == ["h0", "h1"]
        await bench.queue.resume(group="g")
        await bench.run(recorder)

        assert recorder.data == ["h0", "h1", "g0", "g1"]

    async def test_draining_a_group_removes_what_waits_in_it_and_nothing_else(self, bench: Bench) -> None:
        await bench.queue.add_bulk([*jobs_of("g", 3), *jobs_of("g", 2, delay="1h"), *jobs_of("h", 1)])
        await bench.queue.add_bulk(jobs_of(None, 1))

        assert await bench.queue.drain(group="g", delayed=False) == 3
        assert await bench.queue.drain(group="g") == 2
        assert await bench.queue.drain(group="g") == 0

        assert [job.group_id for job in await bench.queue.get_jobs()] == ["h", None]

    async def test_draining_a_group_spares_what_runs(self, bench: Bench) -> None:
        await bench.queue.add_bulk(jobs_of("g", 3))
        gate = Gate()
        work = asyncio.create_task(bench.run(gate, prefetch=0))
        await gate.until_begun()

        removed = await bench.queue.drain(group="g")
        gate.opened.set()
        await work

        assert removed == 2
        assert await bench.queue.count("completed") == 1

    async def test_draining_a_group_publishes_an_event(self, handles: Sequence[Store]) -> None:
        queue: Queue[Any] = Queue("q", handles[0])
        drained: list[str | None] = []

        async def drained_elsewhere() -> None:
            async for event in Queue("q", handles[1]).events():
                if isinstance(event, QueueDrained) and event.group is not None:
                    drained.append(event.group)
                    return

        async with Watcher(queue, handles[0]):
            task = asyncio.create_task(drained_elsewhere())
            while not task.done():
                await queue.drain(group="g")
                await asyncio.sleep(0.01)
            await task

        assert drained == ["g"]

    async def test_many_bulks_at_once_fill_a_group_and_never_more(self, handles: Sequence[Store]) -> None:
        queues: list[Queue[Any]] = [Queue("q", handle) for handle in handles]
        group = Group("g", max_size=10)

        async def adder(queue: Queue[Any]) -> int:
            try:
                return len(await queue.add_bulk([NewJob("work", group=group) for _ in range(3)]))
            except GroupFullError:
                return 0

        added = await asyncio.gather(*(adder(queues[n % 2]) for n in range(12)))

        assert Counter(added) == {3: 3, 0: 9}
        assert await queues[0].count("waiting") == 9

    async def test_a_full_group_has_room_when_a_job_starts(self, bench: Bench) -> None:
        group = Group("g", max_size=1)
        await bench.queue.add("work", group=group)
        with pytest.raises(GroupFullError):
            await bench.queue.add("work", group=group)

        gate = Gate()
        work = asyncio.create_task(bench.run(gate, prefetch=0))
        await gate.until_begun()
        await bench.queue.add("work", group=group)
        gate.opened.set()
        await work

        assert await bench.queue.count("completed") == 2


@area("group behaviour", Feature.GROUPS)
class FairShareOfWorkers:
    """Turns among groups, with workers."""

    async def test_the_groups_of_a_worker_take_turns(self, bench: Bench) -> None:
        await bench.queue.add_bulk([*jobs_of("g", 3), *jobs_of("h", 2), *jobs_of(None, 2)])
        recorder = Recorder()

        await bench.run(recorder, prefetch=0)

        assert recorder.data == ["g0", "h0", "None0", "g1", "h1", "None1", "g2"]

    async def test_a_large_group_does_not_delay_a_small_one(self, bench: Bench) -> None:
        await self.two_turns(bench, 500)

    @many_calls
    @pytest.mark.chaos
    async def test_a_group_of_100_000_jobs_does_not_delay_a_small_one(self, bench: Bench) -> None:
        await self.two_turns(bench, 100_000)

    async def two_turns(self, bench: Bench, many: int) -> None:
        """A group of one job is served within two turns, wherever the large group stands."""
        for first in range(0, many, 5_000):
            await bench.queue.add_bulk(jobs_of("large", min(5_000, many - first)))
        order: list[str | None] = []
        small = iter(range(3))

        async def handler(job: Job[Any]) -> None:
            order.append(job.group_id)
            if len(order) % 5 == 1 and (n := next(small, None)) is not None:
                await bench.queue.add("work", group=f"small {n}")
            if len(order) == 20:
                await bench.queue.pause()

        await bench.run(handler, prefetch=0)

        for n in range(3):
            assert order.index(f"small {n}") <= 5 * n + 2

    async def test_many_groups_of_one_job_are_all_served_and_then_forgotten(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("work", group=f"g{n}") for n in range(300)])

        await bench.run(concurrency=50)
        await bench.store.advance({"q"})

        assert await bench.queue.count("completed") == 300
        assert await bench.queue.get_groups() == []

    @needs(Feature.ACTIVE_LIMITS)
    async def test_a_group_at_its_limit_does_not_hold_up_the_others(self, bench: Bench) -> None:
        await bench.queue.add_bulk([*jobs_of("g", 5), *jobs_of("h", 5)])
        gate, ran = Gate(), Recorder()

        async def handler(job: Job[Any]) -> None:
            await (gate if job.group_id == "g" else ran)(job)

        work = asyncio.create_task(bench.run(handler, concurrency=4, group=GroupLimit(concurrency=1)))
        await gate.until_begun()
        while len(ran.data) < 5:  # noqa: ASYNC110 - what a handler has done is no event
            await asyncio.sleep(0.001)
        begun = gate.runs
        gate.opened.set()
        await work

        assert begun == 1
        assert gate.runs == 5

    async def test_a_rate_that_is_hit_pauses_the_group_for_every_worker(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([*jobs_of("g", 3), *jobs_of("h", 1)])

        async def limited(job: Job[Any]) -> None:
            if job.group_id == "g":
                raise RateLimited("1 minute")

        await bench.run(limited)
        assert [await bench.state(job) for job in jobs] == [JobState.WAITING] * 3 + [JobState.COMPLETED]
        assert {job.attempts_made for job in jobs} == {0}
        assert sum(len(job.attempt_history) for job in jobs[:3]) == 1

        recorder = Recorder()
        await bench.later("59s")
        await bench.run(recorder)
        assert recorder.data == []
        await bench.later("1s")
        await bench.run(recorder)
        assert sorted(recorder.data) == ["g0", "g1", "g2"]

    @needs(Feature.RATE_LIMITS)
    async def test_each_group_has_its_own_rate(self, bench: Bench) -> None:
        await bench.queue.add_bulk([*jobs_of("g", 3), *jobs_of("h", 3)])
        recorder = Recorder()
        limit = GroupLimit(limiter=RateLimit(2, per="1 minute"))

        await bench.run(recorder, group=limit)
        assert sorted(recorder.data) == ["g0", "g1", "h0", "h1"]
        await bench.later("1 minute")
        await bench.run(recorder, group=limit)

        assert sorted(recorder.data[4:]) == ["g2", "h2"]


class GroupBehaviour(LookingAtGroups, KeepingGroups, FairShareOfWorkers):
    """Groups with queues and workers."""
