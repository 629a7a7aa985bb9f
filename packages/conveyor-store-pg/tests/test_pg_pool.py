"""Connections from psycopg_pool: none is lost, no cancellation is lost, and nothing is told twice."""

from __future__ import annotations

import asyncio
import logging
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from conveyor.core import Job, Queue, Worker
from conveyor.core.errors import StoreClosedError, StoreUnavailableError
from conveyor.core.store import Where
from conveyor.store.pg import PgStore
from conveyor.store.pg.connections import Connections
from conveyor.store.pg.errors import StoreEncodingError
from conveyor.store.pg.options import Options
from conveyor.store.pg.pool import Pool
from conveyor.store.pg.statements import AsyncSession, Session, Statements

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pg_pool")]

SIZE = 4
#: What the connections of an application's pool are like.
THEIRS = {"row_factory": dict_row, "application_name": "conveyor"}


@pytest.fixture
def url(empty_database: str) -> str:
    return empty_database


@pytest.fixture(params=["own"])
async def connections(url: str, request: pytest.FixtureRequest) -> AsyncIterator[Connections]:
    async with AsyncExitStack() as stack:
        given: dict[str, Any] = {"dsn": url, "pool_size": SIZE}
        if request.param == "given":
            pool = AsyncConnectionPool[Any](url, kwargs=THEIRS, min_size=0, max_size=SIZE, open=False)
            given = {"pool": await stack.enter_async_context(pool)}
        opened = Connections(Options.checked(**given, operation_timeout="3s"), Statements("public"))
        await opened.open()
        stack.push_async_callback(opened.close)
        yield opened


async def pid(session: Session) -> int:
    assert isinstance(session, AsyncSession)
    rows = await session.query(b"select pg_backend_pid() from pg_sleep(0.001)", {})
    return int(rows[0][0])


def pool_of(connections: Connections) -> Pool:
    assert connections._pool is not None
    return connections._pool


async def all_are_there(connections: Connections) -> set[int]:
    """Use all the connections at the same time, and return which they are."""
    together = asyncio.Barrier(SIZE)

    async def meet(session: Session) -> int:
        found = await pid(session)
        await together.wait()
        return found

    async with asyncio.timeout(20):
        return set(await asyncio.gather(*(connections.call(meet, urgent=True) for _ in range(SIZE))))


def end_backends(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() "
            "and application_name = 'conveyor'"
        )


@pytest.mark.parametrize("connections", ["own", "given"], indirect=True)
async def test_hundreds_of_cancellations_lose_no_connection_and_none_of_them_is_lost(
    url: str, connections: Connections
) -> None:
    chance = random.Random(7)
    cancelled = 0

    async def one(number: int) -> None:
        nonlocal cancelled
        call = connections.call(pid, single=number % 2 == 0, urgent=number % 5 == 0, reads=number % 3 == 0)
        task = asyncio.create_task(call)
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)
        if task.cancel():
            cancelled += 1
            await asyncio.wait({task})
            assert task.cancelled(), "a cancellation was lost"

    for round_ in range(14):
        if round_ % 4 == 3:
            end_backends(url)  # so that connections are made, and waited for
        await asyncio.gather(*(one(number) for number in range(60)))

    assert cancelled > 600
    assert len(await all_are_there(connections)) == SIZE
    assert pool_of(connections)._pool.get_stats()["pool_size"] == SIZE


@pytest.mark.parametrize("connections", ["own", "given"], indirect=True)
async def test_a_connection_goes_back_if_its_call_is_cancelled_meanwhile(connections: Connections) -> None:
    before = await all_are_there(connections)
    pool = pool_of(connections)

    async def call() -> None:
        connection = await pool.take()
        async with pool._pool._lock:
            pool.give_back(connection)
            asyncio.current_task().cancel()  # type: ignore[union-attr]
            await asyncio.sleep(0)

    for _ in range(SIZE):
        with suppress(asyncio.CancelledError):
            await asyncio.create_task(call())

    assert await all_are_there(connections) == before


async def test_a_place_that_a_cancelled_call_was_given_is_not_lost(connections: Connections) -> None:
    pool = pool_of(connections)

    async def hold() -> None:
        async with pool.slot(urgent=False):
            await asyncio.sleep(0)

    for turn in range(50):
        tasks = [asyncio.create_task(hold()) for _ in range(2 * SIZE)]
        for _ in range(turn % 4 + 1):
            await asyncio.sleep(0)
        tasks[SIZE].cancel()
        await asyncio.wait(tasks)

    assert len(await all_are_there(connections)) == SIZE


