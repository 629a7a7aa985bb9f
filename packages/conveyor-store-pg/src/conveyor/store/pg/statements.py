"""SQL from files: one statement each, composed once for a schema, and run on a connection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache, cached_property, lru_cache
from importlib.resources import files
from typing import Any, Final, Protocol, TypeVar

from psycopg import AsyncConnection, Connection
from psycopg.errors import UniqueViolation
from psycopg.sql import SQL, Identifier

from conveyor.store.pg.cursors import async_cursor, cursor

#: A row as it is fetched.
Row = tuple[Any, ...]
T = TypeVar("T")
#: The statements by their names; the folders are for readers.
_FILES: Final = {
    file.name.removesuffix(".sql"): file
    for folder in (files("conveyor.store.pg") / "sql").iterdir()
    for file in folder.iterdir()
}
_COMMENT: Final = re.compile(r"^--.*\n", re.MULTILINE)
#: Where the claimable jobs of each kind of sub-queue are, and how many are wanted; for `{jobs of ...}`.
_SUBQUEUES: Final = {
    "ungrouped": (
        "j.queue = %(queue)s and j.state = 'waiting' and j.grp is null and (select all_names from allowance)",
        "%(count)s",
    ),
    "named": (
        "j.queue = %(queue)s collate \"POSIX\" and j.name = n.name and j.state = 'waiting' and j.grp is null",
        "%(count)s",
    ),
    "grouped": (
        (
            "j.queue = %(queue)s and j.grp = l.grp and j.grp is not null and j.name = l.name"
            " and j.state = 'waiting' and l.depth > 1"
        ),
        "l.depth",
    ),
}
#: Which column of a sub-queue has its first job, by the order within a sort key.
_HEADS: Final = {"oldest": "tie_break", "newest": "newest"}
_INCLUDED: Final = re.compile(r"\{include (\w+)\}")


class RetryStep(Exception):  # noqa: N818 - not an error: nothing is wrong
    """Another call was faster: what this step had read is not true any more. Roll back, and retry it."""


@contextmanager
def _race() -> Iterator[None]:
    """Have a step repeated that meets, in a unique index, what another call has written since it looked."""
    try:
        yield
    except UniqueViolation as error:
        raise RetryStep from error


class Statements:
    """The statements of one schema."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._composed: dict[str, bytes] = {}
        self.composed = lru_cache(512)(self._compose)

    @cached_property
    def _schema(self) -> Identifier:
        return Identifier(self.schema)

    def __getitem__(self, name: str) -> bytes:
        """The statement in `<name>.sql`; of `<name>:<order>`, that for the order within a sort key."""
        found = self._composed.get(name)
        if found is None:
            file, _, order = name.partition(":")
            text = text_of(file)
            found = self.composed(_in_order(text, order) if order else text)
            self._composed[name] = found
        return found

    def _compose(self, text: str) -> bytes:
        """A statement with the schema put in; `text` is of this package's making, never a user's."""
        return SQL(text).format(schema=self._schema).as_bytes(None)  # pyright: ignore[reportArgumentType]


@cache
def text_of(name: str) -> str:
    """The statement in `<name>.sql`, with what it includes."""
    text = _FILES[name].read_text(encoding="utf-8").strip()
    return _INCLUDED.sub(lambda mark: _COMMENT.sub("", text_of(mark[1])), text)


def _in_order(text: str, order: str) -> str:
    jobs = text_of(f"jobs_{order}")
    for kind, (condition, depth) in _SUBQUEUES.items():
        of = jobs.replace("{subqueue}", condition).replace("{depth}", depth)
        text = text.replace(f"{{jobs of {kind}}}", of)
    return text.replace("{head}", _HEADS[order])


def _adapted(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a statement as they are passed: lists as the text of an array, which it casts.

    With psycopg's own dumping of lists, bulk adds took half as long again, and more (benchmarks/bulk.py).
    """
    return {name: _array(value) if type(value) is list else value for name, value in values.items()}


def _array(values: list[Any]) -> str:
    return "{" + ",".join([_element(value) for value in values]) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, datetime):
        return f'"{value.isoformat()}"'
    return str(value)  # a number, or a boolean


class Session(Protocol):
    """A connection in a transaction, that runs statements by name."""

    statements: Statements

    async def ask(self, name: str, /, **values: Any) -> list[Row]:
        """Run a statement, and return its rows."""
        ...

    async def run(self, name: str, /, **values: Any) -> int:
        """Run a statement, and return how many rows it changed."""
        ...

    async def query(self, statement: bytes, values: Mapping[str, Any]) -> list[Row]:
        """Run a statement that was put together, and return its rows."""
        ...


class AsyncSession:
    """A session on an async connection."""

    def __init__(
        self, statements: Statements, connection: AsyncConnection[Any], *, prepare: bool | None = None
    ) -> None:
        """Run statements on a connection; `prepare` is psycopg's, None: as the connection does by itself."""
        self.statements = statements
        self.connection = connection
        self._prepare = prepare

    async def ask(self, name: str, /, **values: Any) -> list[Row]:
        return await self.query(self.statements[name], values)

    async def run(self, name: str, /, **values: Any) -> int:
        with _race():
            ran = await async_cursor(self.connection).execute(
                self.statements[name], _adapted(values), prepare=self._prepare
            )
            return ran.rowcount

    async def query(self, statement: bytes, values: Mapping[str, Any]) -> list[Row]:
        with _race():
            ran = await async_cursor(self.connection).execute(
                statement, _adapted(values), prepare=self._prepare
            )
            return await ran.fetchall()

    async def script(self, statements: bytes) -> None:
        """Run statements that have no parameters."""
        await async_cursor(self.connection).execute(statements, prepare=False)


class SyncSession:
    """A session on a plain connection, which is used in a thread."""

    def __init__(self, statements: Statements, connection: Connection[Any]) -> None:
        self.statements = statements
        self.connection = connection

    async def ask(self, name: str, /, **values: Any) -> list[Row]:
        return await self.query(self.statements[name], values)

    async def run(self, name: str, /, **values: Any) -> int:
        def changed() -> int:
            return cursor(self.connection).execute(self.statements[name], _adapted(values)).rowcount

        with _race():
            return await in_thread(changed)

    async def query(self, statement: bytes, values: Mapping[str, Any]) -> list[Row]:
        def fetched() -> list[Row]:
            return cursor(self.connection).execute(statement, _adapted(values)).fetchall()

        with _race():
            return await in_thread(fetched)


async def in_thread(function: Callable[[], T]) -> T:
    """Call a function in a thread, and return only once it has: also when this is cancelled.

    What a thread does cannot be taken back, and must not meet on the connection what comes next. Pinned by
    test_a_call_cut_off_at_any_await_leaves_the_transaction_as_it_was.
    """
    running = asyncio.get_running_loop().run_in_executor(None, function)
    cancelled = False
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        running.exception()  # seen, though it is not told
        raise asyncio.CancelledError
    return running.result()
