"""What the contract leaves to this store: its file, and what happens to that."""

# ruff: noqa: ASYNC240 - a test may look at a file

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conveyor_store_jsonfile import JsonFileStore

from conveyor.core.errors import (
    InvalidOptionError,
    SchemaTooNewError,
    StoreError,
    StoreForkedError,
    StoreUnavailableError,
)
from conveyor.core.store import Claim, Feature, JobRecord, JobState, Outcome, Where

START = datetime(2030, 1, 1, tzinfo=UTC)
EVERYTHING = Where()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.json"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[JsonFileStore]:
    async with JsonFileStore(path) as store:
        yield store


def job(job_id: str) -> JobRecord:
    return JobRecord(queue="q", id=job_id, name="n")


def claim(count: int = 1) -> Claim:
    return Claim(queue="q", count=count, token="t", lease=timedelta(minutes=1), worker="w")


async def ids(store: JsonFileStore) -> list[str]:
    return [found.id for found in await store.find(EVERYTHING, limit=100, now=START)]


@pytest.mark.parametrize("url", ["jsonfile://", "jobs.json", "sqlite:///jobs.db"])
def test_a_url_without_a_path_is_refused(url: str) -> None:
    with pytest.raises(InvalidOptionError, match="jsonfile://PATH"):
        JsonFileStore.from_url(url)


def test_it_declares_what_it_offers(path: Path) -> None:
    features = JsonFileStore(path).features

    assert features == {Feature.DURABLE, Feature.UNIQUE_KEYS, Feature.ACTIVE_LIMITS}


async def test_two_handles_see_the_same_jobs(store: JsonFileStore, path: Path) -> None:
    async with JsonFileStore.from_url(f"jsonfile://{path}") as other:
        await asyncio.gather(
            *(handle.insert([job(str(n))], now=START) for n, handle in enumerate([store, other] * 10))
        )

        assert sorted(map(int, await ids(other))) == list(range(20))
        assert await ids(store) == await ids(other)


async def test_the_file_is_its_owners_and_no_other_is_left(store: JsonFileStore, path: Path) -> None:
    await store.insert([job("a")], now=START)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(found.name for found in path.parent.iterdir()) == ["jobs.json", "jobs.json.lock"]


async def test_a_call_that_changes_nothing_writes_nothing(store: JsonFileStore, path: Path) -> None:
    await store.insert([job("a")], now=START)
    before = path.stat().st_ino

    await store.claim(claim(0), now=START)
    await store.advance({"q"}, now=START)

    assert path.stat().st_ino == before


async def test_the_file_of_a_newer_release_is_refused_and_not_touched(path: Path) -> None:
    path.write_text('{"version": 2}')

    with pytest.raises(SchemaTooNewError):
        await JsonFileStore(path).open()

    assert path.read_text() == '{"version": 2}'


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"version": "1"}'])
async def test_a_file_of_something_else_is_refused_and_not_touched(path: Path, text: str) -> None:
    path.write_text(text)

    with pytest.raises(StoreError, match="damaged"):
        await JsonFileStore(path).open()

    assert path.read_text() == text


async def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="No such file"):
        await JsonFileStore(tmp_path / "none" / "jobs.json").open()


async def test_a_job_that_cannot_be_read_stops_no_other_and_stays(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await store.insert([job("a"), job("b")], now=START)
    found = json.loads(path.read_text())
    found["jobs"][0]["created_at"] = "the day before yesterday"
    path.write_text(json.dumps(found))

    [held] = (await store.claim(claim(2), now=START)).jobs
    await store.settle([Outcome.completed(held, "{}")], now=START)

    assert held.id == "b"
    assert await store.count(EVERYTHING, now=START) == {("q", JobState.COMPLETED): 1}
    assert "cannot be read" in caplog.text
    assert "the day before yesterday" in path.read_text()


async def test_a_store_of_another_process_is_refused(
    store: JsonFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getpid", lambda: -1)

    with pytest.raises(StoreForkedError):
        await ids(store)
