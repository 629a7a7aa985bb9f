"""Schedules: `every` and `cron` on the store, with a clock that is turned by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from conveyor.conformance.concurrency.schedule_races import SchedulesUnderFire
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Bench, Gate, Recorder, fail, nothing
from conveyor.conformance.kit.make import START, at, claim, failed
from conveyor.core import (
    Deduplication,
    Feature,
    Group,
    Job,
    JobState,
    RunAll,
    ScheduleNotFoundError,
    Store,
    StoreUnavailableError,
    Worker,
)
from conveyor.core._queue_names import schedules_of
from conveyor.core._schedules.definition import Misfire
from conveyor.core.store import JobRecord, Outcome, Where
from conveyor.core.testing import WrappedStore

HOUR = 3_600


async def made(bench: Bench) -> list[Job[Any]]:
    """The queue's jobs that schedules have made, as they were made."""
    return [job for job in await bench.queue.get_jobs(limit=1_000) if job.schedule_key is not None]


async def planned(bench: Bench) -> list[float]:
    """What they were planned for, in seconds since the test began."""
    return [(job.scheduled_for - START).total_seconds() for job in await made(bench) if job.scheduled_for]


async def hours(bench: Bench, *until: float, handler: Any = nothing) -> None:
    """Let a worker run at these hours after the test began, and never in between."""
    for hour in until:
        await bench.later(START + timedelta(hours=hour) - bench.clock.now())
        await bench.run(handler)


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
        running = asyncio.create_task(bench.run(gate))
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

    async def test_a_failing_job_never_ends_its_schedule(self, bench: Bench) -> None:
        """F5: all runs fail for an hour; sixty ticks."""
        await bench.queue.every("1 minute", "report", key="every")

        for _ in range(60):
            await bench.later(60)
            await bench.run(fail)

        assert len(await made(bench)) == 60
        assert {job.state for job in await made(bench)} == {JobState.FAILED}


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


