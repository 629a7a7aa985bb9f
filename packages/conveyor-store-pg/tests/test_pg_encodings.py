"""Which encodings a database may have: one that holds every text."""

from __future__ import annotations

import psycopg
import pytest

from conveyor.core import Job, Queue, Worker
from conveyor.core.errors import StoreError
from conveyor.store.pg import PgStore
from conveyor.store.pg.errors import StoreEncodingError
from conveyor.testing.pg import Server

pytestmark = pytest.mark.slow

EVERYTHING = {"text": "é ü 漢 🙂", "🙂": [1]}


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


def database(server: Server, encoding: str) -> str:
    """The URL of an empty database with that encoding."""
    name = f"conveyor_{encoding.lower()}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"drop database if exists {name}".encode())
        connection.execute(
            f"create database {name} encoding '{encoding}' locale 'C' template template0".encode()
        )
        host, port = connection.info.host, connection.info.port
        return f"postgresql://{connection.info.user}:{connection.info.password}@{host}:{port}/{name}"


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "EUC_JP"])
async def test_a_database_that_does_not_hold_every_text_is_refused(server: Server, encoding: str) -> None:
    store = PgStore(database(server, encoding))

    with pytest.raises(StoreEncodingError, match=f"has the encoding {encoding}") as caught:
        await store.open()

    assert isinstance(caught.value, StoreError)
    assert not caught.value.retryable


@pytest.mark.parametrize("encoding", ["UTF8", "SQL_ASCII"])
async def test_every_text_comes_back_from_a_database_that_is_not(server: Server, encoding: str) -> None:
    async def handler(job: Job[object]) -> object:
        await job.log("🙂 é")
        return job.data

    async with PgStore(database(server, encoding)) as store:
        queue = Queue[object]("qü🙂", store)
        job = await queue.add("é漢", EVERYTHING, group="🙂")
        async with Worker(queue.name, handler, store):
            assert await job.wait_until_finished(timeout=30) == EVERYTHING

        found = await queue.get_job(job.id)
        assert found is not None
        assert (found.name, found.data) == ("é漢", EVERYTHING)