async def test_connections_that_all_died_while_idle_take_no_time_from_a_call(
    url: str, connections: Connections
) -> None:
    before = await all_are_there(connections)
    end_backends(url)
    await asyncio.sleep(0.05)

    # With `check` of psycopg_pool the third to be looked at would wait for 3 s, and the call be over.
    assert await connections.call(pid) not in before


async def test_what_is_away_is_reported_by_the_calls_and_not_by_psycopg_pool(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    away = "postgresql://127.0.0.1:1/x"

    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1/x"):
        await Connections(Options.checked(away, operation_timeout="300ms"), Statements("public")).open()
    assert caplog.messages == []

    async with AsyncConnectionPool(away, min_size=1, open=False, name="theirs") as theirs:
        with pytest.raises(psycopg.OperationalError):
            await theirs.getconn(timeout=0.1)
    assert any("theirs" in line for line in caplog.messages)


@pytest.fixture
async def pool(url: str) -> AsyncIterator[AsyncConnectionPool[Any]]:
    """A pool of an application's, whose connections are not as the store would make them."""

    async def conninfo() -> str:
        return url

    async with AsyncConnectionPool[Any](conninfo, kwargs=THEIRS, max_size=SIZE, open=False) as opened:
        yield opened


async def test_an_application_has_one_pool_and_finds_it_as_it_was(
    pool: AsyncConnectionPool[Any], url: str
) -> None:
    async def handle(job: Job[int]) -> int:
        await job.update_progress(50)
        return job.data

    async with PgStore(pool=pool) as store, Worker("q", handle, store, concurrency=8):
        async with pool.connection() as connection, store.using(connection) as inside:
            added = [await Queue[int]("q", inside).add("x", 0)]
        added += [await Queue[int]("q", store).add("x", number) for number in range(1, 8)]
        async with asyncio.timeout(30):
            results = [await job.wait_until_finished() for job in added]
        with psycopg.connect(url) as other:
            [(count,)] = other.execute(
                "select count(*) from pg_stat_activity "
                "where datname = current_database() and application_name = 'conveyor'"
            ).fetchall()

    assert results == list(range(8))
    assert count <= SIZE + 1  # the one more listens
    for _ in range(2 * SIZE):  # it was not closed
        async with pool.connection() as connection:
            rows = await connection.execute(
                "select current_setting('enable_seqscan') as seqscan, current_setting('jit') as jit,"
                " (select count(*)::int from pg_prepared_statements) as prepared"
            )
            assert await rows.fetchone() == {"seqscan": "on", "jit": "on", "prepared": 0}
            assert (connection.autocommit, connection.prepare_threshold) == (False, 5)


async def test_a_pool_that_is_not_open_is_reported(pool: AsyncConnectionPool[Any], url: str) -> None:
    with pytest.raises(StoreClosedError, match="pool that the store was given is not open"):
        await PgStore(pool=AsyncConnectionPool(url, open=False)).open()

    async with PgStore(pool=pool) as store:
        await pool.close()
        with pytest.raises(StoreClosedError, match="pool that the store was given is not open"):
            await store.count(Where(queue="q"))


async def test_a_pool_that_the_application_uses_up_is_reported(pool: AsyncConnectionPool[Any]) -> None:
    async with PgStore(pool=pool, operation_timeout="300ms") as store:
        async with AsyncExitStack() as theirs:
            for _ in range(SIZE):
                await theirs.enter_async_context(pool.connection())
            with pytest.raises(StoreUnavailableError, match="max_size"):
                await store.count(Where(queue="q"))

        assert await store.count(Where(queue="q")) == {}


async def test_a_pool_whose_connections_cannot_carry_every_text_is_refused(url: str) -> None:
    async with AsyncConnectionPool(url, kwargs={"client_encoding": "latin1"}, open=False) as pool:
        with pytest.raises(StoreEncodingError, match="client_encoding"):
            await PgStore(pool=pool).open()


#: Opens a store, closes it or not, and ends while another connection is being made for ever.
ENDS = """
import asyncio, sys
from conveyor.core.store import Where
from conveyor.store.pg import PgStore, connections

async def connect(*_, **__):
    being_made.set()
    await asyncio.Event().wait()

async def main():
    global being_made
    being_made = asyncio.Event()
    store = PgStore(sys.argv[1])
    await store.open()
    connections.connect = connect
    calls = [asyncio.create_task(store.count(Where(queue="q"))) for _ in range(2)]
    await being_made.wait()
    if sys.argv[2] == "close":
        calls[1].cancel()
        await store.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["close", "end"])
def test_a_program_ends_while_a_connection_is_being_made(url: str, how: str) -> None:
    command: list[Any] = [sys.executable, "-W", "error", "-c", ENDS, url, how]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
