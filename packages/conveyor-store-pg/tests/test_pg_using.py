"""Jobs in a user's own transaction, where others take part: a worker elsewhere, and a deadlock."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
import pytest
from psycopg import rows
from psycopg.adapt import Dumper, Loader

from conveyor.conformance.concurrency.crashes import cut
from conveyor.core import Deduplication, FlowJob, FlowProducer, Group, NewJob, Queue
from conveyor.core.errors import StoreError
from conveyor.core.store import JobRecord, Where
from conveyor.store.pg import PgStore
from conveyor.testing.pg import private_server

WORKER = """
import asyncio, sys
from conveyor.core import Worker, open_store
async def handle(job):
    print(job.id, flush=True)
async def main():
    async with open_store(sys.argv[1]) as store:
        worker = Worker("orders", handle, store, poll_interval="30s")
        await worker.start()
        print("ready", flush=True)
        await worker.run()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings = {"deadlock_timeout": "50ms"}
    with private_server(durable=False, settings=settings) as server, server.database("using") as url:
        yield url


async def test_a_worker_in_another_process_starts_the_job_at_the_commit_and_not_before(url: str) -> None:
    async with PgStore(url) as store, await psycopg.AsyncConnection.connect(url) as connection:
        worker = subprocess.Popen(  # noqa: ASYNC220 - our own program, and starting it is quick
            [sys.executable, "-c", WORKER, url], stdout=subprocess.PIPE, text=True
        )
        try:
            assert worker.stdout is not None
            lines = worker.stdout
            assert await asyncio.to_thread(lines.readline) == "ready\n"
            async with store.using(connection) as inside:
                job = await Queue[Any]("orders", inside).add("confirm")
            told = asyncio.create_task(asyncio.to_thread(lines.readline))
            await asyncio.sleep(0.05)
            assert not told.done()
            committed = time.monotonic()
            await connection.commit()

            assert await asyncio.wait_for(told, 10) == f"{job.id}\n"
            assert time.monotonic() - committed < 5  # polling would have taken 30 s
        finally:
            worker.terminate()
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()


async def test_of_two_transactions_in_a_deadlock_one_adds_its_job(url: str) -> None:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(PgStore(url, schema="deadlock"))
        ours, theirs = [
            await stack.enter_async_context(await psycopg.AsyncConnection.connect(url)) for _ in range(2)
        ]
        await ours.execute("create table rows (id int primary key, n int not null)")
        await ours.execute("insert into rows values (1, 0), (2, 0)")
        await ours.commit()

        async def both(connection: psycopg.AsyncConnection[Any], first: int, second: int) -> str | None:
            await connection.execute("update rows set n = n + 1 where id = %s", [first])
            async with store.using(connection) as inside:
                job = await Queue[Any]("orders", inside).add("confirm")
            ready.release()
            await go.wait()
            try:
                await connection.execute("update rows set n = n + 1 where id = %s", [second])
            except psycopg.errors.DeadlockDetected:
                await connection.rollback()
                return None
            await connection.commit()
            return job.id

        ready, go = asyncio.Semaphore(0), asyncio.Event()
        calls = [asyncio.create_task(both(ours, 1, 2)), asyncio.create_task(both(theirs, 2, 1))]
        for _ in calls:
            await ready.acquire()
        go.set()
        added = [job for job in await asyncio.gather(*calls) if job is not None]

        assert len(added) == 1
        assert [job.id for job in await Queue[Any]("orders", store).get_jobs()] == added


