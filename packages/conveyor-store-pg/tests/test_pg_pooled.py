"""The conformance suite through a PgBouncer in transaction mode, and a worker that can only poll there."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conveyor.conformance.plugin.places import Place
from conveyor.core import Job, Queue, Worker, open_store
from conveyor.core.errors import InvalidOptionError
from conveyor.testing.pg import Bouncer, Server, bouncer, provision

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pg_pooled")]


def suite(*arguments: str) -> str:
    """Run the suite through a bouncer in a process of its own, and return what it printed."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--pyargs",
        "conveyor.conformance",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, "--conveyor-store", "postgresql", "-W", "error", *arguments],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            "CONVEYOR_TEST_PG_BOUNCER": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    return done.stdout


def test_races_events_and_crashes_pass_through_a_bouncer() -> None:
    # what sessions are to a database; the rest is for the long run below
    processes = "processes_claim_every_job_once or processes_together_keep_a_limit"
    printed = suite("-k", f"{processes} or several or claimers or events or cancelled_calls or cut_off")

    assert "postgresql" in printed
    assert int((re.search(r"(\d+) passed", printed) or [0, 0])[1]) >= 35


@pytest.mark.chaos
def test_the_whole_suite_passes_through_a_bouncer() -> None:
    printed = suite()

    assert int((re.search(r"(\d+) passed", printed) or [0, 0])[1]) >= 900
    assert "not offered" not in printed


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


@pytest.fixture(scope="module")
def pooler(server: Server) -> Iterator[Bouncer]:
    with bouncer(server.url, settings={"default_pool_size": "4"}) as running:
        yield running


async def test_without_a_direct_line_one_warning_is_given_and_everything_works(
    server: Server, pooler: Bouncer, caplog: pytest.LogCaptureFixture
) -> None:
    done = asyncio.Event()
    seen: list[int] = []

    async def handle(job: Job[int]) -> int:
        seen.append(job.data)
        await job.update_progress(50)
        if len(seen) == 40:
            done.set()
        return job.data

    with server.database("polling") as url:
        caplog.set_level(logging.WARNING)
        async with (
            open_store(pooler.through(url)) as adding,
            open_store(pooler.through(url)) as working,
            Worker("q", handle, working, concurrency=8, poll_interval="200ms"),
        ):
            queue: Queue[int] = Queue("q", adding)
            for number in range(40):
                await queue.add("work", number)
            await asyncio.wait_for(done.wait(), 30)
            job = await queue.add("work", 40)
            result = await job.wait_until_finished(timeout=30)
            async with asyncio.timeout(30):
                while not caplog.records:  # noqa: ASYNC110 - the line is tried for longer than the jobs may take
                    await asyncio.sleep(0.05)

    warned = [record.getMessage() for record in caplog.records]
    assert sorted(seen) == list(range(41))
    assert result == 40
    assert len(warned) <= 2, warned  # one for each store that listens
    assert all("listen_dsn" in line for line in warned), warned
    assert warned


def test_a_wish_for_a_bouncer_that_is_not_understood_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CONVEYOR_TEST_PG_BOUNCER", "yes please")
    place = Place(url=None, worker="main", owner=os.getpid(), tmp_path=tmp_path, shared_path=tmp_path)

    with pytest.raises(InvalidOptionError, match="CONVEYOR_TEST_PG_BOUNCER"), provision(place):
        pass
