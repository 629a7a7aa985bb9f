"""Queue behaviour: adding jobs, one by one and in bulk."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import Bench, Gate, Recorder
from conveyor.conformance.kit.make import at
from conveyor.core import (
    Backoff,
    JobState,
    NewJob,
    PayloadError,
)

#: What JSON can say, and stores have been known to change.
DATA: list[Any] = [
    None,
    True,
    0,
    -1.5,
    "",
    "ok",
    "123",
    "null",
    '{"a": 1}',
    [],
    {},
    [None, [None, {"": None}]],
    {"é": "naïve 群 🐝", "nested": {"list": [1, 2.5, "x", False]}},
    2**31,
    2**63,
    10**30,
    0.1,
    1e-300,
    {"__all__": "'; drop table jobs; --"},
    "line\nbreak\ttab \u2028 \x7f",
]


@area("queue behaviour")
class Adding:
    """`add`, `add_bulk`, `schedule` and `now`."""

    async def test_data_and_results_come_back_equal(self, bench: Bench) -> None:
        for data in DATA:
            job = await bench.queue.add("work", data)
            recorder = Recorder(result=data)

            await bench.run(recorder)

            assert recorder.data == [data]
            assert [type(one) for one in recorder.data] == [type(data)]
            found = await bench.queue.get_job(job.id)
            assert found is not None
            assert (found.data, found.return_value) == (data, data)

    async def test_what_add_returns_is_what_is_stored(self, bench: Bench) -> None:
        job = await bench.queue.add(
            "work", {"n": 1}, priority=3, delay="5 minutes", attempts=4, backoff="exponential", timeout="30s"
        )

        found = await bench.queue.get_job(job.id)

        assert found is not None
        assert found.to_dict() == job.to_dict()
        assert (found.name, found.priority, found.state) == ("work", 3, JobState.DELAYED)
        assert found.delay_until == at(300)
        assert found.options.attempts == 4

    async def test_bad_data_is_refused_and_nothing_is_stored(self, bench: Bench) -> None:
        for data in (float("nan"), {"a": 1j}, "\x00", "\ud800", object()):
            with pytest.raises(PayloadError):
                await bench.queue.add_bulk([NewJob("work", 1), NewJob("work", data)])

        assert await bench.queue.count() == 0

    async def test_a_bulk_is_added_in_order_and_read_in_order(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work", n) for n in range(50)])

        recorder = Recorder()
        await bench.run(recorder)

        assert [job.data for job in jobs] == list(range(50))
        assert recorder.data == list(range(50))

    async def test_a_bulk_with_duplicates_returns_a_job_for_each(self, bench: Bench) -> None:
        """B20: the list of results never shrinks, and is in the order of the call."""
        await bench.queue.add("work", "old", job_id="b")

        jobs = await bench.queue.add_bulk([NewJob("work", n, job_id=n) for n in "abca"])

        assert [job.id for job in jobs] == ["a", "b", "c", "a"]
        assert [job.deduplicated for job in jobs] == [False, True, False, True]
        assert jobs[1].data == "old"

    async def test_a_job_is_scheduled_in_words_or_for_an_instant(self, bench: Bench) -> None:
        words = await bench.queue.schedule("in 10 minutes", "work")
        instant = await bench.queue.schedule(at(60), "work")
        assert (words.delay_until, instant.delay_until) == (at(600), at(60))

        recorder = Recorder()
        await bench.later("59.999s")
        await bench.run(recorder)
        assert recorder.ids == []

        await bench.later("1ms")
        await bench.run(recorder)
        assert recorder.ids == [instant.id]

    async def test_now_passes_over_a_default_delay(self, bench: Bench) -> None:
        queue = bench.another_queue("q", default_job_options={"delay": "1h"})

        assert (await queue.add("work")).state is JobState.DELAYED
        assert (await queue.now("work")).state is JobState.WAITING

    async def test_an_id_that_exists_returns_that_job_unchanged_whatever_its_state(
        self, bench: Bench
    ) -> None:
        """B16: upstream overwrote the job, even while it ran."""
        gate = Gate()
        first = await bench.queue.add("work", 1, job_id="order-42")
        running = asyncio.create_task(bench.run(gate))
        await gate.until_begun()

        while_active = await bench.queue.add("other", 2, job_id="order-42", priority=9)
        gate.opened.set()
        await running
        when_done = await bench.queue.add("other", 3, job_id="order-42")

        assert (first.deduplicated, while_active.deduplicated, when_done.deduplicated) == (False, True, True)
        assert (while_active.data, while_active.name, while_active.state) == (1, "work", JobState.ACTIVE)
        assert (when_done.data, when_done.state) == (1, JobState.COMPLETED)
        assert gate.runs == 1

    async def test_options_are_stored_and_come_back(self, bench: Bench) -> None:
        """B9: what is stored of a backoff works in every store."""
        for backoff in (
            Backoff("exponential", "2s", max_delay="1m", jitter=0.5),
            Backoff(["1s", "1h30m"]),
            Backoff("mine", "3s"),
        ):
            job = await bench.queue.add("work", attempts=3, backoff=backoff, remove_on_fail="7 days")
            found = await bench.queue.get_job(job.id)
            assert found is not None
            assert found.options == job.options
            assert found.options.backoff == backoff
