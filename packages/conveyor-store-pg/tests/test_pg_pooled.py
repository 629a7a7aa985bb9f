"""The conformance suite through a PgBouncer in transaction mode, and a worker that can only poll there."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from conveyor.conformance import StoreContract
from conveyor.conformance.contract.events import AllEvents
from conveyor.conformance.plugin.places import Place
from conveyor.conformance.suite import Fixtures
from conveyor.core import Job, Queue, Worker, open_store
from conveyor.core.errors import InvalidOptionError
from conveyor.store.pg import PgStore
from conveyor.testing.pg import Bouncer, Server, bouncer, provision, provisioning

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pg_pooled")]
_schemas = (f"t{n}" for n in itertools.count())


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


class TestThroughABouncer(AllEvents, Fixtures):
    """What sessions are to a database: events, races and crashes; the rest is for the long run above."""

    store_scheme = "postgresql"
    test_every_job_runs_once_with_several_workers = (
        StoreContract.test_every_job_runs_once_with_several_workers
    )
    test_a_store_works_on_after_cancelled_calls = StoreContract.test_a_store_works_on_after_cancelled_calls
    test_jobs_of_a_claim_that_was_cut_off_come_back_when_its_leases_run_out = (
        StoreContract.test_jobs_of_a_claim_that_was_cut_off_come_back_when_its_leases_run_out
    )
    test_processes_claim_every_job_once = StoreContract.test_processes_claim_every_job_once
    test_processes_together_keep_a_limit = StoreContract.test_processes_together_keep_a_limit
    test_many_claimers_start_no_more_than_the_rate = (
        StoreContract.test_many_claimers_start_no_more_than_the_rate
    )
    test_many_claimers_get_every_job_once = StoreContract.test_many_claimers_get_every_job_once
    test_one_of_many_claimers_gets_the_job_by_its_id = (
        StoreContract.test_one_of_many_claimers_gets_the_job_by_its_id
    )

    @pytest.fixture
    def store_url(self, module_database: str, pooler: Bouncer) -> str:
        url = f"{pooler.through(module_database)}?schema={next(_schemas)}"
        return f"{url}&listen_dsn={quote(module_database, safe='')}"

    async def test_it_is_behind_one(self, store: PgStore) -> None:
        assert store._connections.pooled


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


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(url=None, worker="main", owner=os.getpid(), tmp_path=tmp_path, shared_path=tmp_path)


async def test_the_stores_of_the_suite_lead_through_a_bouncer_if_asked_for(
    place: Place, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVEYOR_TEST_PG_BOUNCER", "1")
    monkeypatch.setattr(provisioning, "get_server", lambda *_, **__: server)

    with provision(place) as fresh, fresh() as url:
        async with PgStore.from_url(url) as store:
            assert store._connections.pooled


def test_a_wish_for_a_bouncer_that_is_not_understood_is_refused(
    place: Place, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVEYOR_TEST_PG_BOUNCER", "yes please")
    monkeypatch.setattr(provisioning, "get_server", lambda *_, **__: server)

    with pytest.raises(InvalidOptionError, match="CONVEYOR_TEST_PG_BOUNCER"), provision(place):
        pass
