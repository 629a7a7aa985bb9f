"""A sequence behind its rows, as after a restore of the data alone, is mended by the adds that meet it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from conveyor.core.store import Claim, JobKey, JobRecord, Outcome, Where
from conveyor.store.pg import PgStore, inserting

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pg_sequence")]

ROWS = 3_000


@pytest.fixture(scope="module")
def server_url(module_database: str) -> str:
    return module_database


@pytest.fixture
async def store(server_url: str) -> AsyncIterator[PgStore]:
    """A store with rows, and a sequence at its beginning."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    async with PgStore(server_url, notify=False) as store:
        await store.insert([JobRecord(queue="old", id=str(n), name="x") for n in range(ROWS)])
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute("select setval('conveyor_jobs_seq', 1, false)")
        yield store


def job(id: str, **fields: Any) -> JobRecord:
    return JobRecord(queue="q", id=id, name="x", **fields)


def last_value(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("select last_value from conveyor_jobs_seq").fetchone()
    assert row is not None
    return int(row[0])


WAYS = {
    "alone": [job("a")],
    "together": [job(str(n)) for n in range(250)],
    "with keys": [job("a", unique_key="k"), job("b", unique_key="k"), job("c", unique_key="l")],
    "in a group": [job("a", group="g"), job("b", group="g", group_max_size=5)],
    "with a parent": [job("a"), job("b", parent=JobKey("q", "a"))],
}


@pytest.mark.parametrize("way", WAYS)
async def test_jobs_are_added_behind_the_rows_that_are_there(
    store: PgStore, server_url: str, way: str
) -> None:
    added = await store.insert(WAYS[way])

    created = [answer.key.id for answer in added if answer.created]
    assert created == [job.id for job in WAYS[way] if (way, job.id) != ("with keys", "b")]
    found = await store.find(Where(queue="q"), limit=1_000)
    assert [job.id for job in found] == created
    assert all(job.seq is not None and job.seq > ROWS for job in found)
    assert ROWS < last_value(server_url) < ROWS + 2_000


async def test_a_job_that_an_outcome_spawns_is_added(store: PgStore) -> None:
    request = Claim(queue="old", count=1, token="t", lease=timedelta(seconds=30), worker="w")
    [held] = (await store.claim(request)).jobs

    settled = await store.settle([Outcome.completed(held, "{}", spawn=(job("a"), job("b")))])

    assert [answer.created for answer in settled.spawned] == [True, True]


async def test_a_job_of_a_users_transaction_is_added(store: PgStore, server_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(server_url) as connection:
        async with store.using(connection) as within:
            [answer] = await within.insert([job("a")])
        await connection.commit()

    assert answer.created
    assert len(await store.find(Where(queue="q"), limit=10)) == 1


async def test_many_adders_mend_it_once(store: PgStore, server_url: str) -> None:
    async with PgStore(server_url, notify=False) as other:
        adds = [(store, other)[n % 2].insert([job(f"{n}-{m}") for m in range(1 + n % 3)]) for n in range(60)]
        added = await asyncio.gather(*adds)

    assert all(answer.created for answers in added for answer in answers)
    assert len(await store.find(Where(queue="q"), limit=1_000)) == sum(map(len, added))
    # Mended twice, it would be a thousand further on.
    assert last_value(server_url) < ROWS + 2_000


async def test_a_sequence_whose_last_number_is_the_last_rows_is_not_behind(
    store: PgStore, server_url: str
) -> None:
    await store.insert([job("a")])
    [added] = await store.find(Where(queue="q"), limit=1)

    await store._connections.call(lambda session: inserting._mend_sequence(session, [1]))

    assert last_value(server_url) == added.seq


#: The same from a process of its own.
OTHER = """
import asyncio, sys
from conveyor.core.store import JobRecord
from conveyor.store.pg import PgStore, inserting

async def main():
    async with PgStore(sys.argv[1], notify=False) as store:
        jobs = [[JobRecord(queue="q", id=f"{sys.argv[2]}-{n}", name="x")] for n in range(20)]
        added = await asyncio.gather(*map(store.insert, jobs))
        assert all(answer.created for [answer] in added)

asyncio.run(main())
"""


async def test_several_processes_mend_it_together(store: PgStore, server_url: str) -> None:
    def run(name: str) -> None:
        subprocess.run([sys.executable, "-c", OTHER, server_url, name], check=True, timeout=60)

    await asyncio.gather(*(asyncio.to_thread(run, f"p{n}") for n in range(3)))

    assert len(await store.find(Where(queue="q"), limit=1_000)) == 60
    assert last_value(server_url) < ROWS + 2_000
