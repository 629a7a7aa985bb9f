"""Jobs in a user's own transaction, where others take part: a worker elsewhere, and a deadlock."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest

from conveyor.core import Queue
from conveyor.store.pg import PgStore
from conveyor.store.pg.testing import private_server

WORKER = """
import asyncio, sys
from conveyor.core import Worker, open_store
async def handle(job):
    print(job.id, flush=True)
async def main():
    async with open_store(sys.argv[1]) as store:
        worker = Worker("orders", handle, store, poll_interval="30s")
        await worker.start()
        print("ready", flush=True)
        await worker.run()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings = {"deadlock_timeout": "50ms"}
    with private_server(durable=False, settings=settings) as server, server.database("using") as url:
        yield url


async def test_a_worker_in_another_process_starts_the_job_at_the_commit_and_not_before(url: str) -> None:
    async with PgStore(url) as store, await psycopg.AsyncConnection.connect(url) as connection:
        worker = subprocess.Popen(  # noqa: ASYNC220 - our own program, and starting it is quick
            [sys.executable, "-c", WORKER, url], stdout=subprocess.PIPE, text=True
        )
        try:
            assert worker.stdout is not None
            lines = worker.stdout
            assert await asyncio.to_thread(lines.readline) == "ready\n"
            async with store.using(connection) as inside:
                job = await Queue[Any]("orders", inside).add("confirm")
            told = asyncio.create_task(asyncio.to_thread(lines.readline))
            await asyncio.sleep(0.05)
            assert not told.done()
            committed = time.monotonic()
            await connection.commit()

            assert await asyncio.wait_for(told, 10) == f"{job.id}\n"
            assert time.monotonic() - committed < 5  # polling would have taken 30 s
        finally:
            worker.terminate()
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()


async def test_of_two_transactions_in_a_deadlock_one_adds_its_job(url: str) -> None:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(PgStore(url, schema="deadlock"))
        ours, theirs = [
            await stack.enter_async_context(await psycopg.AsyncConnection.connect(url)) for _ in range(2)
        ]
        await ours.execute("create table rows (id int primary key, n int not null)")
        await ours.execute("insert into rows values (1, 0), (2, 0)")
        await ours.commit()

        async def both(connection: psycopg.AsyncConnection[Any], first: int, second: int) -> str | None:
            await connection.execute("update rows set n = n + 1 where id = %s", [first])
            async with store.using(connection) as inside:
                job = await Queue[Any]("orders", inside).add("confirm")
            ready.release()
            await go.wait()
            try:
                await connection.execute("update rows set n = n + 1 where id = %s", [second])
            except psycopg.errors.DeadlockDetected:
                await connection.rollback()
                return None
            await connection.commit()
            return job.id

        ready, go = asyncio.Semaphore(0), asyncio.Event()
        calls = [asyncio.create_task(both(ours, 1, 2)), asyncio.create_task(both(theirs, 2, 1))]
        for _ in calls:
            await ready.acquire()
        go.set()
        added = [job for job in await asyncio.gather(*calls) if job is not None]

        assert len(added) == 1
        assert [job.id for job in await Queue[Any]("orders", store).get_jobs()] == added
