"""The connections of a store, which psycopg_pool makes and keeps, and who may have one next.

What calls with a deadline need besides is here. They wait for their turn here, and in the pool only while a
connection is made: so one slot can be kept for urgent calls. Why none can be made, only the pool's own tasks
learn; it is kept for the calls, which decide about another try. So the pool makes no more than two: its
own are 1, 2, 4 … seconds apart, and a server that is back would be away for as long again. Connections that
died while they lay there are found here, and not by `check`, after which the pool waits as long.
"""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from conveyor.core.errors import StoreClosedError
from conveyor.store.pg.connection import Connection, OwnConnection, close_now, is_idle, is_usable

_CLOSED: Final = "the pool that the store was given is not open; have it open for as long as the store is"
#: What the names of our pools begin with.
_NAMES: Final = "conveyor "


class Pool:
    """Connections of a pool, at most `size` at once."""

    #: How long a call waits for the pool before it looks whether no connection can be made, in seconds.
    _look = 3_600.0

    def __init__(self, pool: AsyncConnectionPool[Any], size: int) -> None:
        """Prepare; nothing is done yet."""
        self._pool = pool
        self._slots = asyncio.Semaphore(size)
        self._slots_of_others = asyncio.Semaphore(max(1, size - 1))
        self._returning: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def slot(self, *, urgent: bool) -> AsyncIterator[None]:
        """Hold a slot while inside, which a call needs before it takes a connection.

        Of two or more, one is kept for urgent callers: a lease that is not renewed in time is lost, so
        hundreds of adders, or a few who wait for a lock, must not stand in the way.
        """
        if urgent:
            async with self._slots:
                yield
        else:
            async with self._slots_of_others, self._slots:
                yield

    async def take(self) -> Connection:
        """A connection that is good as far as one can see, to be given back; raises psycopg.Error."""
        cancelled = _cancellations()
        while True:
            try:
                connection: Connection = await self._pool.getconn(timeout=self._look)
            except PoolTimeout:
                self._raise_failure()
                continue
            except PoolClosed:
                raise StoreClosedError(_CLOSED) from None
            if _cancellations() > cancelled:
                self.give_back(connection)
                raise asyncio.CancelledError
            if is_usable(connection):
                try:
                    await self._set_up(connection)
                except BaseException:
                    self.give_back(connection)
                    raise
                return connection
            close_now(connection)
            self.give_back(connection)

    def give_back(self, connection: Connection) -> None:
        """Have the pool keep a connection, or replace one that is closed; a cancellation does not end it."""
        returning = self._put(connection)
        try:
            waits_for = returning.send(None)
        except StopIteration:
            return
        # Another task has the pool's lock. Pinned by
        # test_pg_pool.py::test_a_connection_goes_back_if_its_call_is_cancelled_meanwhile.
        task = asyncio.get_running_loop().create_task(_go_on(returning, waits_for))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def open(self) -> None:
        """Begin to give connections."""

    async def close(self) -> None:
        """End what has been begun here; every connection has been given back."""

    def _raise_failure(self) -> None:
        """Raise why no connection could be made, if that is known."""

    async def _set_up(self, connection: Connection) -> None:
        """Make a connection as calls need it."""

    async def _put(self, connection: Connection) -> None:
        await self._pool.putconn(connection)


class OwnPool(Pool):
    """Up to `size` connections, made when they are needed and kept."""

    _look = 0.05

    def __init__(self, name: str, size: int, make: Callable[[], Awaitable[OwnConnection]]) -> None:
        """Prepare; `make` makes a connection."""
        pool = AsyncConnectionPool[Any](
            connection_class=_Factory,
            kwargs={"make": self._attempt},
            min_size=0,
            max_size=size,
            open=False,
            name=_NAMES + name,
            reconnect_timeout=0,
        )
        super().__init__(pool, size)
        self._make: Final = make
        self._making: set[asyncio.Task[Any]] = set()
        self._error: psycopg.Error | None = None

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        making, self._making = self._making, set()
        for task in making:
            task.cancel()  # the pool would wait for it
        cancelled = _cancellations()
        await self._pool.close()
        if _cancellations() > cancelled:
            raise asyncio.CancelledError

    def _raise_failure(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None) from None

    async def _attempt(self) -> OwnConnection:
        """Make a connection, in a task of the pool's."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - see above
        self._making.add(task)
        self._error = None
        try:
            return await self._make()
        except psycopg.Error as error:
            self._error = error
            raise
        except asyncio.CancelledError:
            # The pool takes it for a failure, and would outlive the event loop. Pinned by
            # test_pg_pool.py::test_a_program_ends_while_a_connection_is_being_made.
            if task in self._making:
                task.cancel()
            raise
        finally:
            self._making.discard(task)


class GivenPool(Pool):
    """A pool that is the application's, which opens and closes it; its connections go back as they were."""

    def __init__(self, pool: AsyncConnectionPool[Any], size: int) -> None:
        """Prepare; nothing is done yet."""
        super().__init__(pool, size)
        self._changed: set[Connection] = set()

    async def _set_up(self, connection: Connection) -> None:
        if not connection.autocommit:
            self._changed.add(connection)
            await connection.set_autocommit(True)

    async def _put(self, connection: Connection) -> None:
        if connection in self._changed:
            self._changed.discard(connection)
            if is_idle(connection):
                await connection.set_autocommit(False)
        await self._pool.putconn(connection)


class _Factory(AsyncConnection[Any]):
    """What the pool takes for the class of its connections."""

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        del conninfo
        connection: Self = await kwargs["make"]()
        return connection


def _cancellations() -> int:
    """How often this task has been cancelled: the pool waits by `wait_for`, which may lose one."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


async def _go_on(work: Coroutine[Any, Any, None], waits_for: Any) -> None:
    """Run the rest of what has begun, and waits for something."""

    @types.coroutine
    def rest() -> Generator[Any, Any, None]:
        yield waits_for
        yield from work

    await rest()


class _Quiet(logging.Filter):
    """Makes details of what psycopg_pool says about our pools: our calls say what is wrong, once."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not any(isinstance(it, OwnConnection) or str(it).startswith(_NAMES) for it in record.args or ()):
            return True
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


logging.getLogger("psycopg.pool").addFilter(_Quiet())
