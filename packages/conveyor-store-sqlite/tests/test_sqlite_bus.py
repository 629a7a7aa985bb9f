"""Events between processes: who hears, who pays, and what is left behind."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conveyor.core.events import Event, JobActive, JobCompleted, JobWaiting
from conveyor.core.store import JobRecord, Pause, Where
from conveyor.store.sqlite import SqliteStore, wal_reset_warning
from conveyor.store.sqlite.wal_reset_warning import WalResetWarning, may_lose_commits

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def waiting(id: str, queue: str = "q") -> JobWaiting:
    return JobWaiting(queue_name=queue, at=NOW, job_id=id)


def job(id: str, queue: str = "q") -> JobRecord:
    return JobRecord(queue=queue, id=id, name="work")


def rows(store: SqliteStore, table: str) -> list[Any]:
    with closing(sqlite3.connect(store.path)) as db:
        return db.execute(f"select * from conveyor_{table}").fetchall()  # noqa: S608 - a test's own word


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(tmp_path / "jobs.db", synchronous="NORMAL", poll_interval="5ms") as store:
        yield store


@pytest.fixture
async def peer(store: SqliteStore) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(store.path, synchronous="NORMAL", poll_interval="5ms") as peer:
        yield peer


async def take(events: AsyncIterator[Event], count: int) -> list[Event]:
    async with asyncio.timeout(10):
        return [await anext(events) for _ in range(count)]


async def settled(store: SqliteStore) -> None:
    """Let what was published reach the file, if it is to."""
    await asyncio.sleep(0.02)
    await store.resume("q", Pause(name="nothing"))


# ------------------------------------------------------------------ who pays


async def test_nothing_is_written_while_nobody_else_listens(store: SqliteStore, peer: SqliteStore) -> None:
    async with store.bus.subscribe({"q"}) as own:
        await store.bus.publish([waiting("a")])
        assert await take(own, 1) == [waiting("a")]
        await settled(store)

    assert rows(peer, "events") == []


async def test_only_what_somebody_listens_to_is_written(store: SqliteStore, peer: SqliteStore) -> None:
    async with peer.bus.subscribe({"q"}, kinds={JobCompleted}) as events:
        await store.bus.publish(
            [
                waiting("a"),
                JobActive(queue_name="q", at=NOW, job_id="a", worker="w"),
                JobCompleted(queue_name="other", at=NOW, job_id="a"),
            ]
        )
        await settled(store)
        assert rows(store, "events") == []

        done = JobCompleted(queue_name="q", at=NOW, job_id="a")
        await store.bus.publish([waiting("b"), done])
        assert await take(events, 1) == [done]
    assert len(rows(store, "events")) == 1


async def test_events_that_come_together_are_one_row(store: SqliteStore, peer: SqliteStore) -> None:
    async with peer.bus.subscribe({"q"}) as events:
        for n in range(20):
            await store.bus.publish([waiting(str(n))])

        assert await take(events, 20) == [waiting(str(n)) for n in range(20)]
    assert len(rows(store, "events")) < 5


async def test_publishing_does_not_wait_for_the_file(store: SqliteStore, peer: SqliteStore) -> None:
    async with peer.bus.subscribe({"q"}) as events:
        with closing(sqlite3.connect(store.path, isolation_level=None)) as foreign:
            foreign.execute("begin immediate")
            async with asyncio.timeout(1):
                await store.bus.publish([waiting("a")])
            await asyncio.sleep(0.02)
            foreign.execute("rollback")

        assert await take(events, 1) == [waiting("a")]


async def test_more_events_than_there_is_room_for_are_lost_and_nothing_else(
    store: SqliteStore, peer: SqliteStore
) -> None:
    async with peer.bus.subscribe({"q"}):
        await store.bus.publish([waiting(str(n)) for n in range(50_000)])
        await store.insert([JobRecord(queue="q", id="a", name="work")])

    assert len(await store.find(Where(), limit=1)) == 1


# ------------------------------------------------------------------ who listens


async def test_who_listens_is_known_before_entering_returns(store: SqliteStore, peer: SqliteStore) -> None:
    async with peer.bus.subscribe({"q", "r"}, kinds={JobWaiting}):
        ((_, wanted, until),) = rows(store, "listeners")
        assert wanted in {
            '{"q": ["JobWaiting"], "r": ["JobWaiting"]}',
            '{"r": ["JobWaiting"], "q": ["JobWaiting"]}',
        }
        assert until > datetime.now(UTC).isoformat()


async def test_who_listens_no_more_is_forgotten(store: SqliteStore, peer: SqliteStore) -> None:
    async with peer.bus.subscribe({"q"}):
        pass
    await settled(peer)
    assert rows(store, "listeners") == []

    async with SqliteStore(store.path) as third, third.bus.subscribe({"q"}):
        pass
    assert rows(store, "listeners") == []


async def test_a_store_that_closes_stops_listening(store: SqliteStore) -> None:
    peer = SqliteStore(store.path)
    await peer.open()
    async with peer.bus.subscribe({"q"}) as events:
        await peer.close()

        assert [event async for event in events] == []
        assert rows(store, "listeners") == []


async def test_a_listener_that_was_killed_is_not_written_to_for_ever(store: SqliteStore) -> None:
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute(
            """insert into conveyor_listeners values ('gone', '{"q": null}', '2020-01-01T00:00:00.000000Z')"""
        )

    await store.bus.publish([waiting("a")])
    await settled(store)

    assert rows(store, "events") == []


async def test_two_subscriptions_of_one_store_are_one_listener(store: SqliteStore, peer: SqliteStore) -> None:
    async with peer.bus.subscribe({"q"}) as first:
        async with peer.bus.subscribe({"r"}) as second:
            assert len(rows(store, "listeners")) == 1
            await store.bus.publish([waiting("a"), waiting("b", "r")])
            assert await take(first, 1) == [waiting("a")]
            assert await take(second, 1) == [waiting("b", "r")]
        await settled(peer)

        ((_, wanted, _),) = rows(store, "listeners")
        assert wanted == '{"q": null}'
        await store.bus.publish([waiting("c")])
        assert await take(first, 1) == [waiting("c")]


async def test_listening_goes_on_within_this_process_while_the_file_is_locked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with SqliteStore(tmp_path / "jobs.db", operation_timeout="50ms") as store:
        with closing(sqlite3.connect(store.path, isolation_level=None)) as foreign:
            foreign.execute("begin immediate")
            with caplog.at_level(logging.WARNING):
                async with store.bus.subscribe({"q"}) as events:
                    await store.bus.publish([waiting("a")])
                    assert await take(events, 1) == [waiting("a")]
            foreign.execute("rollback")

    assert "not received for now" in caplog.text


async def test_publishing_and_subscribing_outside_open_and_close_is_harmless(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.db")

    await store.bus.publish([waiting("a")])
    async with store.bus.subscribe({"q"}) as events:
        assert [event async for event in events] == []


# ------------------------------------------------------------------ what is left


async def test_old_events_are_removed(store: SqliteStore, peer: SqliteStore) -> None:
    old = (datetime.now(UTC) - timedelta(minutes=6)).isoformat(timespec="microseconds")[:26] + "Z"
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute("insert into conveyor_events (source, at, body) values ('somebody', ?, '[]')", (old,))

    async with peer.bus.subscribe({"q"}) as events:
        await store.bus.publish([waiting("a")])
        await take(events, 1)

    assert [at for _, _, at, _ in rows(store, "events") if at == old] == []


async def test_events_that_cannot_be_read_are_passed_over(store: SqliteStore, peer: SqliteStore) -> None:
    async with peer.bus.subscribe({"q"}) as events:
        with closing(sqlite3.connect(store.path)) as db, db:
            body = '[["JobLater", {}], nonsense'
            db.execute("insert into conveyor_events (source, at, body) values ('x', '', ?)", (body,))
        await store.bus.publish([waiting("a")])

        assert await take(events, 1) == [waiting("a")]


async def test_events_that_are_no_text_are_passed_over_with_one_warning(
    store: SqliteStore, peer: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with peer.bus.subscribe({"q"}) as events:
        with closing(sqlite3.connect(store.path)) as db, db:
            db.execute("insert into conveyor_events (source, at, body) values ('x', '', cast(x'ff' as text))")
        for _ in range(1_000):
            await asyncio.sleep(0.005)
            if "cannot be read for now" in caplog.text:
                break
        await asyncio.sleep(0.02)
        await store.bus.publish([waiting("a")])

        assert await take(events, 1) == [waiting("a")]
    assert caplog.text.count("cannot be read for now") == 1


async def test_listeners_that_cannot_be_understood_are_not_listened_to(store: SqliteStore) -> None:
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute(
            "insert into conveyor_listeners values ('later', 'nonsense', '2199-01-01T00:00:00.000000Z')"
        )

    await store.bus.publish([waiting("a")])
    await settled(store)

    assert rows(store, "events") == []


async def test_more_events_than_one_look_reads_all_arrive(store: SqliteStore, peer: SqliteStore) -> None:
    async with peer.bus.subscribe({"q"}) as events:
        with closing(sqlite3.connect(store.path)) as db, db:
            db.executemany(
                "insert into conveyor_events (source, at, body) values ('x', '', ?)",
                [
                    (f'[["JobWaiting",{{"queue_name":"q","at":"2026-03-02T09:00:00Z","job_id":"{n}"}}]]',)
                    for n in range(2_500)
                ],
            )

        assert await take(events, 2_500) == [waiting(str(n)) for n in range(2_500)]


# ------------------------------------------------------------------ another process


SPEAKER = """
import asyncio, sys
from datetime import UTC, datetime
from conveyor.core.events import JobCompleted
from conveyor.store.sqlite import SqliteStore

