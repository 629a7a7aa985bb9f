"""Queue behaviour: one job for one key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import Bench
from conveyor.conformance.kit.make import at
from conveyor.core import (
    Deduplication,
    Feature,
    InvalidJobStateError,
    JobState,
    NewJob,
    Queue,
    Store,
)


@area("queue behaviour", Feature.UNIQUE_KEYS)
class Deduplicating:
    """`deduplication=`."""

    async def test_without_a_time_a_key_is_held_until_the_job_has_finished(self, bench: Bench) -> None:
        once = Deduplication("report")
        first = await bench.queue.add("work", 1, deduplication=once)
        second = await bench.queue.add("work", 2, deduplication=once)
        assert (second.id, second.deduplicated, second.data) == (first.id, True, 1)

        await bench.run()

        third = await bench.queue.add("work", 3, deduplication=once)
        assert (third.deduplicated, third.data) == (False, 3)

    async def test_with_a_time_a_key_is_held_for_exactly_that_long_finished_or_not(
        self, bench: Bench
    ) -> None:
        once = Deduplication("report", ttl="1 hour")
        first = await bench.queue.add("work", deduplication=once, remove_on_complete=True)
        await bench.run()
        assert await bench.queue.get_job(first.id) is not None

        await bench.later("3599.999s")
        assert (await bench.queue.add("work", deduplication=once)).id == first.id

        await bench.later("1ms")
        assert (await bench.queue.add("work", deduplication=once)).id != first.id

    async def test_the_same_payload_under_another_name_is_another_job(self, bench: Bench) -> None:
        """B16: upstream's key of a payload left the name out."""
        same = Deduplication.by_payload()
        first = await bench.queue.add("work", {"a": 1, "b": [2]}, deduplication=same)

        again = await bench.queue.add("work", {"b": [2], "a": 1}, deduplication=same)
        other = await bench.queue.add("other", {"a": 1, "b": [2]}, deduplication=same)

        assert (again.id, again.deduplicated) == (first.id, True)
        assert not other.deduplicated

    async def test_replace_gives_the_waiting_job_the_new_data_and_delay(self, bench: Bench) -> None:
        mode = Deduplication("report", mode="replace")
        first = await bench.queue.add("work", 1, delay="10s", deduplication=mode)
        await bench.later("5s")

        second = await bench.queue.add("work", 2, delay="10s", deduplication=mode)

        assert (second.id, second.data, second.delay_until) == (first.id, 2, at(15))

    async def test_many_adds_of_one_key_at_once_make_one_job(self, handles: tuple[Store, Store]) -> None:
        """B16: upstream looked the key up first."""
        queues: list[Queue[Any]] = [Queue("q", store) for store in handles] * 5
        once = Deduplication("report", ttl="1h")

        jobs = await asyncio.gather(*(queue.add("work", deduplication=once) for queue in queues))

        assert len({job.id for job in jobs}) == 1
        assert sorted(job.deduplicated for job in jobs) == [False] + [True] * 9

    async def test_a_bulk_is_deduplicated_like_single_adds(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk(
            [NewJob("work", n, deduplication=Deduplication("k")) for n in (1, 2)]
        )

        assert jobs[0].id == jobs[1].id
        assert await bench.queue.count() == 1

    async def test_a_finished_job_whose_key_another_holds_cannot_be_retried(self, bench: Bench) -> None:
        once = Deduplication("report")
        first = await bench.queue.add("work", deduplication=once)
        await bench.run()
        second = await bench.queue.add("work", deduplication=once)

        with pytest.raises(InvalidJobStateError, match=second.id):
            await first.retry()

        assert await bench.queue.retry_jobs("completed") == 0
        assert await bench.state(first) is JobState.COMPLETED
