"""Tables by numbered files, applied in order and forward only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable

from conveyor.core.errors import SchemaTooNewError


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from a version of the tables to the next."""

    version: int
    name: str
    script: str


def migrations_in(folder: Traversable) -> tuple[Migration, ...]:
    """All that a folder holds, in order: `0001_tables.sql` makes tables of version 1."""
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda it: it.name)
    return tuple(
        Migration(
            int(file.name.split("_", 1)[0]), file.name.removesuffix(".sql"), file.read_text(encoding="utf-8")
        )
        for file in files
    )


def pending_after(
    version: int, known: Sequence[Migration], *, of: str, package: str
) -> tuple[Migration, ...]:
    """The migrations that tables of a version lack; of version 0 there are none yet.

    Raises SchemaTooNewError for tables of a newer release. Its message says whose tables they are (`of`), and
    which `package` to upgrade.
    """
    newest = known[-1].version
    if version > newest:
        raise SchemaTooNewError(
            f"{of} was written by a newer release (tables of version {version}; this one knows {newest}); "
            f"upgrade {package} here"
        )
    return tuple(migration for migration in known if migration.version > version)
