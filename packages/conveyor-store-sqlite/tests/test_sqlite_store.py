"""The store as a whole: its URL and options, its file, its threads, and what calls owe each other."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import sqlite3
import stat
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conveyor.conformance.kit.anything import wrongly_taken
from conveyor.core.errors import (
    GroupFullError,
    InvalidOptionError,
    StoreClosedError,
    StoreError,
    StoreUnavailableError,
)
from conveyor.core.store import Beat, Change, Claim, JobRecord, JobState, Order, Outcome, Pause, Where
from conveyor.store.sqlite import SqliteStore
from conveyor.store.sqlite.rows import decoded_sort_key, encoded_sort_key, read, tie_break_of, written
from conveyor.store.sqlite.threads import Priority

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
LEASE = timedelta(seconds=30)


def job(id: str = "a", **fields: Any) -> JobRecord:
    return JobRecord(**{"queue": "q", "id": id, "name": "work", **fields})


def claim(count: int = 1, token: str = "token", **fields: Any) -> Claim:
    return Claim(queue="q", count=count, token=token, lease=LEASE, worker="w", **fields)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(tmp_path / "jobs.db", synchronous="NORMAL") as store:
        yield store


def sql(store: SqliteStore, statement: str, *parameters: Any) -> list[Any]:
    """What a program of the user's own reads from, or writes to, the file."""
    with sqlite3.connect(store.path) as db:
        found = db.execute(statement, parameters).fetchall()
    db.close()
    return found


def mode_of(path: str | Path) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def move(path: str, to: str) -> None:
    Path(path).rename(to)


async def test_a_connection_of_the_user_is_refused_with_the_reason(store: SqliteStore) -> None:
    with (
        sqlite3.connect(store.path) as mine,
        pytest.raises(InvalidOptionError, match="can write"),
    ):
        store.using(mine)
    mine.close()


# ------------------------------------------------------------------ the URL and the options


def test_three_slashes_are_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert SqliteStore.from_url("sqlite:///jobs.db").path == str(tmp_path / "jobs.db")
    assert SqliteStore.from_url("sqlite:///in/jobs.db").path == str(tmp_path / "in" / "jobs.db")


def test_four_slashes_are_an_absolute_path() -> None:
    assert SqliteStore.from_url("sqlite:////var/lib/jobs.db").path == "/var/lib/jobs.db"


def test_a_path_is_percent_decoded() -> None:
    assert SqliteStore.from_url("sqlite:////a%20b/50%25%3F%23%C3%A9.db").path == "/a b/50%?#é.db"


def test_a_relative_path_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = SqliteStore("jobs.db")
    monkeypatch.chdir("/")

    assert store.path == str(tmp_path / "jobs.db")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite:jobs.db",
        "sqlite:/jobs.db",
        "sqlite:///:memory:",
        "sqlite:///file:jobs.db",
        "sqlite://host/jobs.db",
        "sqlite://user:secret@host/jobs.db",
        "sqlite:///jobs.db#part",
        "sqlite:///a%00b.db",
        "sqlite:////var/lib/",
        "other:///jobs.db",
    ],
)
def test_a_url_without_a_usable_path_is_refused(url: str) -> None:
    with pytest.raises(InvalidOptionError) as refused:
        SqliteStore.from_url(url)

    assert refused.value.option == "url"
    assert refused.value.allowed


@pytest.mark.parametrize("path", ["", ":memory:", "a\0b", "folder/", b"bytes.db"])
def test_a_path_that_cannot_be_one_is_refused(path: Any) -> None:
    with pytest.raises(InvalidOptionError) as refused:
        SqliteStore(path)

    assert refused.value.option == "path"


def test_memory_is_told_to_use_the_memory_store() -> None:
    with pytest.raises(InvalidOptionError, match="memory store"):
        SqliteStore.from_url("sqlite:///:memory:")


def test_options_may_stand_in_the_url() -> None:
    store = SqliteStore.from_url(
        "sqlite:///jobs.db?synchronous=normal&operation_timeout=2s&auto_migrate=false&poll_interval=10ms"
    )

    options = store._options
    assert options.synchronous == "NORMAL"
    assert options.operation_timeout == timedelta(seconds=2)
    assert options.auto_migrate is False
    assert options.poll_interval == timedelta(milliseconds=10)


