"""How soon an idle worker starts a job that another process adds."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time

import pytest

from conveyor.core import Job, Worker, open_store

pytestmark = pytest.mark.slow

#: Adds jobs one by one, each with the moment it began to be added; the clock is the machine's.
ADDER = """
import asyncio, sys, time
from conveyor.core import Queue, open_store

async def main(url, count):
    async with open_store(url) as store:
        queue = Queue("q", store)
        for n in range(count):
            await asyncio.sleep(0.1)
            await queue.add("work", {"at": time.monotonic()})

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_a_job_from_another_process_starts_within_50_ms_on_an_idle_worker(empty_database: str) -> None:
    count = 25
    waits: list[float] = []
    all_done = asyncio.Event()

    async def handle(job: Job[dict[str, float]]) -> None:
        waits.append(time.monotonic() - job.data["at"])
        if len(waits) == count:
            all_done.set()

    # Polling alone would take ten seconds.
    async with open_store(empty_database) as store, Worker("q", handle, store, poll_interval="10s"):
        adder = await asyncio.create_subprocess_exec(sys.executable, "-c", ADDER, empty_database, str(count))
        await asyncio.wait_for(all_done.wait(), 60)
        assert await adder.wait() == 0

    assert statistics.median(waits) < 0.05, json.dumps(waits)
    assert max(waits) < 5, json.dumps(waits)
