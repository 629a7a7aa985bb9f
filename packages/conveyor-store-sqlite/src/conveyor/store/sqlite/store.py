"""The contract on one SQLite file: bind, execute, map."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from sqlite3 import Connection
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

from conveyor.core.durations import Duration
from conveyor.core.errors import InvalidOptionError, StoreClosedError, StoreForkedError
from conveyor.core.events import Bus
from conveyor.core.store import (
    Advanced,
    Beat,
    Change,
    Claim,
    Claimed,
    Deleted,
    Feature,
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Order,
    Outcome,
    Pause,
    Renewed,
    Settled,
    Store,
    Where,
)
from conveyor.store.sql import LoopLock
from conveyor.store.sqlite import advancing, claiming, inserting, pausing, sets, settling
from conveyor.store.sqlite.bus import SqliteBus
from conveyor.store.sqlite.connections import open_reader, open_writer
from conveyor.store.sqlite.options import Options, checked_path, parsed
from conveyor.store.sqlite.reader import Reader
from conveyor.store.sqlite.threads import ConnectionThread, Priority
from conveyor.store.sqlite.writer import Writer

T = TypeVar("T")
P = ParamSpec("P")

_FEATURES: Final = frozenset(Feature) - {Feature.SERVER_CLOCK}


class SqliteStore(Store):
    """Jobs in one SQLite file, shared by the processes of one machine.

    Calls that come at the same time are committed together. `bus` reaches every process that has the
    file open.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: str = "FULL",
        operation_timeout: Duration = "10s",
        auto_migrate: bool = True,
        poll_interval: Duration = "50ms",
    ) -> None:
        """Make a store on the file at `path`, which `open()` creates if need be.

        `synchronous` is "FULL" (a committed job survives a loss of power) or "NORMAL" (faster; the last
        ones may not). A call waits at most `operation_timeout` for others that keep the file locked. Without
        `auto_migrate` the tables must be there already. While this process listens to events, those of other
        processes are looked for every `poll_interval`.

        Raises InvalidOptionError for an option that cannot be used.
        """
        self.path: Final = checked_path(path)
        self._options = Options.checked(
            synchronous=synchronous,
            operation_timeout=operation_timeout,
            auto_migrate=auto_migrate,
            poll_interval=poll_interval,
        )
        self._bus = SqliteBus(self._options.poll_interval)
        self._pid = os.getpid()
        self._threads: tuple[Writer, Reader] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._abandoned: weakref.finalize[Any, SqliteStore] | None = None
        self._one_at_a_time: Final = LoopLock()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """A store for `sqlite:///relative/jobs.db` or `sqlite:////absolute/jobs.db`.

        Options may stand behind a `?`, as in `?synchronous=NORMAL`; those given as keywords go before them.
        Raises InvalidOptionError for a URL without a usable path and for an option that does not exist.
        """
        path, found = parsed(url, options)
        return cls(path, **found)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    # ---------------------------------------------------------------- open and close

    @property
    def features(self) -> frozenset[Feature]:
        """Everything that the contract knows."""
        return _FEATURES

    @property
    def bus(self) -> Bus:
        """Events reach this process at once, and the others within their `poll_interval`."""
        return self._bus

    async def open(self) -> None:
        async with self._one_at_a_time():
            if self._threads is not None:
                self._refuse_fork()
                return
            self._pid = os.getpid()
            timeout = self._options.operation_timeout.total_seconds()
            writer = Writer(
                self.path, timeout, partial(open_writer, self.path, self._options), self._bus.outbox
            )
            reader = Reader(
                self.path, timeout, partial(open_reader, self.path, self._options), self._bus.watch
            )
            await writer.start()
            try:
                await reader.start()
            except BaseException:
                writer.stop()
                raise
            self._threads = writer, reader
            self._loop = asyncio.get_running_loop()
            self._bus.open(writer, reader)
            self._abandoned = weakref.finalize(self, _abandon, self._threads)

    async def close(self) -> None:
        async with self._one_at_a_time():
            if self._threads is not None and self._pid == os.getpid():
                self._refuse_other_loops()
            threads, self._threads = self._threads, None
            if threads is None or self._pid != os.getpid():
                return
            if self._abandoned is not None:
                self._abandoned.detach()
            self._bus.close()
            for thread in reversed(threads):
                thread.stop()
            for thread in reversed(threads):
                await thread.ended()

    def using(self, connection: object = None) -> AbstractAsyncContextManager[Store]:
        """A block whose jobs exist together or not at all, as for every store; not a connection of yours.

        Raises InvalidOptionError for a connection.
        """
        if connection is not None:
            allowed = (
                "give none: only one connection at a time can write to a file of SQLite, and the store has "
                "its own, which would wait for your transaction to end. On PostgreSQL jobs can be part of it"
            )
            raise InvalidOptionError("connection", type(connection), allowed)
        return super().using()

    # ---------------------------------------------------------------- moving jobs

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: datetime | None = None
    ) -> Sequence[Inserted]:
        step = _step(now, inserting.insert, tuple(jobs), new_only=new_only)
        return await self._write(Priority.INSERT, step, weight=len(jobs))

    async def claim(self, request: Claim, *, now: datetime | None = None) -> Claimed:
        return await self._write(Priority.CLAIM, _step(now, claiming.claim, request), weight=request.count)

    async def take(
        self,
        queue: str,
        ids: Collection[str],
        *,
        token: str,
        lease: timedelta,
        worker: str | None = None,
        started: bool = True,
        now: datetime | None = None,
    ) -> Claimed:
        request = Claim(queue=queue, count=len(ids), token=token, lease=lease, worker=worker, started=started)
        return await self._write(
            Priority.CLAIM, _step(now, claiming.take, frozenset(ids), request), weight=len(ids)
        )

    async def renew(self, beats: Sequence[Beat], lease: timedelta, *, now: datetime | None = None) -> Renewed:
        return await self._write(Priority.RENEW, _step(now, settling.renew, tuple(beats), lease))

    async def settle(self, outcomes: Sequence[Outcome], *, now: datetime | None = None) -> Settled:
        step = _step(now, settling.settle, tuple(outcomes))
        return await self._write(Priority.SETTLE, step, weight=len(outcomes))

    async def advance(
        self, queues: Collection[str], *, limit: int = 1000, now: datetime | None = None
    ) -> Advanced:
        return await self._write(Priority.REST, _step(now, advancing.advance, frozenset(queues), limit))

    # ---------------------------------------------------------------- sets of jobs

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: datetime | None = None,
    ) -> Sequence[JobRecord]:
        return await self._read(_step(now, sets.find, where, limit=limit, after=after, order=order))

    async def count(
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: datetime | None = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        return await self._read(_step(now, sets.count, where, by_group=by_group, most=most))

    async def update(self, where: Where, change: Change, *, now: datetime | None = None) -> frozenset[JobKey]:
        return await self._write(Priority.REST, _step(now, sets.update, where, change))

    async def delete(self, where: Where, *, limit: int, now: datetime | None = None) -> Deleted:
        return await self._write(Priority.REST, _step(now, sets.delete, where, limit))

    # ---------------------------------------------------------------- pausing

    async def pause(
        self, queue: str, what: Pause, for_: timedelta | None = None, *, now: datetime | None = None
    ) -> None:
        await self._write(Priority.REST, _step(now, pausing.pause, queue, what, for_))

    async def resume(self, queue: str, what: Pause, *, now: datetime | None = None) -> None:
        await self._write(Priority.REST, _step(now, pausing.resume, queue, what))

    async def paused(self, queue: str, *, now: datetime | None = None) -> Mapping[Pause, datetime | None]:
        return await self._read(_step(now, pausing.paused, queue))

    async def forget(self, queue: str, *, now: datetime | None = None) -> Sequence[JobKey]:
        return await self._write(Priority.REST, _step(now, sets.forget, queue))

    # ---------------------------------------------------------------- the threads

    async def _write(self, priority: Priority, step: Callable[[Connection], T], *, weight: int = 1) -> T:
        return await self._open_threads[0].call(priority, step, weight=weight)

    async def _read(self, step: Callable[[Connection], T]) -> T:
        return await self._open_threads[1].call(Priority.REST, step)

    @property
    def _open_threads(self) -> tuple[Writer, Reader]:
        self._refuse_fork()
        if self._threads is None:
            raise StoreClosedError(
                f"the store of {self.path} is not open; use `async with`, or call open() first"
            )
        self._refuse_other_loops()
        return self._threads

    def _refuse_other_loops(self) -> None:
        # Events could not reach the other loop: whoever waits for one there would wait in vain.
        if self._loop is not asyncio.get_running_loop():
            raise StoreClosedError(
                f"the store of {self.path} was opened on another event loop; open one on this loop as well"
            )

    def _refuse_fork(self) -> None:
        if self._threads is not None and self._pid != os.getpid():
            raise StoreForkedError(
                f"the store of {self.path} was opened in another process; "
                "fork before opening a store, or start processes by spawning them"
            )


def _step(
    now: datetime | None,
    function: Callable[Concatenate[Connection, datetime, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Callable[[Connection], T]:
    """A call to run on the connection, at that moment or at the one when it runs."""
    return lambda db: function(db, datetime.now(UTC) if now is None else now, *args, **kwargs)


def _abandon(threads: tuple[ConnectionThread, ...]) -> None:
    """Let the threads of a store end that nobody closed."""
    for thread in threads:
        thread.stop()
