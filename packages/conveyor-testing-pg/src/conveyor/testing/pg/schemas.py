"""Empty schemas in one database."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final

import psycopg
from psycopg import sql

#: How often, and how many seconds apart, to look whether those who used a schema have left.
_LOOKS: Final = 20
_PAUSE: Final = 0.005


class Schemas:
    """Makes schemas, over a connection that it makes again when a test has cut it off.

    A schema in which nothing but the tables of a store was made is emptied and serves again: making and
    dropping those tables costs a server 60 ms. One that somebody may still write to is dropped. Behind a
    pooler, which never leaves, none is used `again`.
    """

    def __init__(self, url: str, *, again: bool = True) -> None:
        self._url = url
        self._again = again
        self._numbers = count(1)
        self._connection = psycopg.connect(url, autocommit=True)
        self._used: deque[str] = deque()

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """Give the URL of a store in an empty schema, or in one whose tables are empty."""
        name = self._emptied() or self._made()
        yield f"{self._url}{'&' if '?' in self._url else '?'}schema={name}"
        self._used.append(name)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _made(self) -> str:
        name = f"t{next(self._numbers)}"
        self._execute(sql.SQL("create schema {}").format(sql.Identifier(name)))
        return name

    def _emptied(self) -> str | None:
        """Empty a schema that was used, or drop it and return None."""
        if not self._used:
            return None
        name = self._used.popleft()
        self._execute(sql.SQL("set lock_timeout = '2s'"))
        try:
            if self._again and self._left() and self._holds_a_store_alone(name):
                self._execute(_EMPTY.format(sql.Literal(name)))
                return name
        except psycopg.errors.LockNotAvailable:
            pass
        self._drop(name)
        return None

    def _left(self) -> bool:
        """Whether all others have left this database, where tests run one after the other.

        A session that has discarded all it had waits for its next user.
        """
        for _ in range(_LOOKS):
            if not self._ask(_OTHERS):
                return True
            time.sleep(_PAUSE)
        return False

    def _holds_a_store_alone(self, name: str) -> bool:
        return self._ask(_HOLDS.format(sql.Literal(name)))

    def _drop(self, name: str) -> None:
        drop = sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(name))
        try:
            self._execute(drop)
        except psycopg.errors.LockNotAvailable:
            # A test that left a transaction open must not hold up those after it.
            self._execute(_END_USERS.format(sql.Literal(name)))
            self._execute(drop)

    def _ask(self, question: sql.SQL | sql.Composed) -> bool:
        [(answer,)] = self._execute(question).fetchall()
        return bool(answer)

    def _execute(self, statement: sql.SQL | sql.Composed) -> psycopg.Cursor[tuple[object, ...]]:
        try:
            return self._connection.execute(statement)
        except psycopg.OperationalError as error:
            if isinstance(error, psycopg.errors.LockNotAvailable):
                raise
            self._connection.close()
            self._connection = psycopg.connect(self._url, autocommit=True)
            return self._connection.execute(statement)


_OTHERS: Final = sql.SQL("""
select exists (select from pg_stat_activity
                where datname = current_database()
                  and backend_type = 'client backend'
                  and pid <> pg_backend_pid()
                  and not (state = 'idle' and query = 'discard all'))
""")

_HOLDS: Final = sql.SQL("""
select count(*) > 0 and bool_and(relname like 'conveyor\\_%')
  from pg_class
 where relnamespace = {}::regnamespace
""")

# Most tests fill two or three of the tables, with a few rows. To truncate a table makes each of its indexes
# anew, which are files; dead rows are in nobody's way until they fill some pages.
_EMPTY: Final = sql.SQL("""
do $$
declare
  held record;
begin
  for held in select format('%I.%I', schemaname, tablename) as name
                from pg_tables
               where schemaname = {} and tablename <> 'conveyor_migrations'
  loop
    if pg_relation_size(held.name) > 65536 then
      execute 'truncate ' || held.name;
    elsif pg_relation_size(held.name) > 0 then
      execute 'delete from ' || held.name;
    end if;
  end loop;
end $$
""")

_END_USERS: Final = sql.SQL("""
select pg_terminate_backend(lock.pid)
  from pg_locks as lock
  join pg_class as class on class.oid = lock.relation
  join pg_namespace as namespace on namespace.oid = class.relnamespace
 where namespace.nspname = {}
   and lock.database = (select oid from pg_database where datname = current_database())
   and lock.pid <> pg_backend_pid()
""")
