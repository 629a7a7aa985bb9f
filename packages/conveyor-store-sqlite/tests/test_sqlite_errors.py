"""What goes wrong with a file: each has its error, says what to do, and passes when its cause has."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conveyor.core.errors import (
    InvalidOptionError,
    StoreBusyError,
    StoreError,
    StoreForkedError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from conveyor.core.store import Beat, Claim, JobRecord, JobState, Where
from conveyor.store.sqlite import SqliteStore
from conveyor.store.sqlite.errors import store_error
from conveyor.store.sqlite.threads import Priority

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
LEASE = timedelta(seconds=30)


def job(id: str = "a", **fields: Any) -> JobRecord:
    return JobRecord(**{"queue": "q", "id": id, "name": "work", **fields})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(tmp_path / "jobs.db", operation_timeout="200ms") as store:
        yield store


async def total(store: SqliteStore) -> int:
    return sum((await store.count(Where())).values())


def create_link(path: Path, *, to: Path) -> None:
    to.touch()
    path.symlink_to(to)


def open_to_all(folder: Path) -> None:
    folder.chmod(0o777)


def create(folder: Path) -> None:
    folder.mkdir()


# ------------------------------------------------------------------ opening


async def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "nowhere" / "jobs.db")

    with pytest.raises(StoreUnavailableError, match=r"there is no folder .*nowhere; create it") as failed:
        await store.open()

    assert failed.value.retryable
    (tmp_path / "nowhere").mkdir()
    async with store:
        await store.insert([job()])


#: What may stand in a path, below the test's folder, and cannot be opened · what the error says.
UNREACHABLE: dict[str, tuple[str, str]] = {
    "a name too long": ("x" * 300, "name too long"),
    "a name too long for what is beside it": ("x" * 250, "name too long"),
    "a folder's name too long": ("x" * 300 + "/jobs.db", "name too long"),
    "a path too long": ("/".join(["x" * 200] * 25), "name too long"),
    "a file for a folder": ("file/jobs.db", "there is no folder"),
    "a link to itself": ("loop", "symbolic links"),
    "a folder that is a link to itself": ("loop/jobs.db", "symbolic links"),
}


@pytest.mark.parametrize(("path", "reason"), UNREACHABLE.values(), ids=UNREACHABLE)
def test_a_path_that_leads_nowhere(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = sorted(tmp_path.iterdir())

    with pytest.raises(StoreUnavailableError, match=f"(?i){reason}"):
        asyncio.run(SqliteStore(f"{tmp_path}/{path}").open())

    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_one_may_not_enter(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    program = """
import asyncio, os, sys
from conveyor.core import StoreError, Worker, open_store
from conveyor.store.sqlite import SqliteStore

closed, inner = sys.argv[1:]
os.chmod(closed, 0)
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)  # nobody: permissions do not keep root out
for path in (f"{closed}/jobs.db", f"{inner}/jobs.db"):
    try:
        asyncio.run(SqliteStore(path).open())
    except StoreError as error:
        print(error)
