"""One process of a fleet: it adds jobs and runs them, and tells what it did as lines of JSON.

    python pg_member.py URL NAME ADDERS CONCURRENCY

It says "ready" when it works, stops adding at a line on its standard input, and ends at a second one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import warnings

from conveyor.core import Job, Queue, Worker, open_store
from conveyor.core.errors import StoreError
from conveyor.core.events import JobCompleted


def tell(**what: object) -> None:
    print(json.dumps({**what, "at": time.monotonic()}), flush=True)  # noqa: T201 - this is how it talks


async def handle(job: Job[int]) -> None:
    await asyncio.sleep(0.01)
    if job.data % 5 == 0:
        await job.update_progress(50)


def settled(event: JobCompleted) -> None:
    tell(done=event.job_id)


async def add(queue: Queue[int], name: str, enough: asyncio.Event) -> None:
    """Add jobs, each until it is sure that it is there."""
    number = 0
    while not enough.is_set():
        number += 1
        added = False
        while not added:
            try:
                # A handler that cannot write its progress fails, and is to run again.
                await queue.add("work", number, job_id=f"{name}-{number}", attempts=10)
            except StoreError as error:
                tell(refused=str(error))
                await asyncio.sleep(0.1)
            else:
                added = True
        tell(added=f"{name}-{number}")
        await asyncio.sleep(0.02)


async def main(url: str, name: str, adders: int, concurrency: int) -> None:
    enough = asyncio.Event()
    async with open_store(url) as store:
        queue: Queue[int] = Queue("q", store)
        worker = Worker(
            "q", handle, store, concurrency=concurrency, lock_duration="3s", stalled_interval="1s", name=name
        )
        worker.on("completed", settled)
        async with worker:
            tell(ready=True)
            adding = [asyncio.create_task(add(queue, f"{name}-{n}", enough)) for n in range(adders)]
            await asyncio.to_thread(sys.stdin.readline)
            enough.set()
            await asyncio.gather(*adding)
            tell(enough=True)
            await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="LOG %(levelname)s %(name)s %(message)s")
    warnings.filterwarnings("ignore", message="lock_duration")
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
