"""A process that is frozen, or whose host is gone, while it stands first in a queue's line."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import psycopg
import pytest

from conveyor.core.store import Claim, JobRecord, Limit
from conveyor.store.pg import PgStore, connections
from conveyor.store.pg.statements import Session

pytestmark = pytest.mark.slow

#: A process that claims, with a limit, from a queue with nothing to give.
CLAIMS = """
import asyncio, sys
from datetime import timedelta
from conveyor.core import open_store
from conveyor.core.store import Claim, Limit

async def main():
    async with open_store(sys.argv[1]) as store:
        request = Claim(queue="q", count=1, token="them", lease=timedelta(seconds=1), worker="them",
                        limit=Limit(active=0))
        while True:
            await store.claim(request)

asyncio.run(main())
"""


@pytest.fixture
def url(empty_database: str) -> str:
    return empty_database


def mine() -> Claim:
    return Claim(
        queue="q", count=1, token="me", lease=timedelta(seconds=9), worker="me", limit=Limit(active=9)
    )


async def test_others_do_not_wait_for_a_process_that_is_frozen_in_its_claim(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = connections._BEGIN.replace("'5s'", "'100ms'")
    assert begin != connections._BEGIN
    monkeypatch.setattr(connections, "_BEGIN", begin)
    first, over = threading.Event(), threading.Event()

    async def stand_first(session: Session) -> None:
        await session.run("lock_queue", queue="q", limited=True)
        if not first.is_set():
            first.set()
            over.wait(30)  # its event loop stands still

    async def freeze() -> None:
        async with PgStore(url) as store:
            await store._connections.call(stand_first)

    async with PgStore(url) as store:
        await store.insert([JobRecord(queue="q", id="job", name="work")])
        frozen = asyncio.create_task(asyncio.to_thread(asyncio.run, freeze()))
        await asyncio.to_thread(first.wait)

        async with asyncio.timeout(5):
            claimed = await store.claim(mine())
        over.set()
        await frozen  # it tries again, and nothing is wrong

    assert [job.id for job in claimed.jobs] == ["job"]


@pytest.mark.chaos
async def test_a_stopped_process_holds_up_the_claims_of_others_for_seconds_at_most(url: str) -> None:
    async with PgStore(url) as store:
        await store.insert([JobRecord(queue="q", id="job", name="work")])
        other = await asyncio.to_thread(stopped_within_a_claim, url)
        try:
            stopped = time.monotonic()
            claimed = await store.claim(mine())
            took = time.monotonic() - stopped
        finally:
            other.kill()
            other.wait()

    assert [job.id for job in claimed.jobs] == ["job"]
    assert took < 7


def stopped_within_a_claim(url: str) -> subprocess.Popen[bytes]:
    """A process that claims, and is stopped in a transaction that holds the queue's row."""
    process = subprocess.Popen([sys.executable, "-c", CLAIMS, url])
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(1_000):
            time.sleep(0.02)
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.02)
            try:
                connection.execute("select from conveyor_queues where queue = 'q' for update nowait")
            except psycopg.errors.LockNotAvailable:
                return process
            os.kill(process.pid, signal.SIGCONT)
    process.kill()
    pytest.fail("it was never within a claim")