"""
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program, inner.parent, inner], capture_output=True, text=True, check=True
        )
    finally:
        inner.parent.chmod(0o700)

    said = ended.stdout.splitlines()
    assert ended.stderr == ""
    assert len(said) == 2
    assert all("cannot be reached: Permission denied; correct" in line for line in said), said


async def test_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"jobs-\xff#?%.db")
    async with SqliteStore(tmp_path / name) as store:
        await store.insert([job()])

    assert (tmp_path / name).exists()
    with pytest.raises(InvalidOptionError, match="no file name can have"):
        SqliteStore(tmp_path / "\ud800.db")


def test_a_relative_path_in_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    with pytest.raises(InvalidOptionError, match="the current folder is gone"):
        SqliteStore("jobs.db")


async def test_a_path_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="is a folder"):
        await SqliteStore(tmp_path).open()


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes, and they are longer than a header of SQLite would be. " * 20)
    before = path.read_bytes()

    with pytest.raises(StoreUnavailableError, match="is not a SQLite database"):
        await SqliteStore(path).open()

    assert path.read_bytes() == before


async def test_a_link_of_somebody_else_in_a_folder_open_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_link(tmp_path / "jobs.db", to=tmp_path / "target.db")
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    open_to_all(tmp_path)

    with pytest.raises(StoreUnavailableError, match="link that another user put"):
        await SqliteStore(tmp_path / "jobs.db").open()

    monkeypatch.undo()
    async with SqliteStore(tmp_path / "jobs.db") as store:
        await store.insert([job()])


async def test_a_store_that_failed_to_open_leaves_no_thread_and_opens_later(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
        foreign.execute("begin exclusive")
        store = SqliteStore(path, operation_timeout="50ms")

        with pytest.raises(StoreBusyError, match="operation_timeout"):
            await store.open()
        foreign.execute("rollback")

    async with store:
        await store.insert([job()])


# ------------------------------------------------------------------ locked by others


async def test_a_lock_that_others_hold_for_too_long(store: SqliteStore) -> None:
    with closing(sqlite3.connect(store.path, isolation_level=None)) as foreign:
        foreign.execute("begin immediate")
        began = time.monotonic()
        with pytest.raises(StoreBusyError, match="operation_timeout") as failed:
            await store.insert([job()])
        took = time.monotonic() - began
        assert await store.find(Where(), limit=1) == []
        foreign.execute("rollback")

    assert failed.value.retryable
    assert not failed.value.outcome_unknown
    assert 0.2 <= took < 2
    await store.insert([job()])


async def test_a_lock_that_others_hold_for_a_while(store: SqliteStore) -> None:
    with closing(sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)) as foreign:
        foreign.execute("begin immediate")
        call = asyncio.ensure_future(store.insert([job()]))
        await asyncio.sleep(0.05)
        assert not call.done()
        foreign.execute("rollback")

        assert (await call)[0].created


async def test_waiting_for_a_lock_leaves_the_loop_alone_and_lets_urgent_calls_go_first(
    tmp_path: Path,
) -> None:
    async with SqliteStore(tmp_path / "jobs.db") as store:
        await store.insert([job()], now=START)
        request = Claim(queue="q", count=1, token="t", lease=LEASE, worker="w")
        (held,) = (await store.claim(request, now=START)).jobs
        order: list[str] = []

        async def call(name: str, what: Any) -> None:
            await what
            order.append(name)

        with closing(sqlite3.connect(store.path, isolation_level=None)) as foreign:
            foreign.execute("begin immediate")
            calls = [asyncio.ensure_future(call("insert", store.insert([job("b")])))]
            lag = 0.0
            for _ in range(10):
                before = time.monotonic()
                await asyncio.sleep(0.01)
                lag = max(lag, time.monotonic() - before - 0.01)
            calls.append(
                asyncio.ensure_future(call("renew", store.renew([Beat(lease=held.lease)], LEASE, now=START)))
            )
            await asyncio.sleep(0.01)
            foreign.execute("rollback")
        await asyncio.gather(*calls)

        assert order == ["renew", "insert"]
        assert lag < 0.5  # generous: the machine may be busy; SQLite's own waiting would be seconds


async def test_a_call_that_waits_for_a_lock_can_be_cancelled(store: SqliteStore) -> None:
    with closing(sqlite3.connect(store.path, isolation_level=None)) as foreign:
        foreign.execute("begin immediate")
        call = asyncio.ensure_future(store.insert([job()]))
        await asyncio.sleep(0.03)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        foreign.execute("rollback")
    await store.insert([job("b")])

    assert [found.id for found in await store.find(Where(), limit=9)] == ["b"]


# ------------------------------------------------------------------ no room


async def limit_pages(store: SqliteStore, more: int | None) -> None:
    """Leave room for so many more pages; None: for as many as there is."""

    def limit(db: sqlite3.Connection) -> None:
        pages = db.execute("pragma page_count").fetchone()[0]
        db.execute(f"pragma max_page_count = {1 << 30 if more is None else pages + more}")

    await store._write(Priority.REST, limit)


async def test_a_full_disk(store: SqliteStore) -> None:
    await store.insert([job("before")], now=START)
    await limit_pages(store, 2)

    with pytest.raises(StoreFullError, match="no room left") as failed:
        await store.insert([job(str(n), payload='"' + "x" * 1_000 + '"') for n in range(100)], now=START)

    assert failed.value.retryable
    assert not failed.value.outcome_unknown
    assert await total(store) == 1
    await limit_pages(store, None)
    await store.insert([job("after")], now=START)
    assert await total(store) == 2


async def test_a_full_disk_fails_only_the_calls_that_need_room(store: SqliteStore) -> None:
    await store.insert([job("held")], now=START)
    request = Claim(queue="q", count=1, token="t", lease=LEASE, worker="w")
    (held,) = (await store.claim(request, now=START)).jobs
    await limit_pages(store, 2)
    large = [job(str(n), payload='"' + "x" * 1_000 + '"') for n in range(100)]

    results = await asyncio.gather(
        store.insert(large, now=START),
        store.renew([Beat(lease=held.lease)], LEASE, now=START),
        store.insert([job("small")], now=START),
        return_exceptions=True,
    )

    assert isinstance(results[0], StoreFullError)
    assert not isinstance(results[1], BaseException)
    assert results[1].held == {held.lease}
    assert not isinstance(results[2], BaseException)
    assert await total(store) == 2


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system, which root may"
)
def test_a_full_file_system(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=False).returncode:
        pytest.skip("mounting is not allowed here")

    async def main() -> None:
        async with SqliteStore(folder / "jobs.db") as store:
            large = '"' + "x" * 20_000 + '"'
            results: list[object] = []
            for n in range(200):
                results += await asyncio.gather(
                    store.insert([job(str(n), payload=large)]), return_exceptions=True
                )
            acknowledged = sum(not isinstance(result, StoreFullError) for result in results)
            assert 10 < acknowledged < 200
            assert await total(store) == acknowledged
            subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)  # noqa: ASYNC221 - nothing else runs
            await store.insert([job("after")])
            assert await total(store) == acknowledged + 1

    try:
        asyncio.run(main())
    finally:
        subprocess.run(["umount", folder], check=True)


# ------------------------------------------------------------------ read-only


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system, which root may"
)
def test_a_file_system_that_becomes_read_only(tmp_path: Path) -> None:
    folder = tmp_path / "fixed"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], check=False).returncode:
        pytest.skip("mounting is not allowed here")

    def remount(mode: str) -> bool:
        return not subprocess.run(["mount", "-o", f"remount,{mode}", folder], check=False).returncode

    async def refused() -> None:
        async with SqliteStore(folder / "jobs.db") as store:
            await store.insert([job("before")])
        assert remount("ro")
        with pytest.raises((StoreReadOnlyError, StoreUnavailableError), match="writ"):
            await SqliteStore(folder / "jobs.db").open()
        with pytest.raises(StoreReadOnlyError, match="cannot be created"):
            await SqliteStore(folder / "new.db").open()
        assert remount("rw")
        async with SqliteStore(folder / "jobs.db") as store:
            await store.insert([job("after")])
            assert await total(store) == 2

    try:
        asyncio.run(refused())
    finally:
        subprocess.run(["umount", folder], check=True)


# ------------------------------------------------------------------ what SQLite answers


class Failing(sqlite3.Connection):
    """A connection of which some statements fail."""

    failures: dict[str, int]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        code = self.failures.get(sql)
        if code is None:
            return super().execute(sql, parameters)
        raise answer(code)


def answer(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("as asked")
    error.sqlite_errorcode = code
    return error


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have statements of the connections opened from now on fail, until told otherwise."""
    failures: dict[str, int] = {}
    Failing.failures = failures
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: real(*args, factory=Failing, **kwargs))

    def set_failures(**codes: int) -> None:
        failures.clear()
        failures.update({name.replace("_", " "): code for name, code in codes.items()})

    return set_failures


