"""The tables: numbered files, applied in order, forward only, by one process at a time."""

from __future__ import annotations

import zlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from psycopg.sql import Literal

from conveyor.core.errors import StoreUnavailableError
from conveyor.store.pg.connections import Connections
from conveyor.store.pg.statements import AsyncSession, Session, Statements
from conveyor.store.sql import Migration, migrations_in, pending_after

#: The files of this release.
FOLDER: Final = files("conveyor.store.pg") / "migrations"
#: The family of this package's advisory locks ("conv"); the other key is the schema's.
_FAMILY: Final = 0x636F_6E76
#: How long a migration waits for a lock before it lets others go first, in seconds.
_LOCK: Final = 5.0


def migrations(folder: Traversable = FOLDER) -> tuple[Migration, ...]:
    """All that a folder holds, in order; `{schema}` in one stands for the schema."""
    return migrations_in(folder)


async def prepare(connections: Connections, *, folder: Traversable = FOLDER) -> int:
    """Bring the tables to this release's version, and return how many migrations that took.

    Tables that are as they should be are only looked at: no lock, no write, no right to create anything.

    Raises SchemaTooNewError for tables of a newer release, and StoreUnavailableError if there is something to
    do and `auto_migrate` is off.
    """
    if not await pending(connections, folder=folder):
        return 0
    if not connections.options.auto_migrate:
        place, schema = connections.options.target.place, connections.options.schema
        raise StoreUnavailableError(
            f"schema {schema!r} of {place} has not the tables of this release; open the store once with "
            "auto_migrate=True, or run `python -m conveyor.store.pg migrate`"
        )
    return await migrate(connections, folder=folder)


async def pending(connections: Connections, *, folder: Traversable = FOLDER) -> tuple[Migration, ...]:
    """The migrations that have not been applied; nothing is written, and nothing locked.

    Raises SchemaTooNewError for tables of a newer release.
    """

    async def look(session: Session) -> tuple[Migration, ...]:
        return await _pending(session, connections, folder)

    return await connections.call(look, reads=True)


async def migrate(connections: Connections, *, folder: Traversable = FOLDER) -> int:
    """Apply the migrations that are pending, all in one transaction, and return how many that were.

    Other processes that migrate wait meanwhile. Creates the schema if it is not there.
    """

    async def step(session: Session) -> int:
        assert isinstance(session, AsyncSession)  # noqa: S101 - `call` makes no other
        schema = session.statements.schema
        timeout = min(_LOCK, connections.options.operation_timeout.total_seconds())
        await session.ask("set_timeouts", milliseconds=str(max(1, int(timeout * 1000))))
        await session.ask("lock_migrations", family=_FAMILY, member=_member(schema))
        todo = await _pending(session, connections, folder)
        if not await _truth(session, "has_schema"):
            await session.run("create_schema")
        if not await _truth(session, "has_migrations"):
            await session.run("create_migrations")
        for migration in todo:
            await session.script(session.statements.composed(migration.script))
            await session.run("record_migration", version=migration.version, title=migration.name)
        return len(todo)

    return await connections.call(step, unhurried=True)


def script(statements: Statements, *, after: int = 0, folder: Traversable = FOLDER) -> str:
    """What `migrate` would do to tables of version `after`, as text for `psql`."""
    parts = ["begin;", f"select pg_advisory_xact_lock({_FAMILY}, {_member(statements.schema)});"]
    if not after:
        parts += [
            statements["create_schema"]
            .decode()
            .strip()
            .replace("create schema", "create schema if not exists")
            + ";",
            statements["create_migrations"].decode().strip() + ";",
        ]
    for migration in migrations(folder):
        if migration.version > after:
            name = Literal(migration.name).as_string(None)
            parts += [
                f"-- {migration.name}",
                statements.composed(migration.script).decode().strip(),
                statements["record_migration"]
                .decode()
                .strip()
                .replace("%(version)s", str(migration.version))
                .replace("%(title)s", name)
                + ";",
            ]
    return "\n\n".join([*parts, "commit;"])


async def _pending(session: Session, connections: Connections, folder: Traversable) -> tuple[Migration, ...]:
    found = 0
    if await _truth(session, "has_migrations"):
        [(found,)] = await session.ask("schema_version")
    of = f"schema {session.statements.schema!r} of {connections.options.target.place}"
    return pending_after(found, migrations(folder), of=of, package="conveyor-store-pg")


async def _truth(session: Session, name: str) -> bool:
    [(found,)] = await session.ask(name, schema=session.statements.schema)
    return bool(found)


def _member(schema: str) -> int:
    """The second key of a schema's lock: a signed integer of four bytes."""
    return int.from_bytes(zlib.crc32(schema.encode()).to_bytes(4, "big"), "big", signed=True)
