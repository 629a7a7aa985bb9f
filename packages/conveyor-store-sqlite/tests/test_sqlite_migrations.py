"""The tables: made once, whoever comes first; never touched when they are of a newer release."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from conveyor.core.errors import SchemaTooNewError, StoreUnavailableError
from conveyor.store.sql import Migration
from conveyor.store.sqlite import SqliteStore
from conveyor.store.sqlite.migrate import migrations, version

NEWEST = migrations()[-1].version
PROCESSES = 16
ROUNDS = 5


def schema(path: Path | str) -> list[tuple[str, str]]:
    db = sqlite3.connect(path)
    found = db.execute("select name, sql from sqlite_master where sql is not null order by name").fetchall()
    db.close()
    return found


def sql(path: Path | str, statement: str) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute(statement)
    db.close()


def exists(path: Path) -> bool:
    return path.exists()


async def open_and_close(path: Path | str, *, auto_migrate: bool = True) -> None:
    async with SqliteStore(path, auto_migrate=auto_migrate):
        pass


def test_migrations_are_numbered_without_gaps() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, NEWEST + 1))


async def test_what_was_applied_is_recorded(tmp_path: Path) -> None:
    await open_and_close(tmp_path / "jobs.db")

    db = sqlite3.connect(tmp_path / "jobs.db")
    found = db.execute("select version, name from conveyor_migrations order by version").fetchall()
    db.close()
    assert found == [(migration.version, migration.name) for migration in migrations()]


async def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    await open_and_close(tmp_path / "jobs.db")
    before = schema(tmp_path / "jobs.db")

    await open_and_close(tmp_path / "jobs.db")
    await open_and_close(tmp_path / "jobs.db", auto_migrate=False)

    assert schema(tmp_path / "jobs.db") == before


#: Made up: nothing has been released that a real one could follow.
LATER = (
    Migration(2, "0002_notes", "create table conveyor_notes (job integer) strict;\n"),
    Migration(3, "0003_texts", "alter table conveyor_notes add column text text;\n"),
)


@pytest.mark.parametrize("begun", [1, 2])
async def test_every_older_version_is_brought_to_the_newest(
    tmp_path: Path, begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = (*migrations(), *LATER)
    monkeypatch.setattr("conveyor.store.sqlite.migrate.migrations", lambda: known[:begun])
    await open_and_close(tmp_path / "old.db")
    monkeypatch.setattr("conveyor.store.sqlite.migrate.migrations", lambda: known)
    with pytest.raises(StoreUnavailableError, match=f"tables of version {begun}, and this release needs 3"):
        await open_and_close(tmp_path / "old.db", auto_migrate=False)
    await open_and_close(tmp_path / "new.db")

    await open_and_close(tmp_path / "old.db")

    assert schema(tmp_path / "old.db") == schema(tmp_path / "new.db")
    assert "conveyor_notes" in dict(schema(tmp_path / "old.db"))


@pytest.mark.parametrize("auto_migrate", [True, False])
async def test_tables_of_a_newer_release_are_refused_before_any_write(
    tmp_path: Path, *, auto_migrate: bool
) -> None:
    path = tmp_path / "jobs.db"
    await open_and_close(path)
    sql(path, "insert into conveyor_migrations values (1000, 'later', '')")
    sql(path, "pragma journal_mode = delete")
    before = path.read_bytes()

    with pytest.raises(SchemaTooNewError, match="upgrade conveyor-store-sqlite"):
        await open_and_close(path, auto_migrate=auto_migrate)

    assert path.read_bytes() == before


async def test_without_auto_migrate_nothing_is_created(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="auto_migrate=True"):
        await open_and_close(tmp_path / "jobs.db", auto_migrate=False)
    assert not exists(tmp_path / "jobs.db")


async def test_without_auto_migrate_an_empty_file_stays_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()

    with pytest.raises(StoreUnavailableError, match=r"tables of version 0.*auto_migrate=True"):
        await open_and_close(path, auto_migrate=False)

    assert path.read_bytes() == b""


async def test_a_migration_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, *others) = migrations()
    broken = type(first)(99, "0099_broken", "create table conveyor_half (a);\nselect nonsense;\n")
    with monkeypatch.context() as later:
        later.setattr("conveyor.store.sqlite.migrate.migrations", lambda: (first, *others, broken))
        with pytest.raises(Exception, match="nonsense"):
            await open_and_close(tmp_path / "jobs.db")

    assert schema(tmp_path / "jobs.db") == []
    await open_and_close(tmp_path / "jobs.db")
    assert schema(tmp_path / "jobs.db") != []


def test_the_version_of_a_file_without_tables_is_zero() -> None:
    db = sqlite3.connect(":memory:")
    assert version(db) == 0
    db.close()


# ------------------------------------------------------------------ many processes at once

#: Forks processes that wait for each other and then open one file.
HERD = """
import asyncio, os, sys
from conveyor.core.store import JobRecord
from conveyor.store.sqlite import SqliteStore

async def work(path, id):
    async with SqliteStore(path) as store:
        await store.insert([JobRecord(queue="q", id=id, name="work")])

for path in sys.argv[2:]:
    gate, opener = os.pipe()
    children = []
    for n in range(int(sys.argv[1])):
        child = os.fork()
        if not child:
            os.close(opener)
            os.read(gate, 1)
            try:
                asyncio.run(work(path, f"job-{n}"))
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\\n".encode())
                os._exit(1)
            os._exit(0)
        children.append(child)
    os.close(opener)
    os.close(gate)
    for child in children:
        os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_sixteen_processes_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    asyncio.run(open_and_close(tmp_path / "reference.db"))
    paths = [str(tmp_path / f"jobs-{number}.db") for number in range(ROUNDS)]

    done = subprocess.run(
        [sys.executable, "-c", HERD, str(PROCESSES), *paths],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert done.stderr == ""
    for path in paths:
        assert schema(path) == schema(tmp_path / "reference.db")
        db = sqlite3.connect(path)
        found = db.execute("select count(*), count(distinct seq) from conveyor_jobs").fetchone()
        db.close()
        assert found == (PROCESSES, PROCESSES)