@pytest.mark.parametrize(
    ("code", "kind", "unknown"),
    [
        (sqlite3.SQLITE_FULL, StoreFullError, False),
        (sqlite3.SQLITE_READONLY, StoreReadOnlyError, False),
        (sqlite3.SQLITE_IOERR_FSYNC, StoreUnavailableError, True),
        (sqlite3.SQLITE_IOERR_WRITE, StoreUnavailableError, True),
        (sqlite3.SQLITE_NOMEM, StoreUnavailableError, False),
    ],
)
async def test_a_commit_that_fails_fails_every_call_of_its_batch(
    tmp_path: Path, fail: Callable[..., None], code: int, kind: type[StoreError], *, unknown: bool
) -> None:
    async with SqliteStore(tmp_path / "jobs.db") as store:
        await store.insert([job("before")])
        fail(commit=code)

        results = await asyncio.gather(
            *(store.insert([job(str(n))]) for n in range(5)), return_exceptions=True
        )

        assert {type(result) for result in results} == {kind}
        assert {result.outcome_unknown for result in results if isinstance(result, StoreError)} == {unknown}
        fail()
        assert await total(store) == 1
        await store.insert([job(str(n)) for n in range(5)])
        assert await total(store) == 6


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_READONLY, StoreReadOnlyError),
        (sqlite3.SQLITE_IOERR, StoreUnavailableError),
        (sqlite3.SQLITE_CANTOPEN, StoreUnavailableError),
        (sqlite3.SQLITE_FULL, StoreFullError),
    ],
)
async def test_a_transaction_that_cannot_begin(
    tmp_path: Path, fail: Callable[..., None], code: int, kind: type[StoreError]
) -> None:
    async with SqliteStore(tmp_path / "jobs.db") as store:
        fail(begin_immediate=code, begin_deferred=code)

        with pytest.raises(kind) as failed:
            await store.insert([job()])
        assert not failed.value.outcome_unknown
        assert isinstance(failed.value.__cause__, sqlite3.OperationalError) or "as asked" in str(failed.value)
        with pytest.raises(kind):
            await store.find(Where(), limit=1)

        fail()
        await store.insert([job()])
        assert await total(store) == 1


