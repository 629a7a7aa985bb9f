"""A PostgreSQL for tests, as tests see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from conveyor.core.errors import InvalidOptionError
from conveyor.testing.pg.errors import ServiceError
from conveyor.testing.pg.supervised import Supervised

Mode = Literal["fast", "immediate"]
MODES: Final = ("fast", "immediate")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running PostgreSQL: its `source` is `url`, `docker`, `wheel` or `local`.

    Any process of the same user may use it; it ends with the process it was started for. What stops, freezes
    or closes it raises ServiceError for a server of the source `url`, which is not ours.
    """

    source: str
    url: str
    home: Path | None = None

    def dsn(self, database: str = "postgres") -> str:
        """The URL of one of its databases."""
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{quote(database, safe='')}"))

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """Make an empty database and give its URL; it is dropped at the end, whoever is connected."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            yield self.dsn(name)
        finally:
            with psycopg.connect(self.url, autocommit=True) as connection:
                drop(connection, name)

    def stop(self, mode: Mode = "fast") -> None:
        """Stop it, and return when it is gone: `fast` ends the sessions in order, `immediate` is a crash."""
        if mode not in MODES:
            raise InvalidOptionError("mode", mode, "one of 'fast' and 'immediate'")
        self._ours().ask("stop", mode=mode)

    def start(self) -> None:
        """Start it again after a stop, on the same port, and return when it answers."""
        self._ours().ask("start")

    def restart(self, mode: Mode = "fast") -> None:
        """Stop it and start it again."""
        self.stop(mode)
        self.start()

    @contextmanager
    def frozen(self, pid: int) -> Iterator[None]:
        """Freeze one of its processes by SIGSTOP; a backend's `pid` is what `pg_backend_pid()` says there."""
        self._ours().ask("freeze", pid=pid)
        try:
            yield
        finally:
            self._ours().ask("thaw", pid=pid)

    def log(self) -> str:
        """What it has logged so far; nothing is known of that for `url` and `docker`."""
        file = self.home / "postgres.log" if self.home is not None else None
        return file.read_text("utf-8", "replace") if file is not None and file.exists() else ""

    def close(self) -> None:
        """Stop it for good, and remove what it wrote."""
        self._ours().ask("end")

    def _ours(self) -> Supervised:
        if self.home is None:
            raise ServiceError("the server of CONVEYOR_TEST_PG_URL is not stopped or frozen by tests")
        return Supervised(url=self.url, home=self.home)


def drop(connection: psycopg.Connection, name: str) -> None:
    """Drop a database, with whoever is still connected to it; PostgreSQL 12 has no `with (force)`."""
    identifier = sql.Identifier(name)
    connection.execute(sql.SQL("alter database {} allow_connections false").format(identifier))
    connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
    connection.execute(sql.SQL("drop database if exists {}").format(identifier))
