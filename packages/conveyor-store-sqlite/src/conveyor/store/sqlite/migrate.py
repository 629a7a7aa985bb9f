"""The tables: numbered files, applied in order, forward only, by one process at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Final

from conveyor.core.errors import StoreUnavailableError
from conveyor.store.sql import Migration, migrations_in, pending_after
from conveyor.store.sqlite.rows import written
from conveyor.store.sqlite.statements import fetch, run

_FILES: Final = resources.files("conveyor.store.sqlite") / "migrations"
_TABLE: Final = "conveyor_migrations"


@cache
def migrations() -> tuple[Migration, ...]:
    """All that this release knows, in order."""
    return migrations_in(_FILES)


def check(db: sqlite3.Connection, path: str, *, may_migrate: bool) -> bool:
    """Whether the tables are to be created or upgraded; nothing is written.

    Raises SchemaTooNewError for tables of a newer release, and StoreUnavailableError if there is something to
    do that may not be done.
    """
    todo = _pending(db, path)
    if todo and not may_migrate:
        raise StoreUnavailableError(
            f"{path} has tables of version {version(db)}, and this release needs {todo[-1].version}; "
            "open it once with auto_migrate=True"
        )
    return bool(todo)


def _pending(db: sqlite3.Connection, path: str) -> tuple[Migration, ...]:
    return pending_after(version(db), migrations(), of=path, package="conveyor-store-sqlite")


def version(db: sqlite3.Connection) -> int:
    """The version of the tables; 0: there are none."""
    if not fetch(db, "has_migrations", table=_TABLE)[0]:
        return 0
    found: int = fetch(db, "schema_version")[0]
    return found


def migrate(db: sqlite3.Connection, path: str) -> None:
    """Bring the tables to the newest version, within a transaction that the caller has begun."""
    todo = _pending(db, path)
    run(db, "create_migrations")
    for migration in todo:
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
