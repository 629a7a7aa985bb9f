"""Limits and ageing, with a worker that runs by a clock turned by hand; and what is refused."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from conveyor.core import InvalidOptionError, Job, NewJob, Queue, RateLimit, Worker
from conveyor.core._jobs.ids import new_token
from conveyor.core.store import Claim, Store
from conveyor.core.testing import ManualClock

Make = Callable[..., Worker[Any]]


async def test_the_capacity_of_dead_workers_is_used_again_within_two_seconds_of_their_leases(
    queue: Queue[Any], store: Store, clock: ManualClock, worker: Make
) -> None:
    await queue.add_bulk([NewJob("work", n) for n in range(8)])
    lease = timedelta(seconds=30)
    dead = Claim(queue="q", count=2, token=new_token(), lease=lease, worker="dead")
    await store.claim(dead)
    ran: list[Any] = []

    async def handler(job: Job[Any]) -> None:
        ran.append(job.data)

    async with worker(handler, concurrency=4, max_global_concurrency=2):
        await clock.advance(29)
        assert ran == []
        await clock.advance(1)
        await clock.advance(2)

    assert sorted(ran) == list(range(8))


async def test_a_rate_is_used_as_its_window_moves_on(
    queue: Queue[Any], clock: ManualClock, worker: Make
) -> None:
    await queue.add_bulk([NewJob("work", n) for n in range(9)])
    ran: list[float] = []

    async def handler(_: Job[Any]) -> None:
        ran.append(clock.monotonic())

    begin = clock.monotonic()
    async with worker(handler, limiter=RateLimit(3, per="10s"), poll_interval="1h", stalled_interval="1h"):
        for _ in range(45):
            await clock.advance("500ms")

    assert [round(when - begin, 3) for when in ran] == [0, 0, 0, 10, 10, 10, 20, 20, 20]


@pytest.mark.parametrize("ageing", [0, -1, "soon", True, "0.5 ms", timedelta(microseconds=999)])
def test_a_period_that_cannot_be_is_refused(store: Store, ageing: Any) -> None:
    with pytest.raises(InvalidOptionError) as refused:
        Queue("q", store, ageing=ageing)

    assert refused.value.option == "ageing"


async def test_lifo_is_refused_where_jobs_age(store: Store) -> None:
    queue: Queue[Any] = Queue("q", store, ageing="1m")

    with pytest.raises(InvalidOptionError) as refused:
        await queue.add_bulk([NewJob("work"), NewJob("work", lifo=True)])

    assert refused.value.option == "lifo"
    assert await queue.count() == 0
