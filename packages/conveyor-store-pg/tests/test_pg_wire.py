"""Connections, migrations, events and the user's own transactions, on a real server."""

# The schemas are named here, and what is within what is the point.
# ruff: noqa: S608, SIM117

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import secrets
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

from conveyor.core import Queue
from conveyor.core.errors import (
    InvalidOptionError,
    SchemaTooNewError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreForkedError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from conveyor.core.events import Event, Gap, JobCompleted, JobWaiting
from conveyor.core.store import Where
from conveyor.store.pg import PgStore
from conveyor.store.pg.__main__ import main
from conveyor.store.pg.connection import Connection, close_now
from conveyor.store.pg.connections import Connections
from conveyor.store.pg.migrate import migrate, migrations, pending, prepare, script
from conveyor.store.pg.options import Options
from conveyor.store.pg.statements import AsyncSession, Session, Statements
from conveyor.testing.pg import Server, bouncer, private_server

pytestmark = pytest.mark.slow
_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(shared_server: Server, module_database: str) -> Server:
    return replace(shared_server, url=module_database)


@pytest.fixture
def schema() -> str:
    return f"wire_{next(_numbers)}"


def options(server: Server, **more: Any) -> Options:
    return Options.checked(server.url, **({"operation_timeout": "2s"} | more))


@asynccontextmanager
async def connected(given: Options) -> AsyncIterator[Connections]:
    connections = Connections(given, Statements(given.schema))
    await connections.open()
    try:
        yield connections
    finally:
        await connections.close()


async def sql(session: Session, text: str) -> Any:
    assert isinstance(session, AsyncSession)
    cursor = await session.connection.execute(text.encode())
    return await cursor.fetchall() if cursor.description else None


def running(text: str) -> Any:
    return lambda session: sql(session, text)


def clean(connections: Connections) -> bool:
    """Whether every connection that is kept is in no transaction."""
    return all(one.info.transaction_status == TransactionStatus.IDLE for one in kept(connections))


def kept(connections: Connections) -> list[Connection]:
    """The connections that wait for the next call."""
    assert connections._pool is not None
    return list(connections._pool._pool._pool)


def renew(connections: Connections) -> None:
    """Have the next call use a new connection."""
    for one in kept(connections):
        close_now(one)


# -------------------------------------------------------------------- connections


async def test_no_more_connections_are_used_than_said(server: Server) -> None:
    async with connected(options(server, pool_size=3)) as connections:
        await asyncio.gather(*(connections.call(running("select pg_sleep(0.005)")) for _ in range(60)))

        with psycopg.connect(server.url) as other:
            found = other.execute(
                "select count(*) from pg_stat_activity "
                "where datname = current_database() and application_name = 'conveyor'"
            ).fetchone()
    assert found is not None
    assert 1 <= found[0] <= 3


async def test_urgent_calls_go_before_hundreds_of_others(server: Server) -> None:
    async with connected(options(server, pool_size=2, operation_timeout="30s")) as connections:
        others = [asyncio.create_task(connections.call(running("select pg_sleep(0.02)"))) for _ in range(200)]
        await asyncio.sleep(0.05)
        began = time.monotonic()
        for _ in range(10):
            await connections.call(running("select 1"), single=True, urgent=True)
        took = time.monotonic() - began
        waiting = sum(not task.done() for task in others)
        await asyncio.gather(*others)

    assert waiting > 100
    assert took < 1


async def test_calls_that_wait_for_a_lock_do_not_hold_up_urgent_ones(server: Server) -> None:
    async with connected(options(server, pool_size=2)) as connections:
        blocked = [
            asyncio.create_task(connections.call(running("select pg_sleep(1)"), reads=True)) for _ in range(5)
        ]
        await asyncio.sleep(0.05)

        async with asyncio.timeout(0.5):
            await connections.call(running("select 1"), single=True, urgent=True)

        for task in blocked:
            task.cancel()
        await asyncio.gather(*blocked, return_exceptions=True)
        assert clean(connections)


async def test_waiting_for_a_connection_ends_with_the_time_allowed(server: Server) -> None:
    async with connected(options(server, pool_size=1, operation_timeout="300ms")) as connections:
        holder = asyncio.create_task(connections.call(running("select pg_sleep(2)"), unhurried=True))
        await asyncio.sleep(0.05)

        with pytest.raises(StoreBusyError, match="pool_size"):
            await connections.call(running("select 1"))

        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)


