"""A view of a store in a user's own transaction: the job exists if, and only if, the user's data does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncConnection, Connection, pq

from conveyor.core.errors import InvalidOptionError, StoreError
from conveyor.core.events import Event
from conveyor.core.store import Inserted, JobRecord, JobState, Order, StoreCalls, View, Where
from conveyor.store.pg import inserting, sets
from conveyor.store.pg.bus import notify_on_commit
from conveyor.store.pg.cursors import async_cursor, cursor
from conveyor.store.pg.errors import cause, store_error
from conveyor.store.pg.options import Options
from conveyor.store.pg.statements import AsyncSession, RetryStep, Session, Statements, SyncSession, in_thread

T = TypeVar("T")
Theirs = AsyncConnection[Any] | Connection[Any]

_OUTSIDE: Final = (
    "the connection is in autocommit and in no transaction, so nothing could be atomic; "
    "begin one first (`async with connection.transaction():`), or connect without autocommit"
)
#: Begins their transaction: `transaction()` would begin and commit one of its own.
_BEGIN: Final = b"select 1"
#: How often a step is repeated because others were faster.
_TRIES: Final = 10


@asynccontextmanager
async def using(
    store: StoreCalls, options: Options, statements: Statements, connection: Theirs
) -> AsyncIterator[View]:
    """A store whose `insert`, `find` and `count` are part of the transaction that `connection` is in.

    Raises StoreError if it is in none, and would not begin one.
    """
    _refuse_autocommit(connection)
    view = _View(store, options, statements, connection)
    try:
        yield view
    finally:
        view.ended = True


class _View(View):
    """The store within the transaction."""

    def __init__(
        self, store: StoreCalls, options: Options, statements: Statements, connection: Theirs
    ) -> None:
        super().__init__(store)
        self._options = options
        self._statements = statements
        self._connection = connection
        self._one_at_a_time = asyncio.Lock()

    def using(self, connection: Any = None) -> AbstractAsyncContextManager[View]:
        if connection is None:
            return super().using()
        return using(self.store, self._options, self._statements, checked_connection(connection))

    async def insert_within(
        self, jobs: Sequence[JobRecord], *, new_only: bool, now: datetime | None
    ) -> Sequence[Inserted]:
        return await self._step(lambda session: inserting.insert(session, now, jobs, new_only=new_only))

    async def find_within(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None,
        order: Order,
        now: datetime | None,
    ) -> Sequence[JobRecord]:
        return await self._step(
            lambda session: sets.find(session, now, where, limit=limit, after=after, order=order)
        )

    async def count_within(
        self, where: Where, *, by_group: bool, most: int | None, now: datetime | None
    ) -> Mapping[tuple[str | None, JobState], int]:
        return await self._step(lambda session: sets.count(session, now, where, by_group=by_group, most=most))

    async def publish_within(self, events: Sequence[Event]) -> None:
        if events and self._options.notify:
            with suppress(StoreError):  # a hint: the job is there, and polling finds it
                await self._step(lambda session: notify_on_commit(session, events))

    async def _step(self, step: Callable[[Session], Awaitable[T]]) -> T:
        """Run a step within a savepoint, so that an error of it leaves their transaction as it was.

        Raises StoreError for an error of the server; a deadlock or a serialization failure among them is for
        the user to repeat the whole transaction for, as for any other statement in it.
        """
        async with self._one_at_a_time:
            self.refuse_ended()
            _refuse_autocommit(self._connection)
            tries = 0
            while True:
                tries += 1
                try:
                    async with _savepoint(self._connection):
                        return await step(self._session())
                except RetryStep:
                    if tries == _TRIES:
                        raise StoreError("others were faster ten times in a row; repeat it") from None
                except psycopg.Error as error:
                    raise store_error(error, self._options.target) from cause(error, self._options.target)
                except UnicodeEncodeError as error:
                    encoding = self._connection.info.encoding
                    raise StoreError(
                        f"{encoding}, the connection's client_encoding, lacks a letter"
                    ) from error

    def _session(self) -> Session:
        if isinstance(self._connection, AsyncConnection):
            return AsyncSession(self._statements, self._connection)
        return SyncSession(self._statements, self._connection)


@asynccontextmanager
async def _savepoint(connection: Theirs) -> AsyncIterator[None]:
    idle = connection.info.transaction_status == pq.TransactionStatus.IDLE
    if isinstance(connection, AsyncConnection):
        if idle:
            await async_cursor(connection).execute(_BEGIN)
        async with connection.transaction():
            yield
        return
    savepoint = connection.transaction()
    entered = False

    def enter() -> None:
        nonlocal entered
        if idle:
            cursor(connection).execute(_BEGIN)
        savepoint.__enter__()
        entered = True

    try:
        await in_thread(enter)
        yield
    except BaseException as error:
        if entered:
            await in_thread(partial(savepoint.__exit__, type(error), error, error.__traceback__))
        raise
    await in_thread(partial(savepoint.__exit__, None, None, None))


def checked_connection(connection: Any) -> Theirs:
    """The connection of `using`. Raises InvalidOptionError, which shows nothing of what it is instead."""
    if not isinstance(connection, AsyncConnection | Connection):
        allowed = "a connection of psycopg (3), async or plain"
        raise InvalidOptionError("connection", type(connection), allowed)
    return connection


def _refuse_autocommit(connection: Theirs) -> None:
    if connection.closed:
        raise StoreError("the connection is closed")
    status = connection.info.transaction_status
    if connection.autocommit and status == pq.TransactionStatus.IDLE:
        raise StoreError(_OUTSIDE)
    if status == pq.TransactionStatus.INERROR:
        raise StoreError("the transaction has failed; roll it back first")
