"""Calls on the connections of a store, each in one transaction, and tried again for a passing reason.

There is no state on a connection between two calls: no session locks, no `listen`, no settings (but for that
of a direct connection, how it plans). So it may lead to a pooler in transaction mode, such as PgBouncer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, LiteralString, NoReturn, TypeVar

import psycopg

from conveyor.core.errors import StoreClosedError, StoreError, StoreForkedError
from conveyor.store.pg.connection import Connection, OwnConnection, close_now, connect, is_idle
from conveyor.store.pg.cursors import async_cursor
from conveyor.store.pg.errors import (
    Retryability,
    busy_error,
    cause,
    client_encoding_error,
    code_of,
    encoding_error,
    given_pool_error,
    misprepared,
    pool_exhausted_error,
    retryability,
    store_error,
    unresponsive_error,
)
from conveyor.store.pg.options import Options
from conveyor.store.pg.pool import GivenPool, OwnPool, Pool
from conveyor.store.pg.statements import AsyncSession, RetryStep, Session, Statements

T = TypeVar("T")
#: What is done in one transaction. It may run more than once: after one that did not happen.
Step = Callable[[Session], Awaitable[T]]

log: Final = logging.getLogger("conveyor.store.pg")

#: How long to wait before another try, in seconds: at first, at most, and when another was just faster.
_FIRST: Final = 0.01
_LONGEST: Final = 1.0
_AFTER_RACE: Final = 0.002
_READ_ONLY: Final = "25006"
#: Known to every server. A pooler makes up the process id that it gives its clients.
_FACTS: Final = """select pg_backend_pid(), current_setting('default_transaction_isolation'),
  current_setting('server_encoding')"""
#: Those that can hold any text. Without an encoding the server keeps the UTF-8 that it is sent.
_ENCODINGS: Final = frozenset({"UTF8", "SQL_ASCII"})
#: A process that is frozen in the middle of a step, or whose host is gone without a word, keeps its locks no
#: longer than that: all claims of a queue with limits or groups wait for one row of it. Pinned by
#: test_pg_frozen.py.
_IDLE_TIMEOUT: Final = "set local idle_in_transaction_session_timeout = '5s'"
#: A prepared statement keeps its plan. One made while a table is small reads all of it, also when it has
#: grown, until it is analysed. Pinned by test_pg_costs.py. Without `jit = off` the few plans that cannot but
#: read a whole table would be compiled, because they are taken for very dear.
_PLAN_FOR_MORE: Final = "set enable_seqscan = off; set jit = off"
_BEGIN: Final = f"begin isolation level read committed; {_IDLE_TIMEOUT}"
#: For find_candidates_in_groups.sql, which takes longer to plan than to run, and still longer to compile: a
#: limit whose value is not known is taken for a tenth of the table, and so it seems to be worth it.
_ONE_PLAN: Final = "set local plan_cache_mode = force_generic_plan; set local jit = off"
_BEGIN_TO_READ: Final = "begin isolation level read committed, read only"


class Connections:
    """Up to `pool_size` connections at once, shared by all calls of a store."""

    def __init__(self, options: Options, statements: Statements) -> None:
        """Prepare for connecting; nothing is done yet."""
        self.options: Final = options
        self.statements: Final = statements
        self._timeout = options.operation_timeout.total_seconds()
        self._pool: Pool | None = None
        self._calls = 0
        self._no_calls = asyncio.Event()
        self._pid: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._prepare = False
        self._bare = False
        #: Whether there is a pooler between here and the server.
        self.pooled = False
        self._direct = False

    # ---------------------------------------------------------------- open and close

    async def open(self) -> None:
        """Find out what the server is like; raises StoreError if it cannot be reached in time."""
        self._pid, self._loop = os.getpid(), asyncio.get_running_loop()
        self._no_calls = asyncio.Event()
        given, size = self.options.pool, self.options.pool_size
        self._prepare = self.options.prepare is True or (self.options.prepare is None and given is None)
        self._bare = self._direct = False
        self._pool = (
            OwnPool(self.options.target.place, size, self._connect)
            if given is None
            else GivenPool(given, size)
        )
        await self._pool.open()
        try:
            await self.call(self._look, reads=True)
        except BaseException:
            await self._close()
            raise

    async def close(self) -> None:
        """Let the calls under way finish, and close every connection. Closing twice does nothing."""
        if self._pid is None:
            return
        if self._pid != os.getpid():
            self._pid = self._pool = None  # the connections are the parent's
            return
        self._refuse_other_loops()
        self._pid = None
        try:
            while self._calls:
                self._no_calls.clear()
                await self._no_calls.wait()
        finally:
            await self._close()

    async def _close(self) -> None:
        self._pid = None
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def _look(self, session: Session) -> None:
        assert isinstance(session, AsyncSession)  # noqa: S101 - `call` makes no other
        connection = session.connection
        cursor = async_cursor(connection)
        await cursor.execute(_FACTS)
        facts = await cursor.fetchone()
        assert facts is not None  # noqa: S101 - it is one row by nature
        pid, isolation, encoding = facts
        if encoding not in _ENCODINGS:
            raise encoding_error(self.options.target, encoding)
        if connection.info.encoding != "utf-8":
            raise client_encoding_error(self.options.target, connection.info.encoding)
        self.pooled = pid != connection.info.backend_pid
        if self.pooled and self.options.prepare is None:
            self._prepare = False
        # How other statements are planned on a pool of the application's is not ours to say.
        self._direct = not self.pooled and self.options.pool is None
        await self._plan_for_more(connection)
        # A single statement runs under the server's own setting unless it is told otherwise.
        self._bare = isolation == "read committed"

    async def _connect(self) -> OwnConnection:
        connection = await connect(self.options.target, prepare=self._prepare)
        try:
            await self._plan_for_more(connection)
        except BaseException:
            close_now(connection)
            raise
        return connection

    async def _plan_for_more(self, connection: Connection) -> None:
        """Have what is prepared on a connection planned for larger tables than there are."""
        if self._direct and self._prepare:
            await _run(connection, _PLAN_FOR_MORE)

    # ---------------------------------------------------------------- calls

    async def call(
        self,
        step: Step[T],
        *,
        single: bool = False,
        reads: bool = False,
        repeatable: bool = True,
        urgent: bool = False,
        unhurried: bool = False,
        one_plan: bool = False,
    ) -> T:
        """Run a step in one transaction, at READ COMMITTED, and return what it returns.

        It happens wholly or not at all, also when this is cancelled. What did not happen for a passing reason
        is tried again until `operation_timeout` is over; so is what may have happened, if it is `repeatable`.
        `single`: the step is one statement. `reads`: it changes nothing. `urgent`: it goes before others.
        `unhurried`: once it runs it may take as long as it takes. `one_plan`: its statements are planned once
        for all values.

        What the step raises comes out, with nothing done. Raises StoreError, with `outcome_unknown` if it may
        have happened all the same.
        """
        pool = self._usable()
        task = asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0
        call = _Call(
            deadline=asyncio.get_running_loop().time() + self._timeout,
            unhurried=unhurried,
            writes=not reads,
            repeatable=repeatable,
            one_plan=one_plan,
        )
        self._calls += 1
        try:
            while True:
                try:
                    async with asyncio.timeout_at(call.deadline) as timeout, pool.slot(urgent=urgent):
                        result = await self._try(step, call, pool, timeout, single=single)
                    break
                except RetryStep:
                    await self._pause(_AFTER_RACE, call)
                except TimeoutError:
                    self._give_up(call)
                except psycopg.Error as error:
                    await self._pause(self._retry_delay(error, call), call)
            if task is not None and task.cancelling() > cancelled:
                raise asyncio.CancelledError  # some psycopg waits by `wait_for`, which may lose it
            return result
        finally:
            self._calls -= 1
            if not self._calls:
                self._no_calls.set()

    async def _try(
        self, step: Step[T], call: _Call, pool: Pool, timeout: asyncio.Timeout, *, single: bool
    ) -> T:
        """Run a step once."""
        call.connection, call.sent, call.connecting = None, False, True
        connection = call.connection = await pool.take()
        try:
            if call.unhurried:
                timeout.reschedule(None)
            session = AsyncSession(self.statements, connection, prepare=None if self._prepare else False)
            if single and self._bare:
                call.sent = True
                return await step(session)
            await _run(connection, call.begin)
            try:
                result = await step(session)
            except Exception:
                await _roll_back(connection)
                raise
            call.sent = True
            await _run(connection, "commit")
            return result
        finally:
            if not is_idle(connection):
                close_now(connection)
            pool.give_back(connection)

    def _retry_delay(self, error: psycopg.Error, call: _Call) -> float:
        """How long to wait before another try after this error; raises the StoreError if there is none."""
        target = self.options.target
        retry = retryability(error)
        unknown = retry is Retryability.CONNECTION_LOST and call.sent and call.writes
        call.unknown |= unknown
        call.sent = False
        failure = store_error(error, target, outcome_unknown=call.unknown)
        if self.options.prepare is None and misprepared(error):
            self._prepare = False
        elif code_of(error) == _READ_ONLY and (target.several or call.connection is None):
            pass  # another host may be the one to write to, or will be soon
        elif retry is Retryability.REFUSED or misprepared(error):
            raise failure from cause(error, target)
        if (unknown and not call.repeatable) or self._pid is None:
            raise failure from cause(error, target)
        call.failure = failure
        call.failures += 1
        return min(_LONGEST, _FIRST * 2.0 ** min(call.failures - 1, 10))

    async def _pause(self, seconds: float, call: _Call) -> None:
        """Wait for about that long; raises what went wrong if the time is over then."""
        seconds *= 0.5 + random.random()
        if asyncio.get_running_loop().time() + seconds >= call.deadline:
            self._give_up(call)
        await asyncio.sleep(seconds)

    def _give_up(self, call: _Call) -> NoReturn:
        target = self.options.target
        unknown = call.unknown or (call.sent and call.writes)
        if call.failure is not None:
            call.failure.outcome_unknown = unknown
            raise call.failure from None
        if call.connection is None and not call.connecting:
            raise pool_exhausted_error(target, self.options.pool_size) from None
        if call.connection is None and self.options.pool is not None:
            raise given_pool_error(target, outcome_unknown=unknown) from None
        if call.connection is None or call.connection.closed:
            raise unresponsive_error(target, outcome_unknown=unknown) from None
        raise busy_error(target, outcome_unknown=unknown) from None

    # ---------------------------------------------------------------- who may call

    def _usable(self) -> Pool:
        place = self.options.target.place
        if self._pid is None or self._pool is None:
            raise StoreClosedError(
                f"the store of {place} is not open; use `async with`, or call open() first"
            )
        self.refuse_fork()
        self._refuse_other_loops()
        return self._pool

    def refuse_fork(self) -> None:
        """Raise StoreForkedError in a child of the process that opened this."""
        if self._pid is not None and self._pid != os.getpid():
            raise StoreForkedError(
                f"the store of {self.options.target.place} was opened in another process; "
                "fork before opening a store, or start processes by spawning them"
            )

    def _refuse_other_loops(self) -> None:
        # A connection is watched by the loop it was made on.
        if self._loop is not asyncio.get_running_loop():
            raise StoreClosedError(
                f"the store of {self.options.target.place} was opened on another event loop; "
                "open one on this loop as well"
            )


@dataclass(slots=True, kw_only=True)
class _Call:
    """A call that may take several tries."""

    deadline: float
    unhurried: bool
    writes: bool
    repeatable: bool
    #: Of this try: the connection, and whether what cannot be taken back had begun to be sent.
    connection: Connection | None = None
    sent: bool = False
    connecting: bool = False
    #: Whether any try may have happened.
    unknown: bool = False
    failures: int = 0
    failure: StoreError | None = None
    one_plan: bool = False

    @property
    def begin(self) -> LiteralString:
        """What begins a transaction for it."""
        begin = _BEGIN if self.writes else _BEGIN_TO_READ
        return f"{begin}; {_ONE_PLAN}" if self.one_plan else begin


async def _run(connection: Connection, text: LiteralString) -> None:
    await async_cursor(connection).execute(text, prepare=False)


async def _roll_back(connection: Connection) -> None:
    """End the transaction; a connection on which that fails is not used again."""
    try:
        await _run(connection, "rollback")
    except psycopg.Error:
        close_now(connection)