class _Refused:
    """Where a user's own class is, in the place of psycopg's, and only they may use it."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise AssertionError("this is for its user's statements")


class _Shouted(Loader):
    def load(self, data: Any) -> str:
        return bytes(data).decode().upper()


class _Quoted(Dumper):
    def dump(self, obj: Any) -> bytes:
        return f"'{obj}'".encode()


@dataclass
class _Order:
    number: int


def _with_adapters(connection: Any) -> None:
    for name in ("text", "timestamp", "int8", "bool"):
        connection.adapters.register_loader(name, _Shouted)
    for kind in (str, datetime, int, bool):
        connection.adapters.register_dumper(kind, _Quoted)


def _with_settings(connection: Any) -> None:
    connection.pgconn.exec_(b"set datestyle = 'German'; set timezone = 'Asia/Kolkata'")
    connection.pgconn.exec_(b"set client_encoding = 'LATIN1'; set search_path = ''")


#: What a user may have made of a connection, plain or async.
MADE: dict[str, Callable[[Any], None]] = {
    "dict_row": lambda connection: setattr(connection, "row_factory", rows.dict_row),
    "namedtuple_row": lambda connection: setattr(connection, "row_factory", rows.namedtuple_row),
    "scalar_row": lambda connection: setattr(connection, "row_factory", rows.scalar_row),
    "class_row": lambda connection: setattr(connection, "row_factory", rows.class_row(_Order)),
    "rows of their own": lambda connection: setattr(connection, "row_factory", _Refused),
    "RawCursor": lambda connection: setattr(
        connection,
        "cursor_factory",
        psycopg.RawCursor if isinstance(connection, psycopg.Connection) else psycopg.AsyncRawCursor,
    ),
    "ClientCursor": lambda connection: setattr(
        connection,
        "cursor_factory",
        psycopg.ClientCursor if isinstance(connection, psycopg.Connection) else psycopg.AsyncClientCursor,
    ),
    "cursors of their own": lambda connection: setattr(connection, "cursor_factory", _Refused),
    "adapters": _with_adapters,
    "settings": _with_settings,
}


@asynccontextmanager
async def connected(url: str, *, plain: bool) -> AsyncIterator[Any]:
    if plain:
        with psycopg.connect(url) as connection:
            yield connection
    else:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            yield connection


async def done(call: Any) -> Any:
    return await call if inspect.isawaitable(call) else call


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
async def test_a_connection_may_be_as_its_user_likes_and_stays_so(url: str, *, plain: bool) -> None:
    async with PgStore(url, schema="made") as store, store.bus.subscribe(MADE) as events:
        for made, make in MADE.items():
            async with connected(url, plain=plain) as connection:
                make(connection)
                await done(connection.commit())
                before = _state(connection)

                async with store.using(connection) as inside:
                    queue = Queue(made, inside)
                    await queue.add("work", {"à": 1}, job_id=f"a {plain}", group=Group("g"), delay="1 hour")
                    again = await queue.add("work", job_id=f"a {plain}")
                    [once, _] = await queue.add_bulk(
                        [NewJob("work", n, deduplication=Deduplication("k", ttl="1 hour")) for n in range(2)]
                    )
                    await FlowProducer(inside).add(FlowJob("pack", made, children=[FlowJob("pick", made)]))
                    found = await queue.get_jobs(order="newest")
                    counts = await queue.get_job_counts()

                assert _state(connection) == before
                await done(connection.commit())
                assert again.data == {"à": 1}, made
                assert [job.name for job in found[:2]] == ["pack", "pick"], made
                assert once.id in {job.id for job in found}, made
                assert counts == await Queue(made, store).get_job_counts(), made
                async with asyncio.timeout(10):
                    while (await anext(events)).queue_name != made:
                        pass


def _state(connection: Any) -> tuple[Any, ...]:
    adapters = connection.adapters
    made = connection.row_factory, connection.cursor_factory, connection.server_cursor_factory
    return *made, adapters._loaders[:], adapters._dumpers.copy(), connection.info.encoding


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
async def test_a_text_that_the_connection_cannot_send_is_reported(url: str, *, plain: bool) -> None:
    async with PgStore(url) as store, connected(url, plain=plain) as connection:
        await done(connection.execute("set client_encoding = 'LATIN1'"))
        async with store.using(connection) as inside:
            with pytest.raises(StoreError, match="client_encoding"):
                await Queue(f"letters {plain}", inside).add("work", "→")
            await Queue(f"letters {plain}", inside).add("work", "à")
        await done(connection.commit())

        assert [job.data for job in await Queue(f"letters {plain}", store).get_jobs()] == ["à"]


async def test_a_cursor_of_the_user_goes_on_where_it_was(url: str) -> None:
    async with (
        PgStore(url) as store,
        await psycopg.AsyncConnection.connect(url) as connection,
        connection.cursor("theirs") as theirs,
    ):
        await theirs.execute("select * from generate_series(1, 3)")
        first = await theirs.fetchone()
        async with store.using(connection) as inside:
            await Queue("cursors", inside).add("work")
        assert [first, *await theirs.fetchall()] == [(1,), (2,), (3,)]


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
async def test_a_call_cut_off_at_any_await_leaves_the_transaction_as_it_was(url: str, *, plain: bool) -> None:
    queue, added = f"cut {plain}", []
    async with PgStore(url, notify=False) as store, connected(url, plain=plain) as connection:
        await done(connection.execute("create temporary table mine (n int)"))
        after, got_so_far = 0, True
        while got_so_far:
            after += 1
            async with store.using(connection) as inside:
                got_so_far = await cut(
                    inside.insert([JobRecord(queue=queue, id=f"{after}", name="x")]), after
                )
                in_it = await inside.find(Where(queue=queue, ids=frozenset({f"{after}"})), limit=1)
            added += [job.id for job in in_it]
            assert connection._num_transactions == 0  # no savepoint is open
            await done(connection.execute("insert into mine values (1)"))
        await done(connection.commit())

        assert after > 2
        assert [job.id for job in await store.find(Where(queue=queue), limit=99)] == added
        [count] = await done((await done(connection.execute("select count(*) from mine"))).fetchone())
        assert count == after
