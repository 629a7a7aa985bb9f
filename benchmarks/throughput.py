"""How fast a store is under the public API: add, bulk add, drain, pick-up latency.

    python benchmarks/throughput.py [memory: sqlite:///{dir}/bench.db postgresql:] [--jobs 20000] [--rounds 3]

`postgresql:` alone stands for a server that is started for the run, with its durable settings.

The stores take turns, round by round, so that a machine that slows down slows all of them. Each figure is the
median of the rounds. Two machines, or two days, can be compared by ratios only.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from conveyor.core import Feature, NewJob, Queue, Worker, open_store
from conveyor.testing.pg import private_server

if TYPE_CHECKING:
    from conveyor.core import Job, Store

BULK = 1_000
POSTGRESQL = "postgresql:"


async def add(store: Store, jobs: int) -> float:
    """Single adds, 100 at a time: jobs a second."""
    queue = Queue[dict[str, int]]("add", store)
    began = time.perf_counter()
    for first in range(0, jobs, 100):
        await asyncio.gather(*(queue.add("job", {"n": n}) for n in range(first, first + 100)))
    return jobs / (time.perf_counter() - began)


async def add_one_by_one(store: Store, jobs: int) -> float:
    """Single adds, each after the one before: jobs a second."""
    queue = Queue[dict[str, int]]("one", store)
    began = time.perf_counter()
    for n in range(jobs):
        await queue.add("job", {"n": n})
    return jobs / (time.perf_counter() - began)


async def add_bulk(store: Store, jobs: int) -> float:
    """Bulk adds of 1,000: jobs a second."""
    queue = Queue[dict[str, int]]("drain", store)
    began = time.perf_counter()
    for first in range(0, jobs, BULK):
        await queue.add_bulk([NewJob("job", {"n": n}) for n in range(first, first + BULK)])
    return jobs / (time.perf_counter() - began)


async def drain(store: Store, jobs: int) -> float:
    """One worker with concurrency 50 and a handler that does nothing: jobs a second."""

    numbers = itertools.count(1)
    done = asyncio.Event()

    async def handle(_: Job[dict[str, int]]) -> None:
        if next(numbers) == jobs:
            done.set()

    began = time.perf_counter()
    async with Worker("drain", handle, store, concurrency=50):
        await done.wait()
    return jobs / (time.perf_counter() - began)


async def drain_elsewhere(store: Store, url: str, jobs: int) -> float | None:
    """Two processes with a worker each, from when both are ready: jobs a second; None: not this store."""
    if Feature.MULTI_PROCESS not in store.features:
        return None
    queue = Queue[dict[str, int]]("elsewhere", store)
    await queue.pause()
    for first in range(0, jobs, BULK):
        await queue.add_bulk([NewJob("job", {"n": n}) for n in range(first, first + BULK)])
    command = sys.executable, __file__, "--work", url
    workers = [await asyncio.create_subprocess_exec(*command, stdout=PIPE) for _ in range(2)]
    for worker in workers:
        if worker.stdout is not None:
            await worker.stdout.readline()
    began = time.perf_counter()
    await queue.resume()
    while await queue.count("completed") < jobs:  # noqa: ASYNC110 - the workers are other processes
        await asyncio.sleep(0.05)
    took = time.perf_counter() - began
    for worker in workers:
        worker.terminate()
        await worker.wait()
    return jobs / took


async def work(url: str) -> None:
    """Be one of the two processes."""

    async def handle(_: Job[dict[str, int]]) -> None:
        pass

    async with open_store(url) as store, Worker("elsewhere", handle, store, concurrency=50) as worker:
        print("ready", flush=True)
        await worker.run()


async def pick_up(store: Store, jobs: int) -> float:
    """From an add to the first line of the handler of an idle worker: median, in milliseconds."""
    started: asyncio.Queue[float] = asyncio.Queue()

    async def handle(_: Job[None]) -> None:
        await started.put(time.perf_counter())

    queue = Queue[None]("idle", store)
    waits = []
    async with Worker("idle", handle, store):
        for _ in range(jobs):
            began = time.perf_counter()
            await queue.add("job")
            waits.append(await started.get() - began)
            await asyncio.sleep(0.002)
    return statistics.median(waits) * 1_000


async def measure(url: str, jobs: int) -> dict[str, float | None]:
    """All figures of one store."""
    async with open_store(url) as store:
        return {
            "add, one by one (jobs/s)": await add_one_by_one(store, jobs // 20),
            "add, 100 at a time (jobs/s)": await add(store, jobs // 4),
            "bulk add (jobs/s)": await add_bulk(store, jobs),
            "drain (jobs/s)": await drain(store, jobs),
            "drain, two processes (jobs/s)": await drain_elsewhere(store, url, jobs),
            "pick-up (ms)": await pick_up(store, 200),
        }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("urls", nargs="*", metavar="URL", help="{dir} is a new folder for each round")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        asyncio.run(work(given.work))
        return
    urls = given.urls or ["memory:", "sqlite:///{dir}/bench.db", POSTGRESQL]
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with ExitStack() as stack:
        server = stack.enter_context(private_server()) if POSTGRESQL in urls else None
        for number, url in itertools.product(range(given.rounds), urls):
            with ExitStack() as round_:
                folder = round_.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
                target = url.format(dir=Path(folder))
                if url == POSTGRESQL and server is not None:
                    target = round_.enter_context(server.database(f"bench_{number}"))
                found = asyncio.run(measure(target, given.jobs))
            for name, figure in found.items():
                if figure is not None:
                    figures[name][url].append(figure)
    width = max(len(name) for name in figures)
    print(" " * width, *(f"{url:>28}" for url in urls))
    for name, by_url in figures.items():
        medians = (f"{statistics.median(by_url[url]):,.1f}" if by_url[url] else "-" for url in urls)
        print(f"{name:<{width}}", *(f"{median:>28}" for median in medians))


if __name__ == "__main__":
    main()
