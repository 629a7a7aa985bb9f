"""Pages of jobs where a row cannot be read."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest

from conveyor.core.store import JobRecord, Where
from conveyor.store.pg import PgStore

pytestmark = pytest.mark.slow

START = datetime(2026, 3, 2, 9, tzinfo=UTC)


async def test_a_page_goes_on_behind_a_row_that_cannot_be_read(module_database: str) -> None:
    some = Where(queue="q", ids=frozenset("abc"))

    async with PgStore(module_database) as store:
        await store.insert([JobRecord(queue="q", id=id, name="n") for id in "abc"], now=START)
        with psycopg.connect(module_database, autocommit=True) as connection:
            connection.execute("update conveyor_jobs set state = 'none of ours' where id = 'a'")

        pages = [await store.find(some, limit=limit, now=START) for limit in (1, 2, 3)]

    assert [[job.id for job in page] for page in pages] == [["b"], ["b", "c"], ["b", "c"]]