def test_keywords_go_before_the_options_in_the_url() -> None:
    store = SqliteStore.from_url("sqlite:///jobs.db?synchronous=NORMAL", synchronous="FULL")

    assert store._options.synchronous == "FULL"


def test_an_unknown_option_is_named_with_those_that_exist() -> None:
    with pytest.raises(InvalidOptionError, match="synchronous, operation_timeout") as refused:
        SqliteStore.from_url("sqlite:///jobs.db?sync=1")
    assert refused.value.option == "sync"

    with pytest.raises(InvalidOptionError) as refused:
        SqliteStore.from_url("sqlite:///jobs.db", timeout=3)
    assert refused.value.option == "timeout"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("synchronous", "OFF"),
        ("synchronous", None),
        ("operation_timeout", 0),
        ("operation_timeout", -1),
        ("operation_timeout", float("nan")),
        ("operation_timeout", "soon"),
        ("poll_interval", "0s"),
        ("auto_migrate", "perhaps"),
        ("auto_migrate", None),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(InvalidOptionError) as refused:
        SqliteStore("jobs.db", **{option: value})

    assert refused.value.option == option


def test_what_a_parameter_cannot_be_is_refused_by_its_name() -> None:
    span = {"5", "1.5", "2**31", "duration", "timedelta"}
    takes = {
        "path": {"text", "duration", "control", "long text", "state"},
        "synchronous": set[str](),
        "operation_timeout": span,
        "auto_migrate": {"True"},
        "poll_interval": span,
    }

    assert wrongly_taken(SqliteStore, {"path": "jobs.db"}, takes) == []
    assert wrongly_taken(SqliteStore.from_url, {}, {"url": ()}) == []
    assert inspect.signature(SqliteStore).parameters.keys() == takes.keys()


# ------------------------------------------------------------------ the file and its connections


async def test_the_file_is_for_its_owner_only(store: SqliteStore) -> None:
    await store.insert([job()], now=START)

    assert [mode_of(store.path + suffix) for suffix in ("", "-wal", "-shm")] == [0o600] * 3


@pytest.mark.parametrize(("synchronous", "level"), [("FULL", 2), ("NORMAL", 1)])
async def test_connections_have_their_settings(tmp_path: Path, synchronous: str, level: int) -> None:
    def settings(db: sqlite3.Connection) -> list[Any]:
        names = ("journal_mode", "synchronous", "trusted_schema", "foreign_keys", "mmap_size", "query_only")
        return [db.execute(f"pragma {name}").fetchone()[0] for name in names]

    async with SqliteStore(tmp_path / "jobs.db", synchronous=synchronous) as store:
        assert await store._write(Priority.REST, settings) == ["wal", level, 0, 0, 0, 0]
        assert (await store._read(settings))[0] == "wal"
        assert (await store._read(settings))[5] == 1