@area("schedules")
class Keeping:
    """Making a schedule again, changing it, and looking after it."""

    async def test_a_schedule_that_is_made_again_is_the_same_one(self, bench: Bench) -> None:
        """B8: a redeploy made a second chain. The anchor, the count and the next time are kept."""
        for _ in range(3):
            await bench.queue.every("1 hour", "x", {"a": [1, None]}, key="x", limit=10, jitter=5, attempts=2)
            await bench.later(600)
        await hours(bench, 1)

        again = await bench.queue.every("1h", "x", {"a": [1, None]}, key="x", limit=10, jitter=5, attempts=2)

        assert (again.next_run_at, again.runs) == (at(2 * HOUR), 1)
        assert await bench.queue.get_schedules() == [again]

    async def test_another_interval_counts_from_now(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "x", key="x")
        await hours(bench, 1, 1.5)

        changed = await bench.queue.every("20 minutes", "x", key="x")

        assert (changed.next_run_at, changed.runs) == (at(1.5 * HOUR + 1_200), 1)
        await bench.later(1_200)
        await bench.run()
        assert await planned(bench) == [HOUR, 1.5 * HOUR + 1_200]

    async def test_other_data_and_options_keep_the_times(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "x", 1, key="x")
        await bench.later(600)

        changed = await bench.queue.every("1 hour", "y", 2, key="x", priority=3)
        await hours(bench, 1)

        assert changed.next_run_at == at(HOUR)
        assert [(job.name, job.data, job.priority) for job in await made(bench)] == [("y", 2, 3)]

    async def test_every_becomes_cron_under_its_key(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "x", key="x")

        changed = await bench.queue.cron("30 * * * *", "x", key="x")

        assert (changed.every, changed.cron, changed.next_run_at) == (None, "30 * * * *", at(1_800))
        assert len(await bench.queue.get_schedules()) == 1

    async def test_a_greater_limit_or_a_later_end_brings_it_back(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "x", key="x", limit=1)
        await hours(bench, 1, 3.5)

        more = await bench.queue.every("1 hour", "x", key="x", limit=2)
        ended = await bench.queue.every("1 hour", "x", key="x", limit=2, end=at(4 * HOUR))
        later = await bench.queue.every("1 hour", "x", key="x", limit=2, end=at(5 * HOUR))

        assert [one.next_run_at for one in (more, ended, later)] == [at(4 * HOUR), None, at(4 * HOUR)]
        await hours(bench, 4, 5)
        assert await planned(bench) == [HOUR, 4 * HOUR]

    async def test_schedules_are_listed_as_they_were_made(self, bench: Bench) -> None:
        for key in ("b", "a", "ünï code:/'\"%"):
            await bench.queue.every("1 hour", "x", key=key)
        await bench.another_queue("other").every("1 hour", "x", key="elsewhere")

        assert [one.key for one in await bench.queue.get_schedules()] == ["b", "a", "ünï code:/'\"%"]
        assert await bench.queue.get_schedule("elsewhere") is None
        assert await bench.queue.count() == 0

    async def test_a_paused_schedule_makes_no_jobs_and_none_to_catch_up(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "x", key="x", misfire=RunAll(100))
        paused = await bench.queue.pause_schedule("x")
        assert (paused.paused, paused.next_run_at) == (True, None)

        await hours(bench, 1, 2, 3.5)
        assert await made(bench) == []
        assert await bench.queue.pause_schedule("x") == paused
        resumed = await bench.queue.resume_schedule("x")

        assert (resumed.paused, resumed.next_run_at) == (False, at(4 * HOUR))
        assert await bench.queue.resume_schedule("x") == resumed
        await hours(bench, 4)
        assert await planned(bench) == [4 * HOUR]

    async def test_a_redeploy_leaves_a_paused_schedule_paused(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "x", key="x")
        await bench.queue.pause_schedule("x")

        again = await bench.queue.every("30 minutes", "x", key="x")

        assert (again.paused, again.next_run_at) == (True, None)
        assert (await bench.queue.resume_schedule("x")).next_run_at == at(1_800)

    async def test_a_trigger_makes_a_job_now_and_moves_nothing(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "x", 5, key="x", limit=1, delay="1 minute", jitter="1 minute")
        await bench.queue.pause_schedule("x")
        await bench.later(600)

        job = await bench.queue.trigger_schedule("x")
        await bench.queue.trigger_schedule("x")

        assert (job.state, job.data, job.scheduled_for) == (JobState.WAITING, 5, at(600))
        assert (job.schedule_key, job.deduplicated) == ("x", False)
        found = await bench.queue.resume_schedule("x")
        assert (found.next_run_at, found.last_run_at, found.runs) == (at(HOUR), at(600), 0)
        await hours(bench, 1)
        assert await planned(bench) == [600, 600, HOUR]

    async def test_overlap_looks_at_triggered_jobs_too(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "x", key="x", overlap="skip")
        await bench.queue.trigger_schedule("x")

        await bench.later(HOUR)
        await bench.run({"none of these": nothing})

        assert await planned(bench) == [0]

    async def test_a_schedule_whose_jobs_cannot_be_looked_at_fires_when_they_can(self, bench: Bench) -> None:
        class Away(WrappedStore):
            times = 1

            async def find(self, where: Where, **how: Any) -> Sequence[JobRecord]:
                if where.ids is not None and self.times:
                    self.times -= 1
                    raise StoreUnavailableError("away")
                return await super().find(where, **how)

        await bench.queue.every("1 hour", "x", key="x", overlap="skip")
        await hours(bench, 1)
        await bench.later("1 hour")
        worker: Worker[Any] = Worker("q", nothing, Away(bench.store), clock=bench.clock)

        with pytest.raises(StoreUnavailableError):
            await worker.run_until_idle()
        await worker.run_until_idle()

        assert await planned(bench) == [HOUR, 2 * HOUR]

    async def test_a_removed_schedule_makes_no_more_jobs(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "x", key="x")
        await hours(bench, 1)

        assert await bench.queue.remove_schedule("x") is True
        assert await bench.queue.remove_schedule("x") is False
        await hours(bench, 2, 3)

        assert await planned(bench) == [HOUR]
        assert await bench.queue.get_schedules() == []

    async def test_what_is_not_there_cannot_be_paused_resumed_or_triggered(self, bench: Bench) -> None:
        for call in (bench.queue.pause_schedule, bench.queue.resume_schedule, bench.queue.trigger_schedule):
            with pytest.raises(ScheduleNotFoundError, match="'x' in queue 'q'"):
                await call("x")
        assert await bench.queue.get_schedule("x") is None

    async def test_obliterate_removes_the_schedules_and_drain_does_not(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "x", key="x")

        await bench.queue.drain()
        assert len(await bench.queue.get_schedules()) == 1
        await bench.queue.obliterate()

        assert await bench.queue.get_schedules() == []
        assert await bench.store.count(Where(queue=schedules_of("q"))) == {}

    @needs(Feature.DURABLE)
    async def test_a_schedule_survives_the_store_being_closed(self, bench: Bench, store: Store) -> None:
        """F8: dates and options are the same after storage."""
        await bench.queue.cron("@daily", "x", {"a": 1}, key="c", tz="Asia/Tokyo", start=at(1), end=at(9e6))
        await bench.queue.every(
            "90 minutes",
            "x",
            key="e",
            limit=9,
            jitter="1s",
            misfire=RunAll(2),
            overlap="skip",
            backoff=[1, 2],
        )
        await hours(bench, 1.5, 1.6)
        before = await bench.queue.get_schedules()

        await store.close()
        await store.open()

        assert await bench.queue.get_schedules() == before
        await hours(bench, 3)
        assert await planned(bench) == [1.5 * HOUR, 3 * HOUR]

    async def test_a_schedule_that_cannot_be_read_stops_no_other(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        await bench.queue.every("1 hour", "x", key="bad")
        await bench.queue.every("1 hour", "x", key="good")
        await garble(bench, "bad", '{"from": "a later release"}')

        await hours(bench, 1, 2)

        assert [job.schedule_key for job in await made(bench)] == ["good", "good"]
        assert sum("'bad' cannot be read here" in line for line in caplog.messages) == 2, (
            "once for each worker"
        )
        assert [one.key for one in await bench.queue.get_schedules()] == ["good"]
        with pytest.raises(ScheduleNotFoundError):
            await bench.queue.trigger_schedule("bad")

    async def test_every_mends_a_schedule_that_cannot_be_read(self, bench: Bench) -> None:
        await bench.queue.every("1 hour", "x", key="bad")
        await garble(bench, "bad", '{"key": 5}')

        mended = await bench.queue.every("1 hour", "x", key="bad")
        await hours(bench, 1)

        assert mended.next_run_at == at(HOUR)
        assert await planned(bench) == [HOUR]

    async def test_every_replaces_a_schedule_whose_row_has_failed(self, bench: Bench) -> None:
        rows = Where(queue=schedules_of("q"))
        await bench.queue.every("1 hour", "x", key="bad")
        [row] = (await bench.store.claim(claim(queue=rows.queue or ""))).jobs
        await bench.store.settle([failed(row)])

        await bench.queue.every("1 hour", "x", key="bad")
        await hours(bench, 1)

        assert await planned(bench) == [HOUR]
        assert await bench.store.count(rows) == {(rows.queue, JobState.DELAYED): 1}

    async def test_a_zone_that_this_host_does_not_know_stops_no_other_schedule(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        await bench.queue.cron("@hourly", "x", key="bad", tz="Europe/Paris")
        await bench.queue.every("1 hour", "x", key="good")
        [row, _] = await bench.store.find(Where(queue=schedules_of("q")), limit=2)
        await garble(bench, "bad", row.report.replace("Europe/Paris", "Mars/Olympus"))

        await hours(bench, 1)

        assert [job.schedule_key for job in await made(bench)] == ["good"]
        assert any("Mars/Olympus" in line for line in caplog.messages)


class Schedules(Timing, Options, Keeping, SchedulesUnderFire):
    """Schedules."""


async def garble(bench: Bench, key: str, report: str) -> None:
    """Write something else where a schedule is kept."""
    held = (await bench.store.claim(claim(queue=schedules_of("q"), ids=frozenset({key})))).jobs
    await bench.store.settle([Outcome.snoozed(row, report, delay=timedelta(0)) for row in held])
