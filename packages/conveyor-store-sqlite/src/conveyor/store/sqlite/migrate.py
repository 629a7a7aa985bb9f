"""The tables: numbered files, applied in order, forward only, by one process at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Final

from conveyor.core.errors import SchemaTooNewError, StoreUnavailableError
from conveyor.store.sqlite.rows import written
from conveyor.store.sqlite.statements import fetch, run

_FILES: Final = resources.files("conveyor.store.sqlite") / "migrations"
_TABLE: Final = "conveyor_migrations"


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from a version of the tables to the next."""

    version: int
    name: str
    script: str


@cache
def migrations() -> tuple[Migration, ...]:
    """All that this release knows, in order."""
    files = sorted(
        (file for file in _FILES.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name
    )
    return tuple(
        Migration(
            int(file.name.split("_", 1)[0]), file.name.removesuffix(".sql"), file.read_text(encoding="utf-8")
        )
        for file in files
    )


def check(db: sqlite3.Connection, path: str, *, may_migrate: bool) -> bool:
    """Whether the tables are to be created or upgraded; nothing is written.

    Raises SchemaTooNewError for tables of a newer release, and StoreUnavailableError if there is something to
    do that may not be done.
    """
    found, newest = version(db), migrations()[-1].version
    if found > newest:
        raise SchemaTooNewError(
            f"{path} was written by a newer release (tables of version {found}; this one knows {newest}); "
            "upgrade conveyor-store-sqlite here"
        )
    if found < newest and not may_migrate:
        raise StoreUnavailableError(
            f"{path} has tables of version {found}, and this release needs {newest}; "
            "open it once with auto_migrate=True"
        )
    return found < newest


def version(db: sqlite3.Connection) -> int:
    """The version of the tables; 0: there are none."""
    if not fetch(db, "has_migrations", table=_TABLE)[0]:
        return 0
    found: int = fetch(db, "schema_version")[0]
    return found


def migrate(db: sqlite3.Connection, path: str) -> None:
    """Bring the tables to the newest version, within a transaction that the caller has begun."""
    check(db, path, may_migrate=True)
    run(db, "create_migrations")
    done = version(db)
    for migration in migrations():
        if migration.version > done:
            for sql in _statements(migration.script):
                db.execute(sql)
            run(
                db,
                "record_migration",
                version=migration.version,
                name=migration.name,
                at=written(datetime.now(UTC)),
            )


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one: `executescript` would commit what is under way."""
    found = ""
    for line in script.splitlines(keepends=True):
        found += line
        if sqlite3.complete_statement(found):
            yield found
            found = ""
