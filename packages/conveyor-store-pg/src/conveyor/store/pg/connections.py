"""The connections of a store: a few, shared by all its calls, each call in one transaction.

There is no state on a connection between two calls: no session locks, no `listen`, no settings (but for that
of a direct line, how it plans). So it may lead to a pooler in transaction mode, such as PgBouncer.
`psycopg_pool` was not used: calls would have to stand in line in front of it all the same (`slots.py`), its
worker tasks turn a refused login into a timeout, and a cancellation that meets one of its own waits can get
lost (18 of 333).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, LiteralString, NoReturn, TypeVar

import psycopg

from conveyor.core.errors import StoreClosedError, StoreError, StoreForkedError
from conveyor.store.pg.errors import (
    Fate,
    busy_error,
    cause,
    code_of,
    crowded_error,
    encoding_error,
    fate,
    misprepared,
    silent_error,
    store_error,
)
from conveyor.store.pg.lines import Line, connect, drop, idle, sound
from conveyor.store.pg.options import Options
from conveyor.store.pg.slots import Slots
from conveyor.store.pg.statements import Again, AsyncSession, Session, Statements

T = TypeVar("T")
#: What is done in one transaction. It may run more than once: after one that did not happen.
Step = Callable[[Session], Awaitable[T]]

log: Final = logging.getLogger("conveyor.store.pg")

#: How long to wait before another try, in seconds: at first, at most, and when somebody was just faster.
_FIRST: Final = 0.01
_LONGEST: Final = 1.0
_SOON: Final = 0.002
#: After that long a connection is replaced, in seconds: it follows a moved address, and frees its memory.
_OLD: Final = 3_600.0
_READ_ONLY: Final = "25006"
#: Told by every server. A pooler makes up the process id that it tells its clients.
_FACTS: Final = """select pg_backend_pid(), current_setting('default_transaction_isolation'),
  current_setting('server_encoding')"""
#: Those that can hold any text. Without an encoding the server keeps the UTF-8 that it is sent.
_ENCODINGS: Final = frozenset({"UTF8", "SQL_ASCII"})
#: A process that is frozen in the middle of a step, or whose host is gone without a word, keeps its locks no
#: longer than that: all claims of a queue with limits or groups wait for one row of it. Pinned by
#: test_pg_frozen.py.
_PATIENCE_WITH_US: Final = "set local idle_in_transaction_session_timeout = '5s'"
#: A prepared statement keeps its plan. One made while a table is small reads all of it, also when it has
#: grown, until it is analysed. Pinned by test_pg_costs.py. Without `jit = off` the few plans that cannot but
#: read a whole table would be compiled, because they are taken for very dear.
_PLAN_FOR_MORE: Final = "set enable_seqscan = off; set jit = off"
_BEGIN: Final = f"begin isolation level read committed; {_PATIENCE_WITH_US}"
#: For look_by_turns.sql, which takes longer to plan than to run, and still longer to compile: a limit whose
#: value is not known is taken for a tenth of the table, and so it seems to be worth it.
_ONE_PLAN: Final = "set local plan_cache_mode = force_generic_plan; set local jit = off"
_BEGIN_TO_READ: Final = "begin isolation level read committed, read only"


class Connections:
    """Up to `pool_size` connections, opened when they are needed and kept."""

    def __init__(self, options: Options, statements: Statements) -> None:
        """Prepare for connecting; nothing is done yet."""
        self.options: Final = options
        self.statements: Final = statements
        self._patience = options.operation_timeout.total_seconds()
        self._slots = Slots(options.pool_size)
        self._idle: list[tuple[Line, float]] = []
        self._held: set[Line] = set()
        self._calls = 0
        self._quiet = asyncio.Event()
        self._pid: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._prepare = options.prepare is not False
        self._bare = False
        self._abandoned: weakref.finalize[Any, Connections] | None = None
        #: Whether there is a pooler between here and the server.
        self.pooled = False
        self._direct = False

    # ---------------------------------------------------------------- open and close

    async def open(self) -> None:
        """Find out what the server is like; raises StoreError if it cannot be reached in time."""
        self._pid, self._loop = os.getpid(), asyncio.get_running_loop()
        self._slots = Slots(self.options.pool_size)
        self._quiet = asyncio.Event()
        self._prepare, self._bare = self.options.prepare is not False, False
        self._direct = False
        self._abandoned = weakref.finalize(self, _abandon, self._held, self._pid)
        try:
            await self.call(self._look, reads=True)
        except BaseException:
            self._let_go()
            raise

    async def close(self) -> None:
        """Let the calls under way finish, and close every connection. Closing twice does nothing."""
        if self._pid is None:
            return
        if self._pid != os.getpid():
            self._pid = None  # the connections are the parent's
            self._held.clear()
            self._idle.clear()
            return
        self._refuse_other_loops()
        self._pid = None
        try:
            while self._calls:
                self._quiet.clear()
                await self._quiet.wait()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._pid = None
        self._idle.clear()
        if self._abandoned is not None:
            self._abandoned.detach()
        _abandon(self._held, os.getpid())

    async def _look(self, session: Session) -> None:
        assert isinstance(session, AsyncSession)  # noqa: S101 - `call` makes no other
        line = session.connection
        cursor = await line.execute(_FACTS)
        facts = await cursor.fetchone()
        assert facts is not None  # noqa: S101 - it is one row by nature
        pid, isolation, encoding = facts
        if encoding not in _ENCODINGS:
            raise encoding_error(self.options.target, encoding)
        self.pooled = pid != line.info.backend_pid
        if self.pooled and self.options.prepare is None:
            self._stop_preparing()
            line.prepare_threshold = None
        self._direct = not self.pooled
        await self._plan_for_more(line)
        # A single statement runs under the server's own setting unless it is told otherwise.
        self._bare = isolation == "read committed"

    async def _plan_for_more(self, line: Line) -> None:
        """Have what is prepared on a connection planned for larger tables than there are."""
        if self._direct and self._prepare:
            await line.execute(_PLAN_FOR_MORE, prepare=False)

    def _stop_preparing(self) -> None:
        self._prepare = False
        for line, _ in self._idle:
            line.prepare_threshold = None

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
        self._usable()
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0
        until = loop.time() + self._patience
        trying = _Trying(until=until, unhurried=unhurried, writes=not reads, repeatable=repeatable)
        trying.one_plan = one_plan
        self._calls += 1
        try:
            while True:
                try:
                    async with self._slots.taken(urgent=urgent, until=trying.until):
                        result = await self._try(step, trying, single=single)
                    break
                except Again:
                    await self._pause(_SOON, trying)
                except TimeoutError:
                    self._give_up(trying)
                except psycopg.Error as error:
                    await self._pause(self._judge(error, trying), trying)
            if task is not None and task.cancelling() > cancelled:
                raise asyncio.CancelledError  # some psycopg waits by `wait_for`, which may lose it
            return result
        finally:
            self._calls -= 1
            if not self._calls:
                self._quiet.set()

    async def _try(self, step: Step[T], trying: _Trying, *, single: bool) -> T:
        """Run a step once."""
        trying.line, trying.sent, trying.connecting = None, False, True
        async with asyncio.timeout_at(trying.until):
            line, since = await self._line()
        trying.line = line
        session = AsyncSession(self.statements, line)
        try:
            async with asyncio.timeout_at(None if trying.unhurried else trying.until):
                if single and self._bare:
                    trying.sent = True
                    return await step(session)
                await line.execute(trying.begin, prepare=False)
                try:
                    result = await step(session)
                except Exception:
                    await _roll_back(line)
                    raise
                trying.sent = True
                await line.execute("commit", prepare=False)
                return result
        finally:
            self._put(line, since)

    def _judge(self, error: psycopg.Error, trying: _Trying) -> float:
        """How long to wait before another try after this error; raises the StoreError if there is none."""
        target = self.options.target
        end = fate(error)
        unknown = end is Fate.CUT and trying.sent and trying.writes
        trying.unknown |= unknown
        trying.sent = False
        failure = store_error(error, target, outcome_unknown=trying.unknown)
        if self.options.prepare is None and misprepared(error):
            self._stop_preparing()
        elif code_of(error) == _READ_ONLY and (target.several or trying.line is None):
            pass  # another host may be the one to write to, or will be soon
        elif end is Fate.REFUSED or misprepared(error):
            raise failure from cause(error, target)
        if (unknown and not trying.repeatable) or self._pid is None:
            raise failure from cause(error, target)
        trying.failure = failure
        trying.failures += 1
        return min(_LONGEST, _FIRST * 2.0 ** min(trying.failures - 1, 10))

    async def _pause(self, seconds: float, trying: _Trying) -> None:
        """Wait for about that long; raises what went wrong if the time is over then."""
        seconds *= 0.5 + random.random()
        if asyncio.get_running_loop().time() + seconds >= trying.until:
            self._give_up(trying)
        await asyncio.sleep(seconds)

    def _give_up(self, trying: _Trying) -> NoReturn:
        target = self.options.target
        unknown = trying.unknown or (trying.sent and trying.writes)
        if trying.failure is not None:
            trying.failure.outcome_unknown = unknown
            raise trying.failure from None
        if trying.line is None and not trying.connecting:
            raise crowded_error(target, self.options.pool_size) from None
        if trying.line is None or trying.line.closed:
            raise silent_error(target, outcome_unknown=unknown) from None
        raise busy_error(target, outcome_unknown=unknown) from None

    # ---------------------------------------------------------------- connections

    async def _line(self) -> tuple[Line, float]:
        """A connection that is good as far as one can see, and since when it has been open."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            line, since = self._idle.pop()
            if now - since < _OLD and sound(line):
                return line, since
            self._drop(line)
        line = await connect(self.options.target, prepare=self._prepare)
        self._held.add(line)
        try:
            await self._plan_for_more(line)
        except BaseException:
            self._drop(line)
            raise
        return line, now

    def _put(self, line: Line, since: float) -> None:
        """Keep a connection for the next call, unless something is left undone on it."""
        if idle(line) and self._pid is not None:
            if not self._prepare:
                line.prepare_threshold = None
            self._idle.append((line, since))
        else:
            self._drop(line)

    def _drop(self, line: Line) -> None:
        self._held.discard(line)
        drop(line)

    # ---------------------------------------------------------------- who may call

    def _usable(self) -> None:
        place = self.options.target.place
        if self._pid is None:
            raise StoreClosedError(
                f"the store of {place} is not open; use `async with`, or call open() first"
            )
        self.refuse_fork()
        self._refuse_other_loops()

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
class _Trying:
    """A call that may take several tries."""

    until: float
    unhurried: bool
    writes: bool
    repeatable: bool
    #: Of this try: the connection, and whether what cannot be taken back had begun to be sent.
    line: Line | None = None
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


async def _roll_back(line: Line) -> None:
    """End the transaction; a connection on which that fails is not used again."""
    try:
        await line.execute("rollback", prepare=False)
    except psycopg.Error:
        drop(line)


def _abandon(held: set[Line], pid: int) -> None:
    """Close what is still open, except in a forked child: there it is the parent's."""
    for line in list(held) if pid == os.getpid() else ():
        drop(line)
    held.clear()
