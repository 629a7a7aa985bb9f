"""Fresh stores for the suite: one server for a run, a database for a process, a schema for a test."""

import json
import os
import subprocess
import sys

import psycopg
import pytest
from psycopg import sql

from conveyor.core import Deduplication, Group, Queue, open_store
from conveyor.testing.pg.schemas import Schemas

# A run of its own, with a test of each worker: where its store is, and on which server.
INNER = """\
import json, os, pathlib, psycopg, pytest

class TestInner:
    store_scheme = "postgresql"

    @pytest.mark.parametrize("number", range(8))
    def test_note_the_place(self, conveyor_url, number):
        url, _, schema = conveyor_url.partition("?schema=")
        with psycopg.connect(url) as connection:
            connection.execute(f"create table {schema}.jobs (id int)")
            identifier = connection.execute("select system_identifier from pg_control_system()").fetchone()[0]
            tables = connection.execute(
                "select count(*) from pg_tables where tablename = 'jobs'"
            ).fetchone()[0]
        place = {"url": url, "schema": schema, "server": identifier, "tables": tables,
                 "worker": os.environ["PYTEST_XDIST_WORKER"]}
        pathlib.Path(os.environ["PLACES"], f"{number}.json").write_text(json.dumps(place))
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    home = tmp_path_factory.mktemp("inner")
    (home / "test_inner.py").write_text(INNER, "utf-8")
    folder = home / "places"
    folder.mkdir()
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "test_inner.py"]
    command += ["-o", "asyncio_default_fixture_loop_scope=function", f"--basetemp={home / 'base'}"]

    done = subprocess.run(
        command,
        cwd=home,
        env={**os.environ, "PLACES": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(file.read_text("utf-8")) for file in sorted(folder.iterdir())]


@pytest.mark.slow
@pytest.mark.xdist_group("pg_provision")
def test_two_workers_share_a_server_and_not_a_database(places: list[dict[str, object]]) -> None:
    assert len(places) == 8
    assert {place["worker"] for place in places} == {"gw0", "gw1"}
    assert len({place["server"] for place in places}) == 1
    assert len({(place["worker"], place["url"]) for place in places}) == 2
    assert len({place["url"] for place in places}) == 2


@pytest.mark.slow
@pytest.mark.xdist_group("pg_provision")
def test_each_test_has_a_schema_of_its_own_and_leaves_nothing(places: list[dict[str, object]]) -> None:
    assert len({(place["url"], place["schema"]) for place in places}) == 8
    assert {place["tables"] for place in places} == {1}


@pytest.fixture
def url(empty_database: str) -> str:
    return empty_database


@pytest.mark.slow
def test_a_transaction_left_open_does_not_hold_up_the_next_test(url: str) -> None:
    schemas = Schemas(url)
    forgotten = psycopg.connect(url)
    with psycopg.connect(url, autocommit=True) as other:
        with schemas.fresh() as place:
            schema = place.partition("?schema=")[2]
            other.execute(sql.SQL("create table {}.jobs (id int)").format(sql.Identifier(schema)))
            forgotten.execute(sql.SQL("lock table {}.jobs").format(sql.Identifier(schema)))

        with schemas.fresh():
            rows = other.execute("select 1 from pg_namespace where nspname = %s", [schema]).fetchall()
    forgotten.close()
    schemas.close()

    assert rows == []


@pytest.mark.slow
def test_a_test_may_cut_off_every_connection(url: str) -> None:
    schemas = Schemas(url)
    with psycopg.connect(url, autocommit=True) as other:
        with schemas.fresh():
            other.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
        with schemas.fresh() as place:
            schema = place.partition("?schema=")[2]
            rows = other.execute("select 1 from pg_namespace where nspname = %s", [schema]).fetchall()
    schemas.close()

    assert rows == [(1,)]


@pytest.mark.slow
async def test_a_store_is_emptied_and_serves_the_next_test(url: str) -> None:
    schemas = Schemas(url)
    with schemas.fresh() as first:
        async with open_store(first) as store:
            queue: Queue[None] = Queue("q", store)
            job = await queue.add("a", group=Group("g"), deduplication=Deduplication("k"))
            await queue.pause()

    with schemas.fresh() as second:
        assert second == first
        async with open_store(second) as store:
            queue = Queue("q", store)
            assert await queue.get_jobs() == []
            assert await queue.get_paused() == {}
            assert (await queue.add("a", deduplication=Deduplication("k"))).id != job.id
    schemas.close()


@pytest.mark.slow
async def test_a_store_that_is_still_open_is_no_other_tests(url: str) -> None:
    schemas = Schemas(url)
    with schemas.fresh() as first:
        store = open_store(first)
        await store.open()

    with schemas.fresh() as second:
        assert second != first
    await store.close()
    schemas.close()


@pytest.mark.slow
async def test_a_session_that_has_discarded_all_is_in_nobodys_way(url: str) -> None:
    schemas = Schemas(url)
    with schemas.fresh() as first:
        async with open_store(first):
            pass

    with psycopg.connect(url, autocommit=True) as kept:
        kept.execute("discard all")
        with schemas.fresh() as second:
            assert second == first
    schemas.close()
