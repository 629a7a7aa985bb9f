"""Limits as users meet them: workers in tasks, on several handles, in several processes, and killed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, measures_speed, needs
from conveyor.conformance.kit.bench import Bench, Gate, Recorder, nothing, until
from conveyor.conformance.kit.make import claim, span
from conveyor.conformance.kit.processes import in_processes, let_go, started
from conveyor.core import (
    Feature,
    GroupLimit,
    Job,
    JobState,
    NewJob,
    Pause,
    Queue,
    RateLimit,
    RateLimited,
    Store,
    Worker,
)
from conveyor.core.store import Where

Run = tuple[str, str, float, float]


def most_at_once(intervals: Iterable[tuple[float, float]]) -> int:
    """How many of these intervals overlap at most."""
    steps = sorted(step for begin, end in intervals for step in ((begin, 1), (end, -1)))
    running = most = 0
    for _, step in steps:
        running += step
        most = max(most, running)
    return most


def most_in_a_window(starts: Iterable[datetime], seconds: float) -> int:
    """How many of these instants lie in one window of that length, its end excluded, at most."""
    ordered = sorted(starts)
    return max(sum(0 <= (other - start).total_seconds() < seconds for other in ordered) for start in ordered)


async def all_finished(queue: Queue[Any], count: int) -> None:
    """Return when so many jobs have completed."""

    async def done() -> bool:
        return await queue.count("completed") >= count

    await until(done)


@area("limit behaviour", Feature.ACTIVE_LIMITS)
class ActiveLimits:
    """`max_global_concurrency` and `group.concurrency`."""

    async def test_workers_on_two_handles_keep_to_the_limit_and_use_it(
        self, handles: Sequence[Store]
    ) -> None:
        assert await self.used(handles) >= 0.4  # a slow store, or a busy machine, is no fault

    @measures_speed
    @pytest.mark.chaos
    async def test_at_least_85_percent_of_a_limit_is_used_while_there_is_a_backlog(
        self, handles: Sequence[Store]
    ) -> None:
        assert await self.used(handles) >= 0.85

    async def used(self, handles: Sequence[Store]) -> float:
        """How much of what a limit allows workers on both handles hold, while there is a backlog."""
        queue: Queue[Any] = Queue("q", handles[0])
        spans: list[tuple[float, float]] = []

        async def handler(_: Job[Any]) -> None:
            began = time.monotonic()
            await asyncio.sleep(0.04)
            spans.append((began, time.monotonic()))

        jobs = await queue.add_bulk([NewJob("work", n) for n in range(60)])
        async with AsyncExitStack() as stack:
            for n in range(3):
                worker: Worker[Any] = Worker(
                    "q", handler, handles[n % 2], concurrency=4, max_global_concurrency=6
                )
                await stack.enter_async_context(worker)
            await all_finished(queue, len(jobs))

        assert most_at_once(spans) == 6
        found = [await job.refresh() for job in jobs]
        held = [(one.processed_at, one.completed_at) for one in found]
        lasted = [(end - begin).total_seconds() for begin, end in held if begin and end]
        begin = min(one.processed_at for one in found if one.processed_at)
        # While there is a backlog: until the last job has started.
        last = max(one.processed_at for one in found if one.processed_at)
        used = sum(
            (min(end, last) - start).total_seconds() for start, end in held if start is not None and end
        )
        assert len(lasted) == 60
        return used / (6 * (last - begin).total_seconds())

    @needs(Feature.GROUPS)
    async def test_workers_keep_to_the_limit_of_each_group(self, handles: Sequence[Store]) -> None:
        queue: Queue[Any] = Queue("q", handles[0])
        running: Counter[str | None] = Counter()
        most: Counter[str | None] = Counter()

        async def handler(job: Job[Any]) -> None:
            running[job.group_id] += 1
            most[job.group_id] = max(most[job.group_id], running[job.group_id])
            await asyncio.sleep(0.001)
            running[job.group_id] -= 1

        await queue.add_bulk([NewJob("work", n, group=["g", "h", None][n % 3]) for n in range(60)])
        async with (
            Worker("q", handler, handles[0], concurrency=8, group=GroupLimit(concurrency=2)),
            Worker("q", handler, handles[1], concurrency=8, group=GroupLimit(concurrency=2)),
        ):
            await all_finished(queue, 60)

        assert (most["g"], most["h"]) == (2, 2)
        assert most[None] > 2

    async def test_the_capacity_of_a_dead_worker_comes_back_when_its_leases_are_over(
        self, bench: Bench
    ) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work", n) for n in range(6)])
        await bench.store.claim(claim(2, lease=span(30), worker="a dead one"))
        recorder = Recorder()

        await bench.later("29999ms")
        await bench.run(recorder, concurrency=4, max_global_concurrency=2)
        before = len(recorder.ids)
        await bench.later("1ms")
        await bench.run(recorder, concurrency=4, max_global_concurrency=2)

        assert before == 0
        assert {await bench.state(job) for job in jobs} == {JobState.COMPLETED}

    async def test_of_two_workers_the_stricter_is_kept_to_by_itself(self, bench: Bench) -> None:
        """What the other runs counts for it, too."""
        await bench.queue.add_bulk([NewJob("work", n) for n in range(8)])
        lax, strict = Gate(), Recorder()
        work = asyncio.create_task(bench.run(lax, concurrency=3, max_global_concurrency=3))
        await lax.until_begun()
        await bench.run(strict, concurrency=2, max_global_concurrency=2)
        none = list(strict.ids)

        await bench.queue.pause()
        lax.opened.set()
        await work
        await bench.queue.resume()
        await bench.run(strict, concurrency=2, max_global_concurrency=2)

        assert none == []
        assert len(strict.ids) == 5

    async def test_a_worker_of_other_names_counts_for_the_limit(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("xy"[n % 2], n) for n in range(4)])
        gate, recorder = Gate(), Recorder()
        work = asyncio.create_task(bench.run({"x": gate}, concurrency=2, max_global_concurrency=2))
        await gate.until_begun()

        await bench.run({"y": recorder}, max_global_concurrency=2)
        none = list(recorder.ids)
        gate.opened.set()
        await work
        await bench.run({"y": recorder}, max_global_concurrency=2)

        assert (none, len(recorder.ids)) == ([], 2)


@area("limit behaviour", Feature.RATE_LIMITS)
class RateLimits:
    """`limiter`, `group.limiter`, and `RateLimited`."""

    async def test_workers_start_no_more_in_any_window_than_the_rate(self, handles: Sequence[Store]) -> None:
        queue: Queue[Any] = Queue("q", handles[0])
        jobs = await queue.add_bulk([NewJob("work", n) for n in range(20)])
        limiter = RateLimit(5, per="150ms")

        async with (
            Worker("q", nothing, handles[0], concurrency=4, limiter=limiter),
            Worker("q", nothing, handles[1], concurrency=4, limiter=limiter),
        ):
            await all_finished(queue, 20)

        starts = [one.processed_at for job in jobs if (one := await job.refresh()).processed_at]
        assert len(starts) == 20
        assert most_in_a_window([start for start in starts if start], 0.15) == 5

    async def test_of_two_rates_neither_is_broken_by_the_others_book_keeping(self, bench: Bench) -> None:
        """B17: upstream's workers with different windows deleted each other's rows."""
        await bench.queue.add_bulk([NewJob("work", n) for n in range(100)])
        rates = {"minute": RateLimit(3, per="1 minute"), "second": RateLimit(2, per="1s")}
        tries = {
            "minute": [0, 1, 10, 11, 13, 59.9, 60, 61, 70, 71, 71.9, 72, 73, 129.9, 130, 131],
            "second": [10.5, 10.6, 11.4, 12, 12.9, 70],
        }
        starts: dict[str, list[float]] = {"minute": [], "second": []}
        now = 0.0

        for when, who in sorted((when, who) for who, times in tries.items() for when in times):
            await bench.later(span(when - now))
            now = when
            recorder = Recorder()
            await bench.run(recorder, limiter=rates[who])
            starts[who] += [when] * len(recorder.ids)

        # What either starts counts for the other, in its own window.
        assert starts == {"minute": [0, 0, 0, 72, 130, 130], "second": [10.5, 10.5, 12, 12, 70, 70]}

    async def test_a_rate_that_is_hit_pauses_the_queue_of_a_job_without_a_group(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work", n) for n in range(3)])

        async def limited(_: Job[Any]) -> None:
            raise RateLimited("10s")

        await bench.run(limited, concurrency=1)

        assert set(await bench.queue.get_paused()) == {Pause()}
        assert {(await job.refresh()).attempts_made for job in jobs} == {0}
        recorder = Recorder()
        await bench.later("9999ms")
        await bench.run(recorder)
        assert recorder.data == []
        await bench.later("1ms")
        await bench.run(recorder)
        assert recorder.data == [0, 1, 2]

    async def test_a_worker_that_waits_for_its_window_goes_on_as_it_opens(self, store: Store) -> None:
        queue: Queue[Any] = Queue("q", store)
        await queue.add_bulk([NewJob("work", n) for n in range(6)])
        limiter = RateLimit(2, per="100ms")

        async with Worker("q", nothing, store, limiter=limiter, poll_interval="1h", stalled_interval="1h"):
            await all_finished(queue, 6)


@area("limit behaviour", Feature.MULTI_PROCESS)
class LimitsOfProcesses:
    """Workers in processes of their own."""

    async def runs(self, url: str | None, count: int, **options: Any) -> list[Run]:
        """Run workers in that many processes, and return their runs."""
        found = await in_processes(url, "run_worker", arguments=[json.dumps(options)] * count)
        return [(run[0], run[1], run[2], run[3]) for mine in found for run in mine]

    @needs(Feature.ACTIVE_LIMITS)
    async def test_processes_together_keep_to_the_limit(self, store: Store, store_url: str | None) -> None:
        queue: Queue[Any] = Queue("q", store)
        await queue.add_bulk([NewJob("work", n) for n in range(30)])

        runs = await self.runs(store_url, 3, takes=0.02, active=4)

        assert len({run[0] for run in runs}) == len(runs) == 30
        assert most_at_once((run[2], run[3]) for run in runs) <= 4

    @needs(Feature.RATE_LIMITS)
    async def test_processes_together_keep_to_the_rate(self, store: Store, store_url: str | None) -> None:
        queue: Queue[Any] = Queue("q", store)
        await queue.add_bulk([NewJob("work", n) for n in range(20)])

        runs = await self.runs(store_url, 2, takes=0, rate=[5, 0.2])

        assert len(runs) == 20
        assert most_in_a_window((datetime.fromisoformat(run[1]) for run in runs), 0.2) <= 5

    @measures_speed
    @pytest.mark.chaos
    @needs(Feature.ACTIVE_LIMITS)
    async def test_killed_processes_give_their_capacity_back_within_two_seconds_of_their_leases(
        self, store: Store, store_url: str | None
    ) -> None:
        queue: Queue[Any] = Queue("q", store)
        await queue.add_bulk([NewJob("work", n) for n in range(8)])
        options = json.dumps({"takes": 60, "active": 4, "concurrency": 2, "lease": "1s"})
        holders = started(store_url, "run_worker", [options] * 2)
        try:
            await asyncio.to_thread(self.hold, holders, 2)
            killed = time.monotonic()
            for process in holders:
                process.kill()
            runs = await self.runs(store_url, 1, takes=0, active=4)
        finally:
            for process in holders:
                process.kill()
                process.communicate()

        assert len(runs) == 8
        # The first of them already needs what the dead had held; starting its process took time, too.
        assert min(run[2] for run in runs) - killed <= 1 + 2

    def hold(self, processes: Sequence[subprocess.Popen[str]], each: int) -> None:
        """Return when each process runs so many jobs."""
        let_go(processes)
        for process in processes:
            assert process.stdout is not None
            for _ in range(each):
                assert process.stdout.readline().startswith("began ")

    @pytest.mark.chaos
    @needs(Feature.ACTIVE_LIMITS, Feature.GROUPS)
    async def test_limits_hold_while_processes_are_killed_and_started(
        self, store: Store, store_url: str | None
    ) -> None:
        """Looked at by the store itself, again and again; each generation is killed at work."""
        queue: Queue[Any] = Queue("q", store)
        await queue.add_bulk([NewJob("work", n, group="gh"[n % 2]) for n in range(300)])
        options = json.dumps({"takes": 0.03, "active": 6, "group": 4, "concurrency": 4, "lease": "1s"})
        most: Counter[str | None] = Counter()

        async def look() -> None:
            while True:
                held = frozenset({JobState.ACTIVE})
                counts = await store.count(Where(queue="q", states=held), by_group=True)
                found = {None: sum(counts.values()), **{group: one for (group, _), one in counts.items()}}
                for group, active in found.items():
                    most[group] = max(most[group], active)
                await asyncio.sleep(0.005)

        async def at_work(began: int) -> bool:
            assert not looking.done(), looking.exception()
            return await queue.count("completed") >= began + 60 or not await unfinished()

        async def unfinished() -> int:
            return await queue.count("waiting", "active")

        looking = asyncio.create_task(look())
        while await unfinished():
            processes = started(store_url, "run_worker", [options] * 3)
            try:
                await asyncio.to_thread(let_go, processes)
                # However long they take to begin: the machine may be busy.
                await until(partial(at_work, await queue.count("completed")))
            finally:
                for process in processes:
                    process.kill()
                    await asyncio.to_thread(process.communicate)
            await store.advance({"q"})
        looking.cancel()

        assert most[None] == 6
        assert max(most["g"], most["h"]) <= 4
        assert await queue.count("completed") > 200


class LimitBehaviour(ActiveLimits, RateLimits, LimitsOfProcesses):
    """Limits with workers."""
