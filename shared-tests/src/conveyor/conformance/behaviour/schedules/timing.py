"""Schedules: when they run."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from conveyor.conformance.behaviour.schedules.runs import HOUR, hours, made, planned
from conveyor.conformance.kit.area import area, many_calls
from conveyor.conformance.kit.bench import Bench, Gate, Recorder, fail, nothing
from conveyor.conformance.kit.make import at
from conveyor.core import (
    JobState,
    RunAll,
)
from conveyor.core.schedules import Misfire


@area("schedules")
class Timing:
    """When the jobs of a schedule are made, and which."""

    async def test_the_first_job_of_every_is_made_one_interval_after_the_add(self, bench: Bench) -> None:
        schedule = await bench.queue.every("1 hour", "report", {"n": 1}, key="hourly")

        assert (schedule.next_run_at, schedule.last_run_at, schedule.runs) == (at(HOUR), None, 0)
        await hours(bench, 0, 0.999)
        assert await made(bench) == []

        recorder = Recorder()
        await hours(bench, 1, handler=recorder)

        [job] = await made(bench)
        assert (job.name, job.data, job.state) == ("report", {"n": 1}, JobState.COMPLETED)
        assert (job.schedule_key, job.scheduled_for) == ("hourly", at(HOUR))
        assert recorder.ids == [job.id]
        found = await bench.queue.get_schedule("hourly")
        assert found is not None
        assert (found.next_run_at, found.last_run_at, found.runs) == (at(2 * HOUR), at(HOUR), 1)

    async def test_every_keeps_to_its_anchor_however_late_it_is_looked_at(self, bench: Bench) -> None:
        """B8: upstream counted from the end of each run, and so drifted."""
        await bench.queue.every("1 hour", "report", key="hourly")

        await hours(bench, 1.1, 2.9, 3.01, 4)

        assert await planned(bench) == [HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR]

    async def test_every_counts_from_its_start_to_come_or_past(self, bench: Bench) -> None:
        soon = await bench.queue.every("1 hour", "report", key="soon", start=at(90))
        past = await bench.queue.every("1 hour", "report", key="past", start=at(90 - 100 * HOUR))

        assert soon.next_run_at == at(HOUR + 90)
        assert past.next_run_at == at(90)

    async def test_intervals_under_a_second_are_legal(self, bench: Bench) -> None:
        await bench.queue.every(0.25, "beat", key="beat", misfire=RunAll(10))

        await bench.later(1)
        await bench.run()

        assert await planned(bench) == [0.25, 0.5, 0.75, 1]

    async def test_cron_goes_by_the_wall_clock_of_its_zone(self, bench: Bench) -> None:
        # START is Monday, 2 March 2026, 09:00 UTC: 04:00 in New York, which changes its clock on the 8th.
        await bench.queue.cron("0 9 * * mon-fri", "daily", key="ny", tz="America/New_York")
        summer = datetime(2026, 3, 9, 13, tzinfo=UTC)

        await hours(bench, *range(5, 200, 24))

        found = [job.scheduled_for for job in await made(bench)]
        assert found[:2] == [at(5 * HOUR), at(29 * HOUR)]
        assert (len(found), found[5]) == (7, summer)

    async def test_a_cron_schedule_does_not_run_before_its_start(self, bench: Bench) -> None:
        at_start = await bench.queue.cron("0 * * * *", "x", key="a", start=at(5 * HOUR))
        later = await bench.queue.cron("@hourly", "x", key="b", start=at(5 * HOUR + 0.5))

        assert (at_start.next_run_at, later.next_run_at) == (at(5 * HOUR), at(6 * HOUR))

    async def test_it_ends_before_its_end_and_stays_known(self, bench: Bench) -> None:
        schedule = await bench.queue.every("1 hour", "report", key="hourly", end=at(3 * HOUR))

        await hours(bench, 1, 2, 3, 4)

        assert await planned(bench) == [HOUR, 2 * HOUR]
        found = await bench.queue.get_schedule("hourly")
        assert found is not None
        assert (found.next_run_at, found.end, found.runs) == (None, schedule.end, 2)
        gone = await bench.queue.every("1 hour", "report", key="too late", end=at(1))
        assert gone.next_run_at is None

    async def test_a_limit_is_the_number_of_runs(self, bench: Bench) -> None:
        """B8: upstream ran one more."""
        await bench.queue.every("1 hour", "report", key="hourly", limit=3)

        await hours(bench, 1, 2, 3, 4, 5)

        assert await planned(bench) == [HOUR, 2 * HOUR, 3 * HOUR]
        again = await bench.queue.every("1 hour", "report", key="hourly", limit=3)
        assert (again.next_run_at, again.runs) == (None, 3)

    async def test_jitter_delays_each_job_by_a_random_time_and_moves_no_other(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "report", key="hourly", jitter="10 minutes")
        waits = []

        for hour in range(1, 6):
            await hours(bench, hour)
            job = (await made(bench))[-1]
            assert (job.state, job.scheduled_for) == (JobState.DELAYED, at(hour * HOUR))
            assert job.delay_until is not None
            waits.append((job.delay_until - at(hour * HOUR)).total_seconds())

        assert all(0 <= wait <= 600 for wait in waits)
        assert len(set(waits)) == 5

    @pytest.mark.parametrize(
        ("misfire", "expected"),
        [
            ("run_once", [3]),
            ("skip", [3]),
            (RunAll(2), [2, 3]),
            (RunAll(100), [1, 2, 3]),
        ],
        ids=["run_once", "skip", "run_all 2", "run_all"],
    )
    async def test_what_becomes_of_runs_that_no_worker_was_there_for(
        self, bench: Bench, misfire: Misfire, expected: list[int]
    ) -> None:
        """F6: three hours down."""
        await bench.queue.every("1 hour", "a", key="every", misfire=misfire)
        await bench.queue.cron("@hourly", "b", key="cron", misfire=misfire, tz="Europe/Paris")

        await hours(bench, 3.5, 4)

        each = [hour * HOUR for hour in [*expected, 4]]
        assert sorted(await planned(bench)) == sorted([*each, *each])

    async def test_skip_leaves_out_a_run_that_its_own_rhythm_has_overtaken(self, bench: Bench) -> None:
        for misfire in ("run_once", "skip"):
            await bench.queue.every("1 hour", misfire, key=misfire, end=at(2.5 * HOUR), misfire=misfire)

        await hours(bench, 9)

        assert [(job.name, job.scheduled_for) for job in await made(bench)] == [("run_once", at(2 * HOUR))]

    async def test_missed_runs_do_not_exceed_the_limit(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "report", key="hourly", limit=3, misfire=RunAll(10))

        await hours(bench, 1, 6.5, 7)

        assert await planned(bench) == [HOUR, 5 * HOUR, 6 * HOUR]

    async def test_overlap_skip_makes_no_job_while_the_one_before_is_unfinished(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "slow", key="slow", overlap="skip", misfire=RunAll(5))
        gate = Gate()
        await bench.later(HOUR)
        running = asyncio.create_task(bench.run(gate, lock_duration="1 day"))
        await gate.until_begun()

        await bench.later(3 * HOUR)  # 2, 3 and 4: it runs on; its lease is nobody's business here
        await bench.run({"none of these": nothing})
        assert await planned(bench) == [HOUR]

        gate.opened.set()
        await running
        await hours(bench, 5)
        assert await planned(bench) == [HOUR, 5 * HOUR]

    async def test_overlap_allow_makes_each_job(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "slow", key="slow")
        for _ in range(3):
            await bench.later(HOUR)
            await bench.run({"none of these": nothing})

        assert await planned(bench) == [HOUR, 2 * HOUR, 3 * HOUR]
        assert {job.state for job in await made(bench)} == {JobState.WAITING}

    @many_calls
    async def test_a_failing_job_never_ends_its_schedule(self, bench: Bench) -> None:
        """F5: all runs fail for an hour; sixty ticks."""
        await bench.queue.every("1 minute", "report", key="every")

        for _ in range(60):
            await bench.later(60)
            await bench.run(fail)

        assert len(await made(bench)) == 60
        assert {job.state for job in await made(bench)} == {JobState.FAILED}
