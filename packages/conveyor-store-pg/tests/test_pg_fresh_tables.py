"""Plans in the first minute of a database, before autovacuum has looked at its tables."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from conveyor.core.errors import StoreUnavailableError
from conveyor.core.store import Claim, JobRecord, JobState, Limit, Outcome, Rate, Retention, Where
from conveyor.store.pg import PgStore

pytestmark = pytest.mark.slow


@pytest.fixture
def url(empty_database: str) -> str:
    return empty_database


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
            for table in ("jobs", "groups", "subqueues"):
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


@pytest.mark.chaos
async def test_a_hundred_thousand_groups_of_one_job_leave_no_rows_behind(url: str) -> None:
    limit = Limit(active=1, rate=Rate(max=1, per=timedelta(seconds=1)))
    async with PgStore(url) as store:
        for n in range(0, 100_000, 5_000):
            await store.insert(jobs(n, 5_000))
        done = 0
        while done < 100_000:
            request = Claim(
                queue="q",
                count=1_000,
                token=uuid4().hex,
                lease=timedelta(seconds=60),
                worker="w",
                group_limit=limit if done < 10_000 else None,
            )
            claimed = (await store.claim(request)).jobs
            removed = Retention(age=timedelta(0))
            await store.settle([Outcome.completed(job, "{}", retention=removed) for job in claimed])
            done += len(claimed)
        later = datetime.now(UTC) + timedelta(days=8)
        while rows(url) and done < 100_200:
            await store.advance({"q"}, now=later)
            done += 1

    assert rows(url) == {}


def rows(url: str) -> dict[str, int]:
    """How many rows are left, but for those of tables that have none."""
    # A row of the queue stays, and says that its claims have known a limit.
    tables = ("jobs", "groups", "subqueues", "starts", "pauses", "tombstones")
    with psycopg.connect(url) as connection:
        found = {
            table: connection.execute(f"select count(*) from conveyor_{table}".encode()).fetchall()[0][0]  # noqa: S608
            for table in tables
        }
    return {table: count for table, count in found.items() if count}