async def test_a_commit_that_finds_the_file_locked_is_tried_again(
    tmp_path: Path, fail: Callable[..., None]
) -> None:
    async with SqliteStore(tmp_path / "jobs.db") as store:
        fail(commit=sqlite3.SQLITE_BUSY)
        call = asyncio.ensure_future(store.insert([job()]))
        await asyncio.sleep(0.03)
        fail()

        assert (await call)[0].created


async def test_an_error_that_takes_the_whole_transaction_with_it_fails_one_call_only(
    store: SqliteStore,
) -> None:
    def drastic(db: sqlite3.Connection) -> None:
        db.execute("rollback")
        raise answer(sqlite3.SQLITE_FULL)

    results = await asyncio.gather(
        store.insert([job("a")]),
        store._write(Priority.INSERT, drastic),
        store.insert([job("b")]),
        return_exceptions=True,
    )
    with pytest.raises(StoreFullError):
        await store._write(Priority.INSERT, drastic)

    assert [type(result) for result in results] == [list, StoreFullError, list]
    assert sorted(found.id for found in await store.find(Where(), limit=9)) == ["a", "b"]


@pytest.mark.parametrize("statement", ["savepoint conveyor_call", "release conveyor_call"])
async def test_calls_that_cannot_be_kept_apart_are_committed_one_by_one(
    tmp_path: Path, fail: Callable[..., None], statement: str
) -> None:
    async with SqliteStore(tmp_path / "jobs.db") as store:
        Failing.failures[statement] = sqlite3.SQLITE_IOERR
        answers = await asyncio.gather(*(store.insert([job(id)]) for id in "abc"))
        fail()

        assert [answer.created for (answer,) in answers] == [True, True, True]
        assert sorted(found.id for found in await store.find(Where(), limit=9)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "code",
    [
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_MISUSE,
    ],
)
def test_every_error_names_the_file(code: int) -> None:
    assert "/some/jobs.db" in str(store_error(answer(code), "/some/jobs.db"))
    assert "/some/jobs.db" in str(store_error(sqlite3.ProgrammingError("closed"), "/some/jobs.db"))