async def main():
    async with SqliteStore(sys.argv[1]) as store:
        for n in range(int(sys.argv[2])):
            await store.bus.publish([JobCompleted(queue_name="q", at=datetime.now(UTC), job_id=str(n))])
            await asyncio.sleep(0.002)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_events_of_another_process_come_soon(store: SqliteStore) -> None:
    async with store.bus.subscribe({"q"}, kinds={JobCompleted}) as events:
        speaker = await asyncio.create_subprocess_exec(sys.executable, "-c", SPEAKER, store.path, "100")
        heard: list[tuple[str, timedelta]] = []
        async with asyncio.timeout(30):
            async for event in events:
                assert isinstance(event, JobCompleted)
                heard.append((event.job_id, datetime.now(UTC) - event.at))
                if len(heard) == 100:
                    break
        await speaker.wait()

    assert [id for id, _ in heard] == [str(n) for n in range(100)]
    delays = sorted(delay for _, delay in heard)
    assert delays[95] < timedelta(milliseconds=250)


# ------------------------------------------------------------------ the WAL-reset fault


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 0), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 54, 1), False),
    ],
)
def test_the_versions_that_may_lose_commits(version: tuple[int, ...], *, affected: bool) -> None:
    assert may_lose_commits(version) is affected


def test_a_file_shared_by_processes_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_reset_warning, "_warned", False)
    monkeypatch.setattr(wal_reset_warning, "_LOOK", 0.0)
    path = str(tmp_path / "jobs.db")
    with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("create table t (x)")
        watch, fixed = WalResetWarning(path, version=(3, 40, 1)), WalResetWarning(path, version=(3, 51, 3))

        watch.check(db, (1, 1))
        watch.check(db, (1, 1))
        assert caplog.text == ""

        for ours in ((2, 2), (2, 2), (1, 2), (1, 3)):
            other.execute("insert into t values (1)")
            watch.check(db, ours)
            fixed.check(db, (1, 1))
        assert caplog.text == ""

        for _ in range(3):
            other.execute("insert into t values (1)")
            watch.check(db, (1, 3))
    assert caplog.text.count("WAL-reset") == 1