async def test_a_cancelled_call_happened_wholly_or_not_at_all(server: Server, schema: str) -> None:
    async with connected(options(server, pool_size=4)) as connections:
        await connections.call(running(f"create table {schema} (n int)"))

        async def two(session: Session) -> None:
            await sql(session, f"insert into {schema} values (1)")
            await sql(session, f"insert into {schema} values (1)")

        for round_ in range(60):
            task = asyncio.create_task(connections.call(two))
            await asyncio.sleep(round_ * 0.0001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert clean(connections)

        [(count,)] = await connections.call(running(f"select count(*) from {schema}"))
        assert count % 2 == 0


async def test_what_a_step_raises_undoes_it_and_comes_out(server: Server, schema: str) -> None:
    async with connected(options(server)) as connections:
        await connections.call(running(f"create table {schema} (n int)"))

        async def fails(session: Session) -> None:
            await sql(session, f"insert into {schema} values (1)")
            raise KeyError

        with pytest.raises(KeyError):
            await connections.call(fails)

        assert await connections.call(running(f"select * from {schema}")) == []
        assert clean(connections)


async def test_a_connection_that_died_while_idle_is_noticed_before_it_is_used(server: Server) -> None:
    async with connected(options(server, pool_size=1)) as connections:
        for single, repeatable in itertools.product([True, False], repeat=2):
            [(pid,)] = await connections.call(running("select pg_backend_pid()"))
            with psycopg.connect(server.url, autocommit=True) as other:
                other.execute("select pg_terminate_backend(%s)", [pid])
            await asyncio.sleep(0.05)

            [(new,)] = await connections.call(
                running("select pg_backend_pid()"), single=single, repeatable=repeatable
            )
            assert new != pid


@pytest.mark.parametrize("single", [True, False])
async def test_a_backend_told_to_end_has_not_done_it_and_it_is_repeated(
    server: Server, *, single: bool, schema: str
) -> None:
    async with connected(options(server, pool_size=1)) as connections:
        await connections.call(running(f"create table {schema} (n int)"))
        [(pid,)] = await connections.call(running("select pg_backend_pid()"))
        text = f"insert into {schema} select 1 from pg_sleep(0.2)"
        task = asyncio.create_task(connections.call(running(text), single=single))
        await asyncio.sleep(0.08)
        with psycopg.connect(server.url, autocommit=True) as other:
            other.execute("select pg_terminate_backend(%s)", [pid])
        await task

        assert await connections.call(running(f"select count(*) from {schema}")) == [(1,)]


async def test_a_deadlock_is_repeated(server: Server, schema: str) -> None:
    async with connected(options(server, operation_timeout="8s")) as connections:
        await connections.call(
            running(f"create table {schema} as select n, 0 as c from generate_series(1, 2) n")
        )

        def step(first: int, second: int) -> Any:
            async def run(session: Session) -> None:
                await sql(session, f"update {schema} set c = c + 1 where n = {first}")
                await sql(session, "select pg_sleep(0.05)")
                await sql(session, f"update {schema} set c = c + 1 where n = {second}")

            return run

        await asyncio.gather(connections.call(step(1, 2)), connections.call(step(2, 1)))

        assert await connections.call(running(f"select c from {schema}")) == [(2,), (2,)]


async def test_a_restart_is_outlived() -> None:
    with private_server() as server:
        async with connected(options(server, operation_timeout="20s")) as connections:
            await connections.call(running("select 1"))
            for mode in ("fast", "immediate"):
                restart = asyncio.create_task(asyncio.to_thread(server.restart, mode))
                while not restart.done():
                    await connections.call(running("select 1"), reads=True)
                await restart
                assert await connections.call(running("select 1")) == [(1,)]


async def test_a_server_that_is_away_is_reported_as_that(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    gone = "postgresql://u:s3cret@127.0.0.1:1/x"
    store = PgStore(gone, operation_timeout="100ms", listen_dsn=gone)

    with pytest.raises(StoreUnavailableError) as caught:
        await store.open()

    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(store)
    shown += caplog.text + repr([record.args for record in caplog.records])
    assert "s3cret" not in shown
    assert "127.0.0.1:1/x" in str(caught.value)


async def test_a_database_that_is_not_there_is_reported_at_once(server: Server) -> None:
    began = time.monotonic()
    given = Options.checked(server.dsn("nowhere"), operation_timeout="30s")

    with pytest.raises(StoreUnavailableError, match="create the database"):
        await Connections(given, Statements("public")).open()

    assert time.monotonic() - began < 5


async def test_a_read_only_server_is_reported_at_once_and_forgiven(server: Server, schema: str) -> None:
    async with connected(options(server, pool_size=1)) as connections:
        await connections.call(running(f"create table {schema} (n int)"))
        [(database,)] = await connections.call(running("select current_database()"))
        await connections.call(running(f"alter database {database} set default_transaction_read_only = on"))
        renew(connections)

        with pytest.raises(StoreReadOnlyError) as caught:
            await connections.call(running(f"insert into {schema} values (1)"))
        assert caught.value.retryable
        with psycopg.connect(server.url, autocommit=True) as other:
            other.execute("set default_transaction_read_only = off")
            other.execute(f"alter database {database} reset default_transaction_read_only".encode())
        renew(connections)

        await connections.call(running(f"insert into {schema} values (1)"))


async def test_a_store_is_for_its_loop_its_process_and_its_time(server: Server) -> None:
    connections = Connections(options(server), Statements("public"))
    with pytest.raises(StoreClosedError):
        await connections.call(running("select 1"))
    await connections.open()

    def elsewhere() -> None:
        with pytest.raises(StoreError, match="event loop"):
            asyncio.run(connections.call(running("select 1")))

    await asyncio.to_thread(elsewhere)
    pid, connections._pid = connections._pid, -1
    with pytest.raises(StoreForkedError):
        await connections.call(running("select 1"))
    connections._pid = pid
    await connections.call(running("select 1"))
    await connections.close()
    await connections.close()
    with pytest.raises(StoreClosedError):
        await connections.call(running("select 1"))


async def test_closing_waits_for_calls_under_way(server: Server) -> None:
    async with connected(options(server)) as connections:
        task = asyncio.create_task(connections.call(running("select pg_sleep(0.1)")))
        await asyncio.sleep(0.02)

    assert task.done()
    await task
    assert connections._pool is None


async def test_the_isolation_is_read_committed_whatever_the_servers_default(server: Server) -> None:
    with server.database("serializable") as url:
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("alter database serializable set default_transaction_isolation = 'serializable'")
        async with connected(Options.checked(url)) as connections:
            for single in (True, False):
                found = await connections.call(running("show transaction_isolation"), single=single)
                assert found == [("read committed",)]


async def test_behind_a_bouncer_nothing_is_prepared_and_everything_works(server: Server) -> None:
    with bouncer(server.url, settings={"default_pool_size": "2"}) as pooler:
        async with connected(Options.checked(pooler.through(server.url), pool_size=8)) as connections:

            async def one(session: Session) -> Any:
                assert isinstance(session, AsyncSession)
                return await session.query(b"select %(n)s::int", {"n": 1})

            found = await asyncio.gather(*(connections.call(one, single=n % 2 == 0) for n in range(300)))

            assert connections.pooled
            assert set(map(tuple, found)) == {((1,),)}


async def test_a_direct_line_is_not_taken_for_a_bouncer(server: Server) -> None:
    async with connected(options(server)) as connections:
        assert not connections.pooled


# --------------------------------------------------------------------- migrations

OPENER = """
import asyncio, sys
from conveyor.store.pg.connection import Connection, close_now
from conveyor.store.pg.connections import Connections
from conveyor.store.pg.migrate import prepare
from conveyor.store.pg.options import Options
from conveyor.store.pg.statements import Statements
async def main():
    options = Options.checked(sys.argv[1], schema=sys.argv[2], operation_timeout="60s")
    connections = Connections(options, Statements(options.schema))
    await connections.open()
    await prepare(connections)
    await connections.close()
asyncio.run(main())
"""

CATALOG = """
select relname, relkind::text, reloptions::text,
       (select string_agg(
                 concat_ws(' ', attname, atttypid::regtype, attnotnull, attcollation,
                           pg_get_expr(adbin, adrelid)),
                 ',' order by attnum)
          from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
         where attrelid = pg_class.oid and attnum > 0),
       (select string_agg(replace(pg_get_indexdef(indexrelid), nspname, '*'), ';'
                 order by replace(pg_get_indexdef(indexrelid), nspname, '*'))
          from pg_index where indrelid = pg_class.oid),
       (select string_agg(conname || ' ' || pg_get_constraintdef(pg_constraint.oid), ';' order by conname)
          from pg_constraint where conrelid = pg_class.oid)
  from pg_class join pg_namespace on pg_namespace.oid = relnamespace
 where nspname = %s and relname not like 'pg_toast%%'
 order by relname
"""


def catalog(server: Server, schema: str) -> list[Any]:
    with psycopg.connect(server.url) as other:
        return other.execute(CATALOG, [schema]).fetchall()


async def test_tables_are_made_once_and_then_only_looked_at(server: Server, schema: str) -> None:
    async with connected(options(server, schema=schema)) as connections:
        assert await prepare(connections) == len(migrations())
        assert await prepare(connections) == 0
        assert await migrate(connections) == 0


async def test_a_role_that_may_create_nothing_opens_current_tables(server: Server, schema: str) -> None:
    async with connected(options(server, schema=schema)) as connections:
        await prepare(connections)
    role = f"{schema}_{secrets.token_hex(4)}"  # a role is one of the whole server
    with psycopg.connect(server.url, autocommit=True) as other:
        other.execute(f"create role {role} login".encode())
        other.execute(f"grant usage on schema {schema} to {role}".encode())
        other.execute(f"grant select on all tables in schema {schema} to {role}".encode())
        url = make_conninfo(other.info.dsn, user=role, password=other.info.password)

        async with connected(Options.checked(url, schema=schema)) as connections:
            assert await prepare(connections) == 0
        async with connected(Options.checked(url, schema=f"{schema}_more")) as connections:
            with pytest.raises(StoreError, match="permission"):
                await prepare(connections)
        other.execute(f"drop owned by {role}; drop role {role}".encode())


async def test_newer_tables_are_refused_before_any_write(server: Server, schema: str) -> None:
    async with connected(options(server, schema=schema)) as connections:
        await prepare(connections)
        await connections.call(running(f"insert into {schema}.conveyor_migrations values (9999, 'later')"))

        with pytest.raises(SchemaTooNewError, match="9999"):
            await prepare(connections)
        with pytest.raises(SchemaTooNewError):
            await migrate(connections)


async def test_old_tables_are_reported_when_they_may_not_be_changed(server: Server, schema: str) -> None:
    async with connected(options(server, schema=schema, auto_migrate=False)) as connections:
        with pytest.raises(StoreUnavailableError, match="auto_migrate"):
            await prepare(connections)

        assert catalog(server, schema) == []


@pytest.mark.slow
def test_eight_processes_open_an_empty_database_and_some_are_killed(server: Server, schema: str) -> None:
    command = [sys.executable, "-c", OPENER, server.url]
    first = subprocess.run([*command, f"{schema}_alone"], check=True, timeout=60)
    assert first.returncode == 0
    opened = [subprocess.Popen([*command, schema]) for _ in range(8)]
    for process, delay in zip(opened[:3], (0.3, 0.05, 0.05), strict=True):
        time.sleep(delay)
        process.kill()

    codes = [process.wait(90) for process in opened]

    assert codes[3:] == [0] * 5
    assert catalog(server, schema) == catalog(server, f"{schema}_alone")


@pytest.mark.slow
async def test_a_migration_killed_at_any_statement_leaves_nothing(
    server: Server, schema: str, tmp_path: Path
) -> None:
    """The connection is ended behind each statement in turn; then the tables are made, whole."""
    scripts = [migration.script for migration in migrations()]
    statements = [each for text in scripts for each in re.split(r"(?<=;)\n", text) if each.strip()]
    assert len(statements) > 30
    told = []
    async with connected(options(server, schema=schema, operation_timeout="300ms")) as connections:
        for killed in range(1, len(statements) + 1):
            folder = tmp_path / str(killed)
            folder.mkdir()
            cut = [*statements[:killed], "select pg_terminate_backend(pg_backend_pid());"]
            (folder / "0001_all.sql").write_text("\n".join(cut), "utf-8")
            with pytest.raises(StoreUnavailableError) as caught:
                await prepare(connections, folder=folder)
            told.append(str(caught.value))
            assert catalog(server, schema) == []
    # The others ran out of time first, which may happen on a busy machine.
    assert sum("57P01" in text for text in told) > len(told) / 2, told
    for name in (schema, f"{schema}_alone"):
        async with connected(options(server, schema=name)) as connections:
            assert await prepare(connections) == len(migrations())

    assert catalog(server, schema) == catalog(server, f"{schema}_alone")


async def test_a_migration_that_fails_leaves_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("create table {schema}.a (n int);", "utf-8")
    (tmp_path / "0002_b.sql").write_text("create table {schema}.b (n int); select 1/0;", "utf-8")
    async with connected(options(server, schema="cut_off")) as connections:
        with pytest.raises(StoreError):
            await prepare(connections, folder=tmp_path)
        assert catalog(server, "cut_off") == []

        (tmp_path / "0002_b.sql").write_text("create table {schema}.b (n int);", "utf-8")
        assert await prepare(connections, folder=tmp_path) == 2
        (tmp_path / "0003_c.sql").write_text("alter table {schema}.b add m int;", "utf-8")
        assert [one.version for one in await pending(connections, folder=tmp_path)] == [3]
        assert await prepare(connections, folder=tmp_path) == 1
        with psycopg.connect(server.url) as other:
            other.execute("select m from cut_off.b")


async def test_the_printed_script_makes_the_same_tables(server: Server, schema: str) -> None:
    printed = f"{schema}_printed"
    with psycopg.connect(server.url, autocommit=True) as other:
        other.execute(script(Statements(printed)).encode())
    async with connected(options(server, schema=schema)) as connections:
        await prepare(connections)
    async with connected(options(server, schema=printed)) as connections:
        assert await prepare(connections) == 0

    assert catalog(server, printed) == catalog(server, schema)


def test_the_command_line_tells_what_is_missing_and_applies_it(
    server: Server, schema: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--url", server.url, "--schema", schema]

    assert main(["status", *given]) == 3
    assert main(["migrate", *given]) == 0
    assert main(["status", *given]) == 0
    assert main(["sql", "--schema", schema]) == 0
    assert main(["status", "--url", "postgresql://u:s3cret@h:nope/x"]) == 1
    shown = capsys.readouterr()
    assert "missing: 0001_tables" in shown.out
    assert "create table" in shown.out
    assert "s3cret" not in shown.out + shown.err


# ------------------------------------------------------------------------- events


def waiting(id: str, queue: str = "q") -> JobWaiting:
    return JobWaiting(queue_name=queue, job_id=id, at=datetime.now(UTC))


async def take(events: AsyncIterator[Event], count: int) -> list[Event]:
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(count)]


def store(server: Server, schema: str, **more: Any) -> PgStore:
    return PgStore(server.url, schema=schema, operation_timeout="5s", **more)


async def test_nothing_is_sent_while_nobody_else_listens(server: Server, schema: str) -> None:
    async with store(server, schema) as one, store(server, schema) as two:
        async with one.bus.subscribe({"q"}), two.bus.subscribe({"r"}, kinds={JobCompleted}):
            await one.bus.publish([waiting("1"), waiting("2", "r")])
            await asyncio.sleep(0.05)

        assert one._bus._sent == 0


async def test_a_storm_is_few_notifications(server: Server, schema: str) -> None:
    async with store(server, schema) as one, store(server, schema) as two:
        async with two.bus.subscribe({"q"}, kinds={JobWaiting, Gap}) as events:
            began = time.monotonic()
            for number in range(2_000):
                await one.bus.publish([waiting(str(number))])
                if not number % 100:
                    await asyncio.sleep(0.01)
            await take(events, 1)
            await asyncio.sleep(0.05)
            sent, took = one._bus._sent, time.monotonic() - began

    assert 1 <= sent <= took / 0.02 + 2


async def test_an_event_reaches_another_process_in_a_moment(server: Server, schema: str) -> None:
    async with store(server, schema) as one, store(server, schema) as two:
        async with two.bus.subscribe({"q"}) as events:
            took = []
            for number in range(20):
                await asyncio.sleep(0.025)
                began = time.monotonic()
                await one.bus.publish([waiting(str(number))])
                await take(events, 1)
                took.append(time.monotonic() - began)

    assert sorted(took)[10] < 0.05


async def test_two_schemas_receive_no_events_of_each_other(server: Server, schema: str) -> None:
    async with (
        store(server, schema) as one,
        store(server, f"{schema}_b") as two,
        store(server, schema) as three,
    ):
        async with two.bus.subscribe({"q"}) as apart, three.bus.subscribe({"q"}) as events:
            await one.bus.publish([waiting("1")])
            await take(events, 1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(apart)


async def test_a_lost_line_comes_back_and_everybody_is_told_of_the_gap(server: Server, schema: str) -> None:
    async with store(server, schema) as one, store(server, schema) as two:
        async with two.bus.subscribe({"q"}) as events:
            with psycopg.connect(server.url, autocommit=True) as other:
                other.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and (query ilike 'listen %%' or query = 'select 1')"
                )

            [gap] = await take(events, 1)
            assert isinstance(gap, Gap)
            await one.bus.publish([waiting("1")])
            [event] = await take(events, 1)
            assert isinstance(event, JobWaiting)


async def test_behind_a_bouncer_one_warning_says_that_polling_is_all(
    server: Server, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    with bouncer(server.url) as pooler:
        url = pooler.through(server.url)
        async with PgStore(url, schema=schema) as one:
            with caplog.at_level(logging.WARNING, "conveyor.store.pg"):
                async with one.bus.subscribe({"q"}), one.bus.subscribe({"r"}):
                    pass
        assert [record.getMessage() for record in caplog.records if "listen_dsn" in record.getMessage()]
        assert len(caplog.records) == 1
        async with (
            PgStore(url, schema=schema, listen_dsn=server.url) as two,
            PgStore(url, schema=schema) as three,
            two.bus.subscribe({"q"}) as events,
        ):
            await three.bus.publish([waiting("1")])
            await take(events, 1)


async def test_without_notify_events_stay_in_the_process(server: Server, schema: str) -> None:
    async with store(server, schema, notify=False) as one, store(server, schema) as two:
        async with one.bus.subscribe({"q"}) as own, two.bus.subscribe({"q"}) as others:
            await one.bus.publish([waiting("1")])
            await take(own, 1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(others)


async def test_any_text_on_the_channel_is_harmless(server: Server, schema: str) -> None:
    async with store(server, schema) as one, store(server, schema) as two:
        async with two.bus.subscribe({"q"}) as events:
            with psycopg.connect(server.url, autocommit=True) as other:
                for text in ("", "x", "a:b:c:d:e", "a:0:0:1:[", 'a:0:0:1:[["Gap",{}]]', "a:0:1:2:x", ":" * 9):
                    other.execute("select pg_notify(%s, %s)", [two._bus._channel, text])
            await one.bus.publish([waiting("1")])

            [event] = await take(events, 1)
            assert isinstance(event, JobWaiting)


# ------------------------------------------------------- the user's own transaction


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("plain", [True, False])
async def test_a_job_exists_if_and_only_if_the_users_data_commits(
    server: Server, schema: str, *, plain: bool, commits: bool
) -> None:
    async with store(server, schema) as one, store(server, schema) as two:
        async with two.bus.subscribe({"q"}) as events:
            if plain:
                with psycopg.connect(server.url) as mine:
                    async with one.using(mine) as within:
                        await Queue("q", within).add("work", job_id="a")
                        assert await within.count(Where(queue="q"))
                    assert not await one.count(Where(queue="q"))
                    mine.commit() if commits else mine.rollback()
            else:
                async with await psycopg.AsyncConnection.connect(server.url) as mine:
                    async with one.using(mine) as within:
                        await Queue("q", within).add("work", job_id="a")
                        assert await within.find(Where(queue="q"), limit=1)
                    assert not await one.count(Where(queue="q"))
                    await mine.commit() if commits else await mine.rollback()
            if commits:
                await take(events, 1)
            assert bool(await one.count(Where(queue="q"))) is commits


async def test_an_error_of_ours_leaves_their_transaction_as_it_was(server: Server, schema: str) -> None:
    async with store(server, schema) as one:
        async with await psycopg.AsyncConnection.connect(server.url) as mine:
            await mine.execute("set local role none")
            async with one.using(mine) as within:
                await mine.execute("set local statement_timeout = '20ms'")
                with psycopg.connect(server.url) as other:
                    other.execute(f"lock table {schema}.conveyor_jobs".encode())
                    with pytest.raises(StoreBusyError):
                        await Queue("q", within).add("work", job_id="a")
                await mine.execute("set local statement_timeout = 0")
                assert mine.info.transaction_status == TransactionStatus.INTRANS
                await Queue("q", within).add("work", job_id="b")
                async with mine.transaction(force_rollback=True):
                    await Queue("q", within).add("work", job_id="c")
            await mine.commit()

        assert [job.id for job in await one.find(Where(queue="q"), limit=9)] == ["b"]


async def test_only_adding_and_reading_is_offered(server: Server, schema: str) -> None:
    async with store(server, schema) as one, await psycopg.AsyncConnection.connect(server.url) as mine:
        async with one.using(mine) as within:
            with pytest.raises(StoreError, match="added and read"):
                await within.forget("q")
            with pytest.raises(StoreError, match="added and read"):
                await within.delete(Where(queue="q"), limit=1)
        with pytest.raises(StoreError, match="ended"):
            await Queue("q", within).add("work")
        assert await within.count(Where(queue="q")) == {}
        assert not mine.closed


async def test_a_connection_in_no_transaction_is_refused(server: Server, schema: str) -> None:
    async with store(server, schema) as one:
        async with await psycopg.AsyncConnection.connect(server.url, autocommit=True) as mine:
            with pytest.raises(StoreError, match="autocommit"):
                async with one.using(mine):
                    pass
            async with mine.transaction(), one.using(mine) as within:
                await Queue("q", within).add("work", job_id="a")
        with pytest.raises(InvalidOptionError, match="psycopg"):
            async with one.using(object()):  # type: ignore[arg-type]
                pass

        assert await one.count(Where(queue="q"))


def test_a_forked_child_leaves_the_parents_connections_alone(server: Server) -> None:
    program = """
import asyncio, os, sys
from conveyor.store.pg.connection import Connection, close_now
from conveyor.store.pg.connections import Connections
from conveyor.store.pg.options import Options
from conveyor.store.pg.statements import Statements
async def main():
    connections = Connections(Options.checked(sys.argv[1]), Statements("public"))
    await connections.open()
    async def one(session): return await session.query(b"select pg_backend_pid()", {})
    before = await connections.call(one)
    child = os.fork()
    if not child:
        del connections
        import gc; gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert await connections.call(one) == before
    await connections.close()
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, server.url],
        env={**os.environ},
        capture_output=True,
        check=False,
        timeout=30,
    )

    assert done.returncode == 0, done.stderr.decode()


def test_a_forked_child_may_not_open_the_parents_store(server: Server) -> None:
    program = """
import asyncio, os, sys
from conveyor.core.errors import StoreForkedError
from conveyor.store.pg import PgStore
async def main():
    async with PgStore(sys.argv[1], schema="forked") as store:
        child = os.fork()
        if not child:
            try:
                asyncio.run(store.open())
            except StoreForkedError:
                os._exit(7)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7, status
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, server.url], capture_output=True, check=False, timeout=30
    )

    assert done.returncode == 0, done.stderr.decode()
