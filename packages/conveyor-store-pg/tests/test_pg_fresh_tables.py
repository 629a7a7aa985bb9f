"""Plans in the first minute of a database, before autovacuum has looked at its tables."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from conveyor.core.errors import StoreUnavailableError
from conveyor.core.jobs import JobRecord, JobState
from conveyor.core.store import Where
from conveyor.store.pg import PgStore
from conveyor.store.pg.testing import get_server

pytestmark = pytest.mark.slow


@pytest.fixture
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with get_server(tmp_path_factory.mktemp("server")).database("fresh") as found:
        yield found


def jobs(first: int, count: int) -> list[JobRecord]:
    return [JobRecord(queue="q", id=f"{n}", name="work", group=f"g{n}") for n in range(first, first + count)]


def known(url: str) -> float:
    with psycopg.connect(url) as connection:
        row = connection.execute("select reltuples from pg_class where relname = 'conveyor_jobs'").fetchone()
    assert row is not None
    return float(row[0])


async def test_thousands_of_groups_are_added_though_autovacuum_never_comes(url: str) -> None:
    """Without statistics the seventh call took minutes: it read all that waited for each group."""
    async with PgStore(url) as store:
        with psycopg.connect(url, autocommit=True) as connection:
            for table in ("jobs", "groups", "lanes"):
                connection.execute(f"alter table conveyor_{table} set (autovacuum_enabled = false)".encode())

        for n in range(8):
            await store.insert(jobs(5_000 * n, 5_000))

        counts = await store.count(Where(queue="q"))
    assert counts == {("q", JobState.WAITING): 40_000}


async def test_the_tables_are_analysed_after_a_thousand_jobs_and_not_before(url: str) -> None:
    async with PgStore(url) as store:
        await store.insert(jobs(0, 999))
        before = known(url)
        await store.insert(jobs(999, 1))

    assert before <= 0
    assert known(url) == 1_000


async def test_tables_that_cannot_be_analysed_are_no_matter(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(_: Any) -> int:
        raise StoreUnavailableError("gone")

    monkeypatch.setattr("conveyor.store.pg.statistics._analyze", refused)
    async with PgStore(url) as store:
        with caplog.at_level(logging.DEBUG, "conveyor.store.pg"):
            inserted = await store.insert(jobs(0, 1_000))

    assert all(one.created for one in inserted)
    assert "could not be analysed: gone" in caplog.text
