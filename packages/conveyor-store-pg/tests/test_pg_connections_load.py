"""How many connections a process uses, and that few are enough."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections import Counter

import psycopg
import pytest

from conveyor.core import Job, Queue, Worker, open_store
from conveyor.core.events import JobCompleted

pytestmark = pytest.mark.slow


@pytest.fixture
def url(empty_database: str) -> str:
    return empty_database


@pytest.mark.parametrize("pool_size", [2, 5])
async def test_under_load_a_process_uses_its_pool_and_one_connection_more(
    url: str, pool_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    jobs, adders = 1000, 200
    counts: list[int] = []
    completed: Counter[str] = Counter()
    stalled: list[object] = []
    caplog.set_level(logging.WARNING)

    async def watch() -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            while True:
                rows = await connection.execute(
                    "select count(*) from pg_stat_activity "
                    "where datname = current_database() and pid <> pg_backend_pid() "
                    "and backend_type = 'client backend'"
                )
                ((count,),) = await rows.fetchall()
                counts.append(count)
                await asyncio.sleep(0.01)

    async def handle(job: Job[int]) -> None:
        # Sixteen outlive two leases, while the others keep every connection busy.
        await asyncio.sleep(2.5 if job.data < 16 else 0.005)
        await job.update_progress(50)  # a handler that writes needs a connection as well

    all_done = asyncio.Event()

    def settled(event: JobCompleted) -> None:
        completed[event.job_id] += 1
        if completed.total() == jobs:
            all_done.set()

    async with open_store(f"{url}?pool_size={pool_size}") as store:
        queue: Queue[int] = Queue("q", store)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="lock_duration")
            worker = Worker("q", handle, store, concurrency=32, lock_duration="1s", stalled_interval="500ms")
        worker.on("completed", settled)
        worker.on("stalled", stalled.append)
        watching = asyncio.create_task(watch())

        async def add(first: int) -> None:
            for number in range(first, jobs, adders):
                await queue.add("work", number, job_id=str(number))
                await asyncio.sleep(0.3)

        async with worker, asyncio.timeout(60):
            await asyncio.gather(*(add(first) for first in range(adders)))
            await all_done.wait()
        watching.cancel()
        await asyncio.wait([watching])

    assert completed == Counter({str(number): 1 for number in range(jobs)})
    assert stalled == []
    assert caplog.messages == []
    assert pool_size <= max(counts) <= pool_size + 1  # the one more listens
