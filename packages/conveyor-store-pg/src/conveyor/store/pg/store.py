"""The contract on PostgreSQL: bind, execute, map."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, Final, Self

from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool

from conveyor.core.durations import Duration
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
from conveyor.store.pg import advancing, claiming, inserting, pausing, sets, settling
from conveyor.store.pg.bus import PgBus
from conveyor.store.pg.connections import Connections
from conveyor.store.pg.housekeeping import forget_ended, resume_groups
from conveyor.store.pg.insert_batcher import MOST_BATCHED, InsertBatcher
from conveyor.store.pg.migrate import prepare
from conveyor.store.pg.options import Options, parsed
from conveyor.store.pg.statements import Session, Statements
from conveyor.store.pg.statistics import Statistics
from conveyor.store.pg.using import checked_connection, using
from conveyor.store.sql import LoopLock

_FEATURES: Final = frozenset(Feature)


class PgStore(Store):
    """Jobs in a PostgreSQL database, shared by any number of processes on any number of hosts.

    It uses at most `pool_size` connections of the process, and one more to listen for events.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        pool: AsyncConnectionPool[Any] | None = None,
        schema: str = "public",
        pool_size: int = 10,
        operation_timeout: Duration = "10s",
        auto_migrate: bool = True,
        notify: bool = True,
        listen_dsn: str | None = None,
        prepare: bool | str = "auto",
    ) -> None:
        """Make a store in a database, whose tables `open()` creates if need be.

        The tables are in `schema`. A call waits at most `operation_timeout` for the server, for a connection
        and for locks. Without `auto_migrate` the tables must be there already. Without `notify` nothing is
        sent between processes, and workers find jobs by polling. `listen_dsn` is a direct connection for
        events where `dsn` leads through a connection pooler. `prepare` says whether statements are prepared
        on the server; "auto": unless a pooler is in between.

        Instead of `dsn` it may be given a `pool` of the application's, which is open for as long as the store
        is, and of which it uses at most `pool_size` connections at once. It leaves them as they were,
        prepares nothing there by itself, and listens on a connection of its own.

        Raises InvalidOptionError for an option that cannot be used.
        """
        self._options: Final = Options.checked(
            dsn,
            pool=pool,
            schema=schema,
            pool_size=pool_size,
            operation_timeout=operation_timeout,
            auto_migrate=auto_migrate,
            notify=notify,
            listen_dsn=listen_dsn,
            prepare=prepare,
        )
        self._statements: Final = Statements(self._options.schema)
        self._connections: Final = Connections(self._options, self._statements)
        self._insert_batcher: Final = InsertBatcher(self._connections)
        self._statistics: Final = Statistics(self._connections)
        self._bus: Final = PgBus(self._options, self._connections)
        self._opened = False
        self._one_at_a_time: Final = LoopLock()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """A store for `postgresql://user@host:5432/database`, or any URL that libpq knows.

        Options may stand behind a `?`, as in `?schema=jobs&pool_size=4`; those given as keywords go before
        them. Raises InvalidOptionError for a URL that cannot be used and for an option that does not exist.
        """
        dsn, found = parsed(url, options)
        return cls(dsn, **found)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._options.target.place!r})"

    # ---------------------------------------------------------------- open and close

    @property
    def features(self) -> frozenset[Feature]:
        """Everything that the contract knows."""
        return _FEATURES

    @property
    def bus(self) -> Bus:
        """Events reach this process at once, and the others by `NOTIFY`."""
        return self._bus

    async def open(self) -> None:
        async with self._one_at_a_time():
            if self._opened:
                self._connections.refuse_fork()
                return
            await self._connections.open()
            try:
                await prepare(self._connections)
                await self._bus.open()
            except BaseException:
                await self._connections.close()
                raise
            self._opened = True

    async def close(self) -> None:
        async with self._one_at_a_time():
            if not self._opened:
                return
            self._opened = False
            try:
                await self._bus.close()
            finally:  # a cancelled close leaves no connections behind
                await self._connections.close()

    def using(
        self, connection: AsyncConnection[Any] | Connection[Any] | None = None
    ) -> AbstractAsyncContextManager[Store]:
        """A view of this store in the transaction that `connection` is in.

        Jobs added through it exist if and only if that transaction commits, and their wake-up leaves with the
        commit. Jobs can be added and read within the block, and nothing else; once it has ended, nothing can
        be added, and all other calls go to the store itself. It never commits, and never closes the
        connection, which must be in a transaction (or not in autocommit) and lead to the same database.

        Without a connection it is as for every store: what is added is added together when the block ends.

        Raises InvalidOptionError for what is no connection of psycopg's.
        """
        if connection is None:
            return super().using()
        return using(self, self._options, self._statements, checked_connection(connection))

    # ---------------------------------------------------------------- moving jobs

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: datetime | None = None
    ) -> Sequence[Inserted]:
        given = tuple(jobs)
        fits = inserting.fits_fast_path(given, new_only=new_only)

        async def step(session: Session) -> Sequence[Inserted]:
            return await inserting.insert(session, now, given, new_only=new_only)

        if fits and now is None and len(given) <= MOST_BATCHED:
            inserted = await self._insert_batcher.insert(given)
        else:
            inserted = await self._connections.call(step, single=fits)
        await self._statistics.added(len(given))
        return inserted

    async def claim(self, request: Claim, *, now: datetime | None = None) -> Claimed:
        if request.limit is None and claiming.fits_fast_path(request):

            async def fast_path(session: Session) -> Claimed | None:
                return await claiming.claim_fast(session, now, request)

            claimed = await self._connections.call(fast_path, single=True, repeatable=False)
            if claimed is not None:
                return claimed

        async def slow_path(session: Session) -> Claimed:
            return await claiming.claim(session, now, request)

        async def resumed(session: Session) -> Claimed:
            return await claiming.claim(session, now, request, resumed=True)

        try:
            return await self._connections.call(slow_path, repeatable=False, one_plan=True)
        except claiming.GroupsMayResume:
            await resume_groups(self._connections, request, now)
            return await self._connections.call(resumed, repeatable=False, one_plan=True)

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
        wanted = frozenset(ids)

        async def step(session: Session) -> Claimed:
            return await claiming.take(session, now, wanted, request)

        return await self._connections.call(step, repeatable=False, one_plan=True)

    async def renew(self, beats: Sequence[Beat], lease: timedelta, *, now: datetime | None = None) -> Renewed:
        given = tuple(beats)

        async def step(session: Session) -> Renewed:
            return await settling.renew(session, now, given, lease)

        return await self._connections.call(step, single=True, urgent=True)

    async def settle(self, outcomes: Sequence[Outcome], *, now: datetime | None = None) -> Settled:
        given = tuple(outcomes)
        if settling.may_fit_fast_path(given):

            async def fast_path(session: Session) -> Settled | None:
                return await settling.settle_fast(session, now, given)

            settled = await self._connections.call(fast_path, single=True, urgent=True)
            if settled is not None:
                return settled

        async def slow_path(session: Session) -> Settled:
            return await settling.settle(session, now, given)

        return await self._connections.call(slow_path, urgent=True)

    async def advance(
        self, queues: Collection[str], *, limit: int = 1000, now: datetime | None = None
    ) -> Advanced:
        given = sorted(set(queues))

        async def step(session: Session) -> Advanced:
            return await advancing.advance(session, now, given, limit)

        advanced = await self._connections.call(step)
        if given:
            await forget_ended(self._connections, given, advanced.now)
        return advanced

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
        async def step(session: Session) -> Sequence[JobRecord]:
            return await sets.find(session, now, where, limit=limit, after=after, order=order)

        return await self._connections.call(step, reads=True)

    async def count(
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: datetime | None = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        async def step(session: Session) -> Mapping[tuple[str | None, JobState], int]:
            return await sets.count(session, now, where, by_group=by_group, most=most)

        return await self._connections.call(step, reads=True)

    async def update(self, where: Where, change: Change, *, now: datetime | None = None) -> frozenset[JobKey]:
        async def step(session: Session) -> frozenset[JobKey]:
            return await sets.update(session, now, where, change)

        return await self._connections.call(step)

    async def delete(self, where: Where, *, limit: int, now: datetime | None = None) -> Deleted:
        async def step(session: Session) -> Deleted:
            return await sets.delete(session, now, where, limit)

        return await self._connections.call(step)

    # ---------------------------------------------------------------- pausing

    async def pause(
        self, queue: str, what: Pause, for_: timedelta | None = None, *, now: datetime | None = None
    ) -> None:
        async def step(session: Session) -> None:
            await pausing.pause(session, now, queue, what, for_)

        await self._connections.call(step)

    async def resume(self, queue: str, what: Pause, *, now: datetime | None = None) -> None:
        del now  # it ends whenever it would have

        async def step(session: Session) -> None:
            await pausing.resume(session, queue, what)

        await self._connections.call(step)

    async def paused(self, queue: str, *, now: datetime | None = None) -> Mapping[Pause, datetime | None]:
        async def step(session: Session) -> Mapping[Pause, datetime | None]:
            return await pausing.paused(session, now, queue)

        return await self._connections.call(step, single=True, reads=True)

    async def forget(self, queue: str, *, now: datetime | None = None) -> Sequence[JobKey]:
        async def step(session: Session) -> Sequence[JobKey]:
            return await sets.forget(session, now, queue)

        return await self._connections.call(step)
