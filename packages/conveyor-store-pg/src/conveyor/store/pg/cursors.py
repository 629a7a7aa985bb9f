"""Cursors of the store's own, on any connection.

What the user of a connection, or of psycopg, has registered there (a row factory, a class of cursors,
loaders, dumpers) is for the user's own statements. Ours need rows as tuples, placeholders by name, and values
as psycopg reads and writes them by itself. Pinned by test_pg_using.py.
"""

from __future__ import annotations

from typing import Any, Final

from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor, postgres
from psycopg.adapt import AdaptersMap
from psycopg.rows import TupleRow, tuple_row
from psycopg.types import TypesRegistry
from psycopg.types.array import register_all_arrays


def _untouched() -> AdaptersMap:
    """How psycopg reads and writes values where no application has changed that."""
    types = TypesRegistry()
    postgres.register_default_types(types)
    found = AdaptersMap(types=types)
    postgres.register_default_adapters(found)
    register_all_arrays(found)
    return found


_ADAPTERS: Final = _untouched()


class _AsyncCursor(AsyncCursor[TupleRow]):
    @property
    def adapters(self) -> AdaptersMap:
        return _ADAPTERS


class _Cursor(Cursor[TupleRow]):
    @property
    def adapters(self) -> AdaptersMap:
        return _ADAPTERS


def async_cursor(connection: AsyncConnection[Any]) -> AsyncCursor[TupleRow]:
    """A cursor on an async connection."""
    return _AsyncCursor(connection, row_factory=tuple_row)


def cursor(connection: Connection[Any]) -> Cursor[TupleRow]:
    """A cursor on a plain connection."""
    return _Cursor(connection, row_factory=tuple_row)
