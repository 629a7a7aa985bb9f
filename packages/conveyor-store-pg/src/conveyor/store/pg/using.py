"""A view of a store in a user's own transaction: the job exists if, and only if, the user's data does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import psycopg
from psycopg import AsyncConnection, Connection, pq

from conveyor.core.errors import StoreError
from conveyor.core.events import Bus, Event
from conveyor.core.jobs import JobRecord, JobState
from conveyor.core.store import Feature, Inserted, Order, Store, Where
from conveyor.store.pg import inserting, sets
from conveyor.store.pg.bus import transactional_notify
from conveyor.store.pg.cursors import async_cursor, cursor
from conveyor.store.pg.errors import cause, store_error
from conveyor.store.pg.options import Target
from conveyor.store.pg.statements import Again, AsyncSession, Session, Statements, SyncSession, in_thread

if TYPE_CHECKING:
    from conveyor.store.pg.store import PgStore

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
async def using(store: PgStore, connection: Theirs) -> AsyncIterator[Store]:
    """A store whose `insert`, `find` and `count` are part of the transaction that `connection` is in.

    Raises StoreError if it is in none, and would not begin one.
    """
    _refuse_autocommit(connection)
    view = _View(store, connection)
    try:
        yield view
    finally:
        view.end()


class _View:
    """The store within the transaction; everything but adding and reading is refused."""

    def __init__(self, store: PgStore, connection: Theirs) -> None:
        self._store = store
        self._target: Target = store._options.target  # noqa: SLF001 - a part of the store
        self._statements: Statements = store._statements  # noqa: SLF001 - likewise
        self._connection = connection
        self._one_at_a_time = asyncio.Lock()
        self._ended = False
        self._bus = _TransactionBus(self)

    def end(self) -> None:
        self._ended = True

    @property
    def features(self) -> frozenset[Feature]:
        return self._store.features

    @property
    def bus(self) -> Bus:
        return self._bus

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: datetime | None = None
    ) -> Sequence[Inserted]:
        given = tuple(jobs)
        return await self.step(lambda session: inserting.insert(session, now, given, new_only=new_only))

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: datetime | None = None,
    ) -> Sequence[JobRecord]:
        return await self.step(
            lambda session: sets.find(session, now, where, limit=limit, after=after, order=order)
        )

    async def count(
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: datetime | None = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        return await self.step(lambda session: sets.count(session, now, where, by_group=by_group, most=most))

    def _refused(self, *_: object, **__: object) -> NoReturn:
        raise StoreError(
            "within a transaction of yours jobs can be added and read, nothing else; use the store itself"
        )

    async def _refused_soon(self, *_: object, **__: object) -> NoReturn:
        self._refused()

    open = close = claim = renew = settle = advance = _refused_soon
    update = delete = pause = resume = paused = forget = _refused_soon
    __aenter__ = __aexit__ = _refused_soon

    async def step(self, step: Callable[[Session], Awaitable[T]]) -> T:
        """Run a step within a savepoint, so that an error of it leaves their transaction as it was.

        Raises StoreError for an error of the server; a deadlock or a serialization failure among them is for
        the user to repeat the whole transaction for, as for any other statement in it.
        """
        if self._ended:
            raise StoreError("the `using` block has ended, and the transaction may have, too")
        async with self._one_at_a_time:
            _refuse_autocommit(self._connection)
            tries = 0
            while True:
                tries += 1
                try:
                    async with _savepoint(self._connection):
                        return await step(self._session())
                except Again:
                    if tries == _TRIES:
                        raise StoreError("others were faster ten times in a row; repeat it") from None
                except psycopg.Error as error:
                    raise store_error(error, self._target) from cause(error, self._target)
                except UnicodeEncodeError as error:
                    encoding = self._connection.info.encoding
                    raise StoreError(
                        f"{encoding}, the connection's client_encoding, lacks a letter"
                    ) from error

    def _session(self) -> Session:
        if isinstance(self._connection, AsyncConnection):
            return AsyncSession(self._statements, self._connection)
        return SyncSession(self._statements, self._connection)


class _TransactionBus:
    """Publishes with the commit; there is nothing to hear within a transaction."""

    def __init__(self, view: _View) -> None:
        self._view = view

    async def publish(self, events: Sequence[Event]) -> None:
        view = self._view
        if not events or not view._store._options.notify:  # noqa: SLF001 - parts of one thing
            return
        try:
            await view.step(lambda session: transactional_notify(session, events))
        except StoreError:
            return  # a hint: the job is there, and polling finds it

    def subscribe(
        self, queues: Collection[str], *, kinds: Collection[type[Event]] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        return self._view._store.bus.subscribe(queues, kinds=kinds)  # noqa: SLF001 - likewise


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


def _refuse_autocommit(connection: Theirs) -> None:
    if not isinstance(connection, AsyncConnection | Connection):
        raise StoreError(
            f"a connection of psycopg (3) is needed, not a {type(connection).__module__}."
            f"{type(connection).__qualname__}"
        )
    if connection.closed:
        raise StoreError("the connection is closed")
    status = connection.info.transaction_status
    if connection.autocommit and status == pq.TransactionStatus.IDLE:
        raise StoreError(_OUTSIDE)
    if status == pq.TransactionStatus.INERROR:
        raise StoreError("the transaction has failed; roll it back first")