@pytest.mark.parametrize(
    ("code", "about_the_file"),
    [
        (sqlite3.SQLITE_TOOBIG, False),
        (sqlite3.SQLITE_CONSTRAINT, False),
        (sqlite3.SQLITE_ERROR, True),
        (sqlite3.SQLITE_FULL, True),
        (sqlite3.SQLITE_CORRUPT, True),
        (sqlite3.SQLITE_AUTH, True),
    ],
)
def test_only_what_a_call_was_given_is_refused_for_good(code: int, *, about_the_file: bool) -> None:
    """A worker gives up an outcome that is refused for good, and no other."""
    assert store_error(answer(code), "jobs.db").retryable is about_the_file


# ------------------------------------------------------------------ processes that fork or die


FORK = """
import asyncio, os, sys
from conveyor.core.errors import StoreForkedError
from conveyor.core.store import JobRecord
from conveyor.core.store import Where
from conveyor.store.sqlite import SqliteStore

def job(id):
    return JobRecord(queue="q", id=id, name="work")

def in_child(store):
    for call in (lambda: store.insert([job("child")]), lambda: store.find(Where(), limit=1), store.open):
        try:
            asyncio.run(call())
        except StoreForkedError as error:
            assert "spawning" in str(error)
        else:
            os._exit(1)
    asyncio.run(store.close())
    try:
        asyncio.run(SqliteStore(store.path).open())
    except StoreForkedError as error:
        assert "spawning" in str(error)
    else:
        os._exit(1)
    async def other():
        async with SqliteStore(store.path + ".other") as mine:
            await mine.insert([job(f"own-{os.getpid()}")])
    asyncio.run(other())
    sys.exit(0)

loop = asyncio.new_event_loop()
store = SqliteStore(sys.argv[1])
loop.run_until_complete(store.open())
for n in range(10):
    busy = [loop.create_task(store.insert([job(f"{n}-{m}")])) for m in range(20)]
    loop.run_until_complete(asyncio.sleep(0))
    child = os.fork()
    if not child:
        for task in busy:
            task._log_destroy_pending = False
        in_child(store)
    loop.run_until_complete(asyncio.gather(*busy))
    assert os.waitpid(child, 0)[1] == 0, n
print(sum(loop.run_until_complete(store.count(Where())).values()))
loop.run_until_complete(store.close())
loop.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_may_not_use_the_file_and_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"

    done = subprocess.run(
        [sys.executable, "-c", FORK, path], capture_output=True, text=True, timeout=120, check=False
    )

    assert (done.stderr, done.stdout) == ("", "200\n")
    assert integrity(path) == "ok"


VICTIM = """
import asyncio, sys
from conveyor.core.store import JobRecord
from conveyor.store.sqlite import SqliteStore

async def main():
    async with SqliteStore(sys.argv[1]) as store:
        n = 0
        while True:
            ids = [f"{sys.argv[2]}-{n}-{m}" for m in range(20)]
            batch = [[JobRecord(queue="q", id=id, name="work", group="g")] for id in ids]
            await asyncio.gather(*(store.insert(jobs) for jobs in batch))
            for (job,) in batch:
                print(job.id)
            sys.stdout.flush()
            n += 1

asyncio.run(main())
"""


def integrity(path: Path) -> str:
    with closing(sqlite3.connect(path)) as db:
        found: str = db.execute("pragma integrity_check").fetchone()[0]
        return found


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_it_was_told_is_there(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    told: set[str] = set()
    for number in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", VICTIM, path, str(number)], stdout=subprocess.PIPE, text=True
        ) as victim:
            assert victim.stdout is not None
            told.add(victim.stdout.readline().strip())
            time.sleep(0.02 * (1 + number))
            victim.send_signal(signal.SIGKILL)
            lines = victim.stdout.read().split("\n")
            told.update(lines[:-1])  # the last one may be half of one

    assert integrity(path) == "ok"

    async def check() -> None:
        async with SqliteStore(path) as store:
            found = {record.id for record in await store.find(Where(), limit=1_000_000)}
            assert told <= found
            assert len(told) > 50
            grouped = await store._read(
                lambda db: db.execute("select waiting, active from conveyor_groups").fetchall()
            )
            assert grouped == [(len(found), 0)]
            assert await store.count(Where()) == {("q", JobState.WAITING): len(found)}

    asyncio.run(check())


def test_a_forked_error_is_a_store_error() -> None:
    assert not StoreForkedError("x").retryable