async def test_an_existing_file_keeps_its_mode_and_its_other_tables(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    with sqlite3.connect(path) as db:
        db.execute("create table mine (thing text)")
        db.execute("insert into mine values ('kept')")
    db.close()
    path.chmod(0o640)

    async with SqliteStore(path) as store:
        await store.insert([job()])

        assert sql(store, "select thing from mine") == [("kept",)]
    assert mode_of(path) == 0o640


async def test_every_table_and_index_has_the_prefix(store: SqliteStore) -> None:
    names = [name for (name,) in sql(store, "select name from sqlite_master")]

    assert [name for name in names if not name.startswith(("conveyor_", "sqlite_"))] == []


async def test_closing_empties_the_write_ahead_log_and_leaves_one_file(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "jobs.db") as store:
        await store.insert([job(str(n)) for n in range(100)])

    assert names_in(tmp_path) == ["jobs.db"]


async def test_jobs_are_there_when_the_store_is_opened_again(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.db")
    async with store:
        await store.insert([job("a")], now=START)
    async with store:
        assert [found.id for found in await store.find(Where(queue="q"), limit=9)] == ["a"]


async def test_a_store_that_was_closed_or_never_opened_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.db")
    with pytest.raises(StoreClosedError):
        await store.insert([job()])
    async with store:
        pass
    with pytest.raises(StoreClosedError):
        await store.find(Where(), limit=1)
    await store.close()


async def test_closing_finishes_the_calls_under_way(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.db", synchronous="NORMAL")
    await store.open()
    calls = [asyncio.ensure_future(store.insert([job(str(n))])) for n in range(50)]
    await asyncio.sleep(0)

    await store.close()

    assert all([(await call)[0].created for call in calls])


async def test_two_handles_that_open_a_new_file_at_once_share_it(tmp_path: Path) -> None:
    handles = [SqliteStore(tmp_path / "jobs.db", synchronous="NORMAL") for _ in range(8)]

    await asyncio.gather(*(handle.open() for handle in handles))
    await asyncio.gather(*(handle.insert([job(str(n))]) for n, handle in enumerate(handles)))

    assert await handles[0].count(Where(queue="q")) == {("q", JobState.WAITING): 8}
    for handle in handles:
        await handle.close()


async def test_opening_twice_at_once_opens_once(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.db")
    before = threading.active_count()

    await asyncio.gather(store.open(), store.open(), store.open())

    assert threading.active_count() == before + 2
    await store.close()
    assert threading.active_count() == before


def test_a_store_that_nobody_closed_goes_quietly(tmp_path: Path) -> None:
    before = threading.active_count()

    async def forget() -> None:
        store = SqliteStore(tmp_path / "jobs.db")
        await store.open()
        await store.insert([job()])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(forget())
        gc.collect()
        deadline = threading.Event()
        for _ in range(200):
            if threading.active_count() == before:
                break
            deadline.wait(0.01)

    assert threading.active_count() == before
    assert names_in(tmp_path) == ["jobs.db"]


def test_one_store_may_serve_one_event_loop_after_another(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.db")

    async def add(id: str) -> int:
        async with store:
            await store.insert([job(id)])
            return len(await store.find(Where(), limit=9))

    assert [asyncio.run(add(id)) for id in "abc"] == [1, 2, 3]


# ------------------------------------------------------------------ calls and commits


async def test_calls_that_come_together_are_committed_together(store: SqliteStore) -> None:
    commits = 0

    def trace(statement: str) -> None:
        nonlocal commits
        commits += statement == "commit"

    await store._write(Priority.REST, lambda db: db.set_trace_callback(trace))
    await asyncio.gather(*(store.insert([job(str(n))]) for n in range(200)))
    await store._write(Priority.REST, lambda db: db.set_trace_callback(None))

    assert commits < 20
    assert sum((await store.count(Where())).values()) == 200


async def test_one_call_that_fails_does_not_take_others_with_it(store: SqliteStore) -> None:
    full = job("full", group="g", group_max_size=0)

    results = await asyncio.gather(
        store.insert([job("a")]),
        store.insert([job("b"), full]),
        store.insert([job("c")]),
        return_exceptions=True,
    )

    assert isinstance(results[1], GroupFullError)
    assert sorted(found.id for found in await store.find(Where(), limit=9)) == ["a", "c"]


async def test_urgent_calls_go_first(store: SqliteStore) -> None:
    order: list[str] = []
    gate = threading.Event()

    def note(name: str) -> Callable[[sqlite3.Connection], None]:
        return lambda _: order.append(name)

    waiting: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(store._write(Priority.REST, lambda _: gate.wait(5)))
    ]
    await asyncio.sleep(0.02)
    waiting += [
        asyncio.ensure_future(store._write(priority, note(priority.name)))
        for priority in sorted(Priority, reverse=True)
    ]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*waiting)

    assert order == ["RENEW", "SETTLE", "CLAIM", "INSERT", "REST"]


async def test_a_call_that_was_cancelled_before_it_was_taken_up_does_not_happen(store: SqliteStore) -> None:
    gate = threading.Event()
    blocker = asyncio.ensure_future(store._write(Priority.REST, lambda _: gate.wait(5)))
    await asyncio.sleep(0.02)
    doomed = asyncio.ensure_future(store.insert([job("doomed")]))
    await asyncio.sleep(0)

    doomed.cancel()
    await asyncio.gather(doomed, return_exceptions=True)
    gate.set()
    await blocker

    assert await store.find(Where(), limit=9) == []


async def test_a_call_that_was_cancelled_while_it_runs_happens_wholly(store: SqliteStore) -> None:
    started, gate = threading.Event(), threading.Event()

    def slow(db: sqlite3.Connection) -> None:
        started.set()
        gate.wait(5)
        db.execute("insert into conveyor_pauses values ('q', 'queue', '', null)")

    call = asyncio.ensure_future(store._write(Priority.REST, slow))
    await asyncio.sleep(0.01)
    assert started.wait(5)
    call.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    await store.resume("q", Pause(name="anything"))  # comes after it

    assert await store.paused("q") == {Pause(): None}


async def test_nothing_runs_in_the_event_loops_own_executor(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError(args)

    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)

    await store.insert([job()], now=START)
    await store.find(Where(), limit=1)
    await store.count(Where())


async def test_a_step_that_breaks_leaves_the_store_usable(store: SqliteStore) -> None:
    def broken(db: sqlite3.Connection) -> None:
        db.execute("insert into conveyor_pauses values ('q', 'queue', '', null)")
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await store._write(Priority.REST, broken)

    assert await store.paused("q") == {}


async def test_a_busy_event_loop_does_not_keep_calls_from_their_thread(store: SqliteStore) -> None:
    await store.insert([job(str(n)) for n in range(100)], now=START)
    done = False

    async def spin() -> None:
        while not done:
            sum(range(5_000))
            await asyncio.sleep(0)

    spinning = asyncio.ensure_future(spin())
    began = time.monotonic()
    claimed = await store.claim(claim(100), now=START)
    await store.renew([Beat(lease=record.lease) for record in claimed.jobs], LEASE, now=START)
    await store.settle([Outcome.completed(record, "{}") for record in claimed.jobs], now=START)
    took = time.monotonic() - began
    done = True
    await spinning

    assert took < 2  # without a pause for the thread it may be tens of seconds


# ------------------------------------------------------------------ rows that cannot be read


@pytest.fixture
async def damaged(store: SqliteStore) -> SqliteStore:
    """Three jobs that cannot be read at the head of a queue, and one that can."""
    await store.insert([job(id) for id in ("instant", "text", "day", "fine")], now=START)
    sql(store, "update conveyor_jobs set created_at = 'yesterday' where id = 'instant'")
    sql(store, "update conveyor_jobs set payload = cast(x'22ff22' as text) where id = 'text'")
    sql(store, "update conveyor_jobs set expires_at = '2026-02-30T00:00:00.000000Z' where id = 'day'")
    return store


async def test_rows_that_cannot_be_read_are_claimed_and_do_not_stop_others(damaged: SqliteStore) -> None:
    claimed = await damaged.claim(claim(9), now=START)

    assert [found.id for found in claimed.jobs] == ["fine"]
    assert [(row.lease.id, row.attempt) for row in claimed.undecodable] == [
        ("instant", 1),
        ("text", 1),
        ("day", 1),
    ]
    assert "yesterday" in claimed.undecodable[0].reason


async def test_rows_that_cannot_be_read_can_be_settled(damaged: SqliteStore) -> None:
    claimed = await damaged.claim(claim(9), now=START)

    settled = await damaged.settle(
        [Outcome.unreadable(row, '{"error":"?"}') for row in claimed.undecodable], now=START
    )

    assert settled.applied == {row.lease for row in claimed.undecodable}
    assert await damaged.count(Where(queue="q"), now=START) == {
        ("q", JobState.FAILED): 3,
        ("q", JobState.ACTIVE): 1,
    }


async def test_find_leaves_out_rows_that_cannot_be_read_with_a_line_in_the_log(
    damaged: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = await damaged.find(Where(queue="q"), limit=9, now=START)

    assert [record.id for record in found] == ["fine"]
    assert [id for id in ("instant", "text", "day") if f"'{id}'" in caplog.text] == [
        "instant",
        "text",
        "day",
    ]
    assert '"\\udcff"' not in caplog.text


async def test_a_page_goes_on_behind_rows_that_cannot_be_read(damaged: SqliteStore) -> None:
    await damaged.insert([job("last")], now=START)

    pages = [await damaged.find(Where(queue="q"), limit=limit, now=START) for limit in (1, 2, 3)]

    assert [[record.id for record in page] for page in pages] == [
        ["fine"],
        ["fine", "last"],
        ["fine", "last"],
    ]


async def test_time_passes_for_rows_that_cannot_be_read(store: SqliteStore) -> None:
    await store.insert([job("a"), job("b", delay=timedelta(seconds=5))], now=START)
    await store.claim(claim(), now=START)
    sql(store, "update conveyor_jobs set created_at = 'yesterday', unique_until = 'never'")
    later = START + timedelta(minutes=1)

    advanced = await store.advance({"q"}, now=later)

    assert [key.id for key in advanced.due] == ["b"]
    assert [key.id for key in advanced.stalled] == ["a"]
    await store.update(Where(queue="q"), Change(priority=3), now=later)
    deleted = await store.delete(Where(queue="q"), limit=9, now=later)
    assert [key.id for key in deleted.removed] == ["a", "b"]


async def test_instants_that_are_none_do_not_stop_time(store: SqliteStore) -> None:
    await store.insert([job("a", delay=timedelta(seconds=5))], now=START)
    sql(store, "update conveyor_jobs set run_at = 'soon'")

    assert (await store.advance({"q"}, now=START)).wait is None
    assert (await store.claim(claim(), now=START)).wait is None


# ------------------------------------------------------------------ what groups leave behind


async def test_a_group_that_was_forgotten_does_not_begin_to_take_turns_by_a_retry(store: SqliteStore) -> None:
    await store.insert([job("a", group="g"), job("b", group="g")], now=START)
    for token in ("one", "two"):
        (held,) = (await store.claim(claim(token=token), now=START)).jobs
        await store.settle([Outcome.failed(held, "{}")], now=START)
    await store.advance({"q"}, now=START)
    assert sql(store, "select * from conveyor_groups") == []

    await store.update(Where(queue="q"), Change(retry=True), now=START)
    await store.insert([job("c"), job("d")], now=START)
    claimed = [(await store.claim(claim(token=t), now=START)).jobs[0].id for t in ("1", "2", "3", "4")]

    assert claimed == ["a", "b", "c", "d"]
    assert sql(store, "select * from conveyor_queues") == []
    await store.delete(Where(queue="q"), limit=9, now=START)
    await store.advance({"q"}, now=START)
    assert sql(store, "select * from conveyor_groups") == []


async def test_a_key_whose_time_is_over_can_be_taken_again_by_a_retry(store: SqliteStore) -> None:
    await store.insert([job("a", unique_key="k")], now=START)
    (held,) = (await store.claim(claim(), now=START)).jobs
    await store.settle([Outcome.failed(held, "{}")], now=START)
    await store.insert([job("b", unique_key="k", unique_for=timedelta(seconds=5))], now=START)
    later = START + timedelta(seconds=6)

    held_back = await store.update(Where(queue="q", ids=frozenset("a")), Change(retry=True), now=START)
    retried = await store.update(Where(queue="q", ids=frozenset("a")), Change(retry=True), now=later)

    assert held_back == frozenset()
    assert [key.id for key in retried] == ["a"]
    assert [r.id for r in await store.find(Where(queue="q", unique_key="k"), limit=9, now=later)] == ["a"]


# ------------------------------------------------------------------ values


def test_sort_keys_are_kept_exactly_and_sort_as_numbers() -> None:
    sort_keys = [
        -(2.0**31),
        -1.5,
        -1e-9,
        0.0,
        1e-9,
        1.0,
        1.0000000000000002,
        2940000.2057612345,
        2.0**31,
        1.7e15,
    ]

    keys = [encoded_sort_key(sort_key) for sort_key in sort_keys]

    assert keys == sorted(keys)
    assert [decoded_sort_key(key) for key in keys] == sort_keys
    assert encoded_sort_key(-0.0) == encoded_sort_key(0.0)


def test_instants_are_of_one_width() -> None:
    for instant in (START, START.replace(microsecond=1), datetime(1970, 1, 1, tzinfo=UTC)):
        assert len(written(instant)) == 27
        assert read(written(instant)) == instant
    assert written(START.astimezone()) == written(START)


def test_lifo_comes_before_fifo() -> None:
    assert sorted([tie_break_of(n, lifo=lifo) for n in (1, 2) for lifo in (False, True)]) == [-2, -1, 1, 2]


async def test_a_sort_key_with_ageing_survives_a_change_of_priority(store: SqliteStore) -> None:
    await store.insert([job("a", priority=2, ageing=timedelta(seconds=7))], now=START)
    (before,) = await store.find(Where(), limit=1)

    await store.update(Where(), Change(priority=5), now=START)

    (after,) = await store.find(Where(), limit=1)
    assert after.sort_key == before.sort_key + 3


async def test_more_rows_than_one_statement_reads_keep_their_order(store: SqliteStore) -> None:
    await store.insert([job(str(n)) for n in range(1_001)], now=START)

    found = await store.find(Where(queue="q"), limit=2_000, order=Order.NEWEST)
    claimed = await store.claim(claim(1_001), now=START)

    assert [record.id for record in found] == [str(n) for n in reversed(range(1_001))]
    assert [record.id for record in claimed.jobs] == [str(n) for n in range(1_001)]


async def test_documents_of_a_mebibyte_are_claimed_by_the_hundred(store: SqliteStore) -> None:
    payload = '"' + "x" * (1 << 20) + '"'
    await store.insert([job(str(n), payload=payload) for n in range(20)], now=START)

    claimed = await store.claim(claim(20), now=START)

    assert {record.payload for record in claimed.jobs} == {payload}


async def test_two_beats_of_one_lease_write_both_documents(store: SqliteStore) -> None:
    await store.insert([job()], now=START)
    (held,) = (await store.claim(claim(), now=START)).jobs

    await store.renew(
        [Beat(lease=held.lease, report='{"n":1}', payload="1"), Beat(lease=held.lease, report='{"n":2}')],
        LEASE,
        now=START,
    )

    (found,) = await store.find(Where(), limit=1)
    assert (found.payload, found.report) == ("1", '{"n":2}')


async def test_the_repr_names_the_file(store: SqliteStore) -> None:
    assert repr(store) == f"SqliteStore({store.path!r})"


async def test_a_replaced_file_is_noticed(store: SqliteStore, tmp_path: Path) -> None:
    await store.insert([job()])
    move(store.path, store.path + ".away")

    threads = store._threads
    assert threads is not None
    threads[0]._looked = 0.0
    with pytest.raises(StoreUnavailableError, match="removed or replaced"):
        await store.insert([job("b")])
    assert Path(store.path).name not in names_in(tmp_path)

    move(store.path + ".away", store.path)
    assert (await store.insert([job("b")]))[0].created


def test_no_statement_begins_a_transaction_that_may_have_to_be_upgraded() -> None:
    folder = Path(sys.modules["conveyor.store.sqlite"].__file__ or "").parent
    found = [line.strip() for file in folder.rglob("*.py") for line in file.read_text().splitlines()]

    begins = [line for line in found if 'execute("begin' in line or "'begin" in line]
    assert begins
    # the reader's own is the only other one: its connection cannot write
    assert [line for line in begins if "begin immediate" not in line] == [
        'db.execute("begin deferred")  # it only reads, so it cannot meet another writer'
    ]


def test_a_store_is_for_the_event_loop_it_was_opened_on(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.db")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(store.open())

    for call in (lambda: store.count(Where()), store.close):
        with pytest.raises(StoreError, match="another event loop"):
            asyncio.run(call())

    assert loop.run_until_complete(store.count(Where())) == {}
    loop.run_until_complete(store.close())
    loop.close()
