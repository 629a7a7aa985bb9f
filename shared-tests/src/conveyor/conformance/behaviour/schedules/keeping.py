"""Schedules: changing, pausing and removing them, and what they survive."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from conveyor.conformance.behaviour.schedules.runs import HOUR, hours, made, planned
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Bench, nothing
from conveyor.conformance.kit.make import at, claim, failed, take_by_id
from conveyor.core import (
    Feature,
    JobState,
    RunAll,
    ScheduleNotFoundError,
    Store,
    StoreUnavailableError,
    Worker,
)
from conveyor.core._queue_names import schedules_of
from conveyor.core.store import JobRecord, Outcome, Where
from conveyor.core.testing import WrappedStore


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


async def garble(bench: Bench, key: str, report: str) -> None:
    """Write something else where a schedule is kept."""
    held = await take_by_id(bench.store, [key], queue=schedules_of("q"), now=None)
    await bench.store.settle([Outcome.snoozed(row, report, delay=timedelta(0)) for row in held])
