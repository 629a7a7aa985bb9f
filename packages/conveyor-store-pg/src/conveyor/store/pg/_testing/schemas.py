"""Fresh schemas in one database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import psycopg
from psycopg import sql


class Schemas:
    """Makes and drops schemas, over a connection that it makes again when a test has cut it off."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._numbers = count(1)
        self._connection = psycopg.connect(url, autocommit=True)

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """Make an empty schema, and give the URL of a store in it."""
        name = f"t{next(self._numbers)}"
        self._execute(sql.SQL("create schema {}").format(sql.Identifier(name)))
        try:
            yield f"{self._url}{'&' if '?' in self._url else '?'}schema={name}"
        finally:
            self._drop(name)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _drop(self, name: str) -> None:
        drop = sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(name))
        self._execute(sql.SQL("set lock_timeout = '2s'"))
        try:
            self._execute(drop)
        except psycopg.errors.LockNotAvailable:
            # A test that left a transaction open must not hold up those after it.
            self._execute(_END_USERS.format(sql.Literal(name)))
            self._execute(drop)

    def _execute(self, statement: sql.SQL | sql.Composed) -> None:
        try:
            self._connection.execute(statement)
        except psycopg.OperationalError as error:
            if isinstance(error, psycopg.errors.LockNotAvailable):
                raise
            self._connection.close()
            self._connection = psycopg.connect(self._url, autocommit=True)
            self._connection.execute(statement)


_END_USERS = sql.SQL("""
select pg_terminate_backend(lock.pid)
  from pg_locks as lock
  join pg_class as class on class.oid = lock.relation
  join pg_namespace as namespace on namespace.oid = class.relnamespace
 where namespace.nspname = {}
   and lock.database = (select oid from pg_database where datname = current_database())
   and lock.pid <> pg_backend_pid()
""")