async def test_a_process_is_not_told_of_others_after_a_second_store_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_reset_warning, "_warned", False)
    monkeypatch.setattr(wal_reset_warning, "_LOOK", 0.0)
    monkeypatch.setattr(wal_reset_warning, "may_lose_commits", lambda _: True)
    (tmp_path / "link.db").symlink_to(tmp_path / "jobs.db")
    async with SqliteStore(tmp_path / "jobs.db") as first:
        await first.insert([job("a")])
        # Between two looks of the first; across one; and by another path.
        for second in (SqliteStore(first.path), SqliteStore(first.path), SqliteStore(tmp_path / "link.db")):
            async with second:
                await second.insert([job("b", queue="other")])
                if second.path != first.path:
                    await first.insert([job("c")])
                    await second.insert([job("d", queue="other")])
            await first.insert([job("e")])
    assert caplog.text == ""


@pytest.mark.slow
@pytest.mark.skipif(
    not may_lose_commits(sqlite3.sqlite_version_info), reason="this SQLite has the correction"
)
def test_a_second_process_is_noticed(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from conveyor.core.store import JobRecord
from conveyor.store.sqlite import SqliteStore

async def main():
    async with SqliteStore(sys.argv[1]) as store:
        for n in range(30):
            await store.insert([JobRecord(queue=sys.argv[2], id=str(n), name="work")])
            await asyncio.sleep(0.05)

asyncio.run(main())
"""
    path = tmp_path / "jobs.db"

    def start(queue: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", program, path, queue], stderr=subprocess.PIPE, text=True
        )

    with start("alone") as alone:
        assert alone.communicate()[1] == ""
    with start("one") as one, start("two") as two:
        told = [one.communicate()[1], two.communicate()[1]]

    assert [text.count("used by several processes") for text in told] == [1, 1]
