"""What a look at a queue takes beside a backlog that was added a moment ago, by the public API.

    python benchmarks/backlog.py [memory: sqlite:///{dir}/bench.db postgresql:] [--jobs 100000] [--shapes …]

`postgresql:` alone stands for a server that is started for the run. Each figure is the median of nine calls,
in milliseconds, right after the jobs were added by `add_bulk`: beside 2,000 jobs, and beside `--jobs`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from conveyor.core import Job, NewJob, Queue, open_store
from conveyor.testing.pg import private_server

BULK = 1_000
FEW = 2_000
CALLS = 9
POSTGRESQL = "postgresql:"
SHAPES: dict[str, Callable[[int], dict[str, Any]]] = {
    "waiting": lambda _: {},
    "delayed": lambda _: {"delay": "1 day"},
    "paused": lambda _: {},
    "groups": lambda n: {"group": f"group-{n % 1_000}"},
}


async def took(call: Callable[[], Awaitable[object]]) -> float:
    """The median of some calls, in milliseconds."""
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1_000


async def measure(url: str, shape: str, jobs: int) -> dict[str, float]:
    """All figures of one store beside so many jobs of a shape."""
    async with open_store(url) as store:
        queue = Queue[dict[str, int]]("backlog", store)
        if shape == "paused":
            await queue.pause(job_name="job")
        await queue.get_job_counts()  # the connection is warm
        made: list[Job[dict[str, int]]] = []
        for first in range(0, jobs, BULK):
            numbers = range(first, first + BULK)
            made = await queue.add_bulk([NewJob("job", {"n": n}, **SHAPES[shape](n)) for n in numbers])
        return {
            "get_job": await took(lambda: queue.get_job(made[0].id)),
            "get_jobs()": await took(queue.get_jobs),
            'get_jobs("waiting")': await took(lambda: queue.get_jobs("waiting")),
            "get_job_counts": await took(queue.get_job_counts),
        }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("urls", nargs="*", metavar="URL", help="{dir} is a new folder for each store")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    given = parser.parse_args()
    urls = given.urls or ["memory:", "sqlite:///{dir}/bench.db", POSTGRESQL]
    with ExitStack() as stack:
        server = stack.enter_context(private_server()) if POSTGRESQL in urls else None
        for url in urls:
            for shape in given.shapes:
                found = []
                for jobs in (FEW, given.jobs):
                    with ExitStack() as once:
                        folder = once.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
                        target = url.format(dir=Path(folder))
                        if url == POSTGRESQL and server is not None:
                            target = once.enter_context(server.database(f"backlog_{shape}_{jobs}"))
                        found.append(asyncio.run(measure(target, shape, jobs)))
                few, many = found
                for call, time_of_few in few.items():
                    print(
                        f"{url:<26} {shape:<8} {call:<20} {time_of_few:>8.2f} {many[call]:>8.2f}", flush=True
                    )


if __name__ == "__main__":
    main()
