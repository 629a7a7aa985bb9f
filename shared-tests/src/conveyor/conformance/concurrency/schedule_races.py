"""Schedules under fire: many workers at once, killed at any call, while others change what they fire."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import pytest

from conveyor.conformance.concurrency.races.together import Handles, at_once, turns
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import Bench, nothing, until
from conveyor.conformance.kit.make import at, everything
from conveyor.conformance.kit.processes import in_processes
from conveyor.core import Feature, Queue, RunAll, ScheduleNotFoundError, Store, StoreUnavailableError, Worker
from conveyor.core._jobs.short_leases import MOMENT
from conveyor.core._queue_names import schedules_of
from conveyor.core.store import Where
from conveyor.core.testing import ClockedStore, FaultyStore, ManualClock

#: What a worker calls to fire a schedule, in this order.
CALLS: Final = ("find", "advance", "claim", "settle")


class KilledError(BaseException):
    """What ends a worker here: nothing of it runs on."""


async def look(store: Store, clock: ManualClock) -> None:
    """One look of one worker at the schedules of the queue."""
    await Worker("q", nothing, store, clock=clock)._parts.scheduler.tick()  # noqa: SLF001 - the part under test


async def planned(store: Store) -> Counter[str]:
    """How many jobs were made for each planned time, whatever became of them."""
    ids = [record.id for record in await everything(store)]
    return Counter(id.rpartition("T")[2] for id in ids)


@area("schedules")
class Crashes:
    """One tick makes one job, whoever dies."""

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("method", CALLS)
    async def test_a_worker_killed_at_any_call_neither_loses_nor_repeats_a_run(
        self, bench: Bench, method: str, moment: str
    ) -> None:
        await bench.queue.every("1 minute", "x", key="x", misfire=RunAll(100))
        faulty = FaultyStore(bench.store)
        wanted = []

        for minute in range(1, 6):
            wanted.append(f"09:{minute:02}:00Z")
            await bench.later(at(60 * minute) - bench.clock.now())
            faulty.fail(method, KilledError(), after=moment == "after")
            with pytest.raises(KilledError):
                await look(faulty, bench.clock)
            await bench.later(MOMENT)
            await look(bench.store, bench.clock)

            assert await planned(bench.store) == Counter(wanted)

    async def test_an_outcome_that_could_not_be_written_is_written_later(self, bench: Bench) -> None:
        await bench.queue.every("1 minute", "x", key="x")
        faulty = FaultyStore(bench.store)
        worker = Worker("q", nothing, faulty, clock=bench.clock)
        scheduler = worker._parts.scheduler  # noqa: SLF001 - the part under test
        await bench.later(60)

        for done in (False, True, False):
            faulty.fail("settle", StoreUnavailableError("gone"), after=done)
            with pytest.raises(StoreUnavailableError):
                await scheduler.tick()
        await scheduler.tick()

        assert await planned(bench.store) == Counter(["09:01:00Z"])

    async def test_a_call_that_changes_a_schedule_and_dies_leaves_it_whole(self, bench: Bench) -> None:
        for method in ("take", "settle"):
            for done in (False, True):
                await bench.queue.every("1 minute", "x", key="x")
                faulty = FaultyStore(bench.store)
                faulty.fail(method, StoreUnavailableError("gone"), after=done)
                queue = Queue[Any]("q", faulty, clock=bench.clock)

                with pytest.raises(StoreUnavailableError):
                    await queue.every("1 hour", "x", key="x")
                await bench.later(MOMENT)
                again = await bench.queue.every("1 hour", "x", key="x")

                assert again.every == timedelta(hours=1)
                assert len(await bench.queue.get_schedules()) == 1

    async def test_a_change_whose_caller_is_cancelled_leaves_nothing_held(self, bench: Bench) -> None:
        await bench.queue.every("1 minute", "x", key="x")
        for waits in range(12):
            change = asyncio.create_task(bench.queue.every(f"{waits + 2} minutes", "x", key="x"))
            for _ in range(waits):
                await asyncio.sleep(0)
            change.cancel()
            await asyncio.wait([change])

            paused = await bench.queue.pause_schedule("x")

            assert paused.paused
            assert len(await bench.queue.get_schedules()) == 1


@area("schedules")
class Together:
    """Workers at once, on two handles where the store has them."""

    async def test_many_workers_make_one_job_for_each_run(self, handles: Handles) -> None:
        clock = ManualClock(at(0))
        workers = [ClockedStore(store, clock) for store in turns(handles, 6)]
        queue = Queue[Any]("q", workers[0], clock=clock)
        for n in range(5):
            await queue.every("1 minute", "x", key=f"key-{n}")

        for minute in range(1, 6):
            await clock.advance(60)
            await at_once([look(store, clock) for store in workers])

            assert await planned(handles[0]) == Counter({f"09:{m:02}:00Z": 5 for m in range(1, minute + 1)})

    async def test_workers_that_die_at_random_make_one_job_for_each_run(self, handles: Handles) -> None:
        rng = random.Random(4)
        clock = ManualClock(at(0))
        workers = [FaultyStore(ClockedStore(store, clock)) for store in turns(handles, 4)]
        queue = Queue[Any]("q", ClockedStore(handles[0], clock), clock=clock)
        await queue.every("5 s", "x", key="x", misfire=RunAll(1_000))

        for _ in range(60):
            await clock.advance(5)
            for worker in workers:
                if rng.random() < 0.5:
                    worker.fail(rng.choice(CALLS), StoreUnavailableError("gone"), after=rng.random() < 0.5)
            await asyncio.gather(*(look(worker, clock) for worker in workers), return_exceptions=True)
        await clock.advance(MOMENT)
        await look(ClockedStore(handles[0], clock), clock)

        wanted = [f"09:{m:02}:{s:02}Z" for m in range(6) for s in range(0, 60, 5)]
        end = f"09:{(clock.now() - at(0)).seconds // 60:02}:{clock.now().second:02}Z"
        assert await planned(handles[0]) == Counter([one for one in wanted if "09:00:00Z" < one <= end])

    async def test_redeploys_at_once_make_one_schedule(self, handles: Handles) -> None:
        clock = ManualClock(at(0))
        queues = [Queue[Any]("q", ClockedStore(store, clock), clock=clock) for store in turns(handles, 8)]

        for n in range(5):
            made = await at_once([queue.every("1 minute", "x", n, key="x") for queue in queues])

            assert len({one.next_run_at for one in made}) == 1
            assert await queues[0].get_schedules() == [made[0]]

    async def test_changes_at_once_with_firing_workers_lose_nothing(self, handles: Handles) -> None:
        """Upserts, pauses, triggers and workers on one schedule: no run twice, no change lost, one row."""
        clock = ManualClock(at(0))
        stores = [ClockedStore(store, clock) for store in turns(handles, 6)]
        queues = [Queue[Any]("q", store, clock=clock) for store in stores]
        await queues[0].every("1 minute", "x", 0, key="x")

        for minute in range(1, 11):
            await clock.advance(60)
            await at_once(
                [
                    look(stores[0], clock),
                    queues[1].every("1 minute", "x", minute, key="x"),
                    look(stores[2], clock),
                    queues[3].trigger_schedule("x"),
                    look(stores[4], clock),
                    queues[5].pause_schedule("x"),
                ]
            )
            found = await queues[0].get_schedules()
            assert [(one.key, one.data, one.paused) for one in found] == [("x", minute, True)]
            await queues[0].resume_schedule("x")

        ids = [record.id for record in await everything(handles[0])]
        assert len([id for id in ids if not id.startswith("schedule:")]) == 10, "one for each trigger"
        assert max((await planned(handles[0])).values()) == 1

    async def test_a_schedule_removed_while_it_is_fired_is_gone(self, handles: Handles) -> None:
        clock = ManualClock(at(0))
        stores = [ClockedStore(store, clock) for store in turns(handles, 4)]
        queues = [Queue[Any]("q", store, clock=clock) for store in stores]

        for n in range(20):
            await queues[0].every("1 minute", "x", key="x")
            await clock.advance(60)
            _, removed, _, outcome = await asyncio.gather(
                look(stores[0], clock),
                queues[1].remove_schedule("x"),
                look(stores[2], clock),
                queues[3].pause_schedule("x"),
                return_exceptions=True,
            )

            assert removed is True
            assert not isinstance(outcome, Exception) or isinstance(outcome, ScheduleNotFoundError)
            assert await queues[0].get_schedules() == []
            fired = len(await everything(handles[0]))
            await clock.advance(60)
            await look(stores[0], clock)
            assert len(await everything(handles[0])) == fired <= n + 1

    async def test_a_remove_and_a_redeploy_at_once_leave_one_or_none(self, handles: Handles) -> None:
        clock = ManualClock(at(0))
        queues = [Queue[Any]("q", ClockedStore(s, clock), clock=clock) for s in turns(handles, 4)]
        for n in range(10):
            await queues[0].every("1 minute", "x", n, key="x")

            await at_once(
                [
                    queues[0].every("2 minutes", "x", n, key="x"),
                    queues[1].remove_schedule("x"),
                    queues[2].every("2 minutes", "x", n, key="x"),
                    queues[3].remove_schedule("x"),
                ]
            )

            found = await queues[0].get_schedules()
            assert [(one.every, one.data) for one in found] in ([], [(timedelta(minutes=2), n)])
            rows = await handles[0].count(Where(queue=schedules_of("q")), now=clock.now())
            assert sum(rows.values()) == len(found)

    async def test_a_running_worker_fires_a_schedule_that_is_added_later(self, store: Store) -> None:
        """In real time: a worker that idles receives its event, sleeps until it is due, and no longer."""
        queue = Queue[Any]("q", store)
        async with Worker("q", nothing, store, poll_interval="30 s", maintenance_interval="30 s"):
            await asyncio.sleep(0.01)
            await queue.every("50 ms", "x", key="x", limit=3)

            async def ended() -> bool:
                return await queue.count("completed") == 3

            await until(ended)
        jobs = await queue.get_jobs()
        gaps = [
            (one.created_at - one.scheduled_for).total_seconds()
            for one in jobs
            if one.scheduled_for is not None
        ]
        assert all(gap >= 0 for gap in gaps)
        assert sorted(gaps)[1] < 1, "not at the next poll, but when it was due"


@area("schedules", Feature.MULTI_PROCESS)
class Apart:
    """Workers in several processes."""

    async def test_processes_make_one_job_for_each_run(self, store: Store, store_url: str | None) -> None:
        await in_processes(store_url, "fire_schedules")

        assert await planned(store) == Counter([f"09:00:{second:02}Z" for second in range(1, 31)])

    async def test_processes_that_are_killed_leave_no_run_out(
        self, store: Store, store_url: str | None
    ) -> None:
        queue = Queue[Any]("q", store)
        await queue.every("100 ms", "x", key="x", misfire=RunAll(1_000))

        await in_processes(store_url, "fire_and_die", count=4)

        clock = ManualClock(datetime.now(UTC))
        await clock.advance("20 s")  # whoever died holding it has lost it by now, however late that began
        await look(ClockedStore(store, clock), clock)
        times = sorted(job.scheduled_for for job in await queue.get_jobs(limit=10_000) if job.scheduled_for)
        assert len(times) > 20
        assert {second - first for first, second in pairwise(times)} == {timedelta(milliseconds=100)}


class SchedulesUnderFire(Crashes, Together, Apart):
    """Schedules, with many who fire and change them."""
