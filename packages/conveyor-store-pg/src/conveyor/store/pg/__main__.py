"""`python -m conveyor.store.pg`: look at the tables, bring them up to date, or print the SQL for that."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from conveyor.core.errors import ConveyorError, InvalidOptionError
from conveyor.store.pg.connections import Connections
from conveyor.store.pg.migrate import migrate, migrations, pending, script
from conveyor.store.pg.options import Options, parsed
from conveyor.store.pg.statements import Statements

#: Exit codes: all is well; it did not work; the tables are not those of this release (`status`).
_WELL, _FAILED, _BEHIND = 0, 1, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says, and return the exit code."""
    given = _parser().parse_args(arguments)
    try:
        options = _options(given)
        if given.command == "sql":
            _say(script(Statements(options.schema), after=given.after))
            return _WELL
        return asyncio.run(_run(given.command, options))
    except ConveyorError as error:
        sys.stderr.write(f"{error}\n")
        return _FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conveyor.store.pg", description=__doc__)
    parser.add_argument(
        "command",
        choices=["migrate", "status", "sql"],
        help="migrate: apply what is missing; status: say what is missing (exit code 3 if anything is); "
        "sql: print the statements, without connecting",
    )
    parser.add_argument("--url", help="the database; by default that of DATABASE_URL")
    parser.add_argument("--schema", help="where the tables are (public)")
    parser.add_argument(
        "--after", type=int, default=0, metavar="VERSION", help="for sql: the version that is there (0)"
    )
    return parser


def _options(given: argparse.Namespace) -> Options:
    url = given.url or os.environ.get("DATABASE_URL") or ""
    if not url and given.command == "sql":
        url = "postgresql://"
    if not url:
        raise InvalidOptionError("--url", None, "give a URL, or set DATABASE_URL")
    dsn, found = parsed(url, {} if given.schema is None else {"schema": given.schema})
    return Options.checked(dsn, **found)


async def _run(command: str, options: Options) -> int:
    connections = Connections(options, Statements(options.schema))
    await connections.open()
    try:
        missing = await pending(connections)
        newest = migrations()[-1].version
        where = f"schema {options.schema!r} of {options.target.place}"
        if command == "status":
            for migration in missing:
                _say(f"missing: {migration.name}")
            _say(f"{where}: {f'{len(missing)} to apply' if missing else f'up to date (version {newest})'}")
            return _BEHIND if missing else _WELL
        applied = await migrate(connections) if missing else 0
        _say(f"{where}: {applied} applied, version {newest}")
        return _WELL
    finally:
        await connections.close()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
