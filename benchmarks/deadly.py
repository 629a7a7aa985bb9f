"""How fast good jobs are beside deadly ones: three worker processes, each started again when it dies.

    python benchmarks/deadly.py [sqlite:///{dir}/deadly.db postgresql:] [--good 400] [--deadly 4]

Good jobs take 50 ms, in workers with four slots; deadly ones end their process 20 ms after they began. The
lease is one second, so most of the time beside deadly jobs is that of leases that run out, and of processes
that start. It prints the rate, from the first start to the last end of a good job, without deadly jobs and
with them, and what became of the good ones.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import warnings
from asyncio.subprocess import DEVNULL
from contextlib import ExitStack

from conveyor.core import Job, JobState, NewJob, Queue, Worker, open_store
from conveyor.core.store import Where
from conveyor.testing.pg import private_server

POSTGRESQL = "postgresql:"
WORKERS = 3


async def work(url: str, name: str) -> None:
    """Be one of the processes, until every job has finished."""
    warnings.filterwarnings("ignore", message="lock_duration")

    async def handle(job: Job[None]) -> None:
        if job.name == "deadly":
            await asyncio.sleep(0.02)
            os._exit(9)
        await asyncio.sleep(0.05)

    async with open_store(url) as store:
        queue = Queue[None](name, store)
        async with Worker(name, handle, store, concurrency=4, lock_duration="1s", stalled_interval="200ms"):
            while await queue.count("waiting", "delayed", "active"):  # noqa: ASYNC110 - others work, too
                await asyncio.sleep(0.05)


async def survive(url: str, name: str) -> int:
    """Run a process, again and again when it dies; return how often it did."""
    deaths = 0
    while True:
        command = sys.executable, __file__, "--work", name, url
        process = await asyncio.create_subprocess_exec(*command, stderr=DEVNULL)
        if await process.wait() == 0:
            return deaths
        deaths += 1


async def measure(url: str, good: int, deadly: int) -> None:
    """Run good jobs with deadly ones spread among them, and print what came of it."""
    name = f"deadly-{deadly}"
    async with open_store(url) as store:
        queue = Queue[None](name, store)
        for _ in range(max(1, deadly)):
            await queue.add_bulk([NewJob("good") for _ in range(good // max(1, deadly))])
            if deadly:
                await queue.add("deadly")
        deaths = sum(await asyncio.gather(*(survive(url, name) for _ in range(WORKERS))))
        found = [one for one in await store.find(Where(queue=name), limit=100_000) if one.name == "good"]
    completed = sum(one.state is JobState.COMPLETED for one in found)
    stalls = max(one.stalled for one in found)
    first = min(one.processed_at for one in found if one.processed_at)
    took = (max(one.finished_at for one in found if one.finished_at) - first).total_seconds()
    print(
        f"{url.partition(':')[0]}: {deadly} deadly, {len(found)} good: {completed / took:.0f} good a second, "
        f"{deaths} deaths, {len(found) - completed} good jobs failed, most stalls of one {stalls}"
    )


async def main() -> None:
    """Measure the stores that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("stores", nargs="*", default=["sqlite:///{dir}/deadly.db"])
    parser.add_argument("--good", type=int, default=400)
    parser.add_argument("--deadly", type=int, default=4)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        await work(options.stores[0], options.work)
        return
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for store in options.stores:
            url = store.format(dir=folder)
            if url == POSTGRESQL:
                url = stack.enter_context(stack.enter_context(private_server()).database("deadly"))
            for deadly in (0, options.deadly):
                await measure(url, options.good, deadly)


if __name__ == "__main__":
    asyncio.run(main())
