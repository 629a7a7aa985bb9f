"""What the contract leaves to this store: its file, and rows that cannot be read."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conveyor_store_plainsql import PlainSqlStore

from conveyor.core.errors import (
    InvalidOptionError,
    SchemaTooNewError,
    StoreForkedError,
    StoreUnavailableError,
)
from conveyor.core.store import Claim, JobRecord, JobState, Outcome, Where

START = datetime(2030, 1, 1, tzinfo=UTC)
EVERYTHING = Where()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[PlainSqlStore]:
    async with PlainSqlStore(path) as store:
        yield store


def run(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


@pytest.mark.parametrize("url", ["plainsql://", "jobs.db", "sqlite:///jobs.db"])
def test_a_url_without_a_path_is_refused(url: str) -> None:
    with pytest.raises(InvalidOptionError, match="plainsql://PATH"):
        PlainSqlStore.from_url(url)


async def test_the_file_of_a_newer_release_is_refused(path: Path) -> None:
    run(path, "pragma user_version = 2")

    with pytest.raises(SchemaTooNewError):
        await PlainSqlStore(path).open()


async def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="unable to open"):
        await PlainSqlStore(tmp_path / "none" / "jobs.db").open()


async def test_a_job_that_cannot_be_read_stops_no_other_and_can_be_settled(
    store: PlainSqlStore, path: Path
) -> None:
    await store.insert([JobRecord(queue="q", id=id, name="n") for id in "ab"], now=START)
    run(path, "update conveyor_jobs set created_at = 1 << 62 where id = 'a'")

    request = Claim(queue="q", count=2, token="t", lease=timedelta(minutes=1))
    claimed = await store.claim(request, now=START)
    endings = [Outcome.unreadable(row, "{}") for row in claimed.undecodable]
    await store.settle([*endings, *(Outcome.completed(job, "{}") for job in claimed.jobs)], now=START)

    assert [job.id for job in claimed.jobs] == ["b"]
    assert [job.id for job in await store.find(EVERYTHING, limit=9, now=START)] == ["b"]
    assert await store.count(EVERYTHING, now=START) == {
        ("q", JobState.FAILED): 1,
        ("q", JobState.COMPLETED): 1,
    }


async def test_a_store_of_another_process_is_refused(
    store: PlainSqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getpid", lambda: -1)

    with pytest.raises(StoreForkedError):
        await store.find(EVERYTHING, limit=1, now=START)
