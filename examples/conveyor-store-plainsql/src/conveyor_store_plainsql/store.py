"""The store: each call is one transaction, made in a thread of the store's own."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from sqlite3 import Connection
from typing import Concatenate, ParamSpec, Self, TypeVar

from conveyor.core.errors import (
    HIDDEN,
    InvalidOptionError,
    SchemaTooNewError,
    StoreClosedError,
    StoreError,
    StoreForkedError,
    StoreUnavailableError,
    showable,
)
from conveyor.core.events import Bus, LocalBus
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
from conveyor_store_plainsql import moving, pausing, sets
from conveyor_store_plainsql.rows import TABLES, VERSION

P = ParamSpec("P")
T = TypeVar("T")


class PlainSqlStore(Store):
    """Jobs in a SQL database: that of Python's own `sqlite3`, one call at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bus = LocalBus()
        self._thread: ThreadPoolExecutor | None = None
        self._db: Connection | None = None
        self._process = os.getpid()

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """The store of a URL such as `plainsql:///var/lib/app/jobs.db`."""
        for option in options:
            raise InvalidOptionError(option, HIDDEN, "this store has no options")
        path = url.removeprefix("plainsql://")
        if path in {url, ""}:
            raise InvalidOptionError("url", showable(url), "write plainsql://PATH")
        return cls(Path(path))

    @property
    def features(self) -> frozenset[Feature]:
        return frozenset(Feature) - {Feature.MULTI_PROCESS, Feature.SERVER_CLOCK}

    @property
    def bus(self) -> Bus:
        return self._bus

    async def open(self) -> None:
        if self._thread is not None:
            return
        self._process = os.getpid()
        self._thread = ThreadPoolExecutor(1, "conveyor-plainsql")
        try:
            self._db = await asyncio.wrap_future(self._thread.submit(_connected, self._path))
        except BaseException:
            self._thread.shutdown(wait=False)
            self._thread = None
            raise
        self._bus.reopen()

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None and self._db is not None:
            self._bus.close()
            last = thread.submit(self._db.close)
            thread.shutdown(wait=False)
            await asyncio.wrap_future(last)

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: datetime | None = None
    ) -> Sequence[Inserted]:
        return await self._call(now, moving.insert, jobs, new_only=new_only)

    async def claim(self, request: Claim, *, now: datetime | None = None) -> Claimed:
        return await self._call(now, moving.claim, request)

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
        return await self._call(now, moving.take, ids, request)

    async def renew(self, beats: Sequence[Beat], lease: timedelta, *, now: datetime | None = None) -> Renewed:
        return await self._call(now, moving.renew, beats, lease)

    async def settle(self, outcomes: Sequence[Outcome], *, now: datetime | None = None) -> Settled:
        return await self._call(now, moving.settle, outcomes)

    async def advance(
        self, queues: Collection[str], *, limit: int = 1000, now: datetime | None = None
    ) -> Advanced:
        return await self._call(now, moving.advance, queues, limit)

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: datetime | None = None,
    ) -> Sequence[JobRecord]:
        return await self._call(now, sets.find, where, limit=limit, after=after, order=order)

    async def count(
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: datetime | None = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        return await self._call(now, sets.count, where, by_group=by_group, most=most)

    async def update(self, where: Where, change: Change, *, now: datetime | None = None) -> frozenset[JobKey]:
        return await self._call(now, sets.update, where, change)

    async def delete(self, where: Where, *, limit: int, now: datetime | None = None) -> Deleted:
        return await self._call(now, sets.delete, where, limit)

    async def pause(
        self, queue: str, what: Pause, for_: timedelta | None = None, *, now: datetime | None = None
    ) -> None:
        await self._call(now, pausing.pause, queue, what, for_)

    async def resume(self, queue: str, what: Pause, *, now: datetime | None = None) -> None:
        await self._call(now, pausing.resume, queue, what)

    async def paused(self, queue: str, *, now: datetime | None = None) -> Mapping[Pause, datetime | None]:
        return await self._call(now, pausing.paused, queue)

    async def forget(self, queue: str, *, now: datetime | None = None) -> Sequence[JobKey]:
        return await self._call(now, sets.forget, queue)

    async def _call(
        self,
        now: datetime | None,
        step: Callable[Concatenate[Connection, datetime, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Make one transaction in the store's own thread: all of it, or none if this is cancelled before."""
        if self._thread is None or self._db is None:
            raise StoreClosedError("PlainSqlStore is not open: use `async with`, or call open() first")
        if self._process != os.getpid():
            raise StoreForkedError("PlainSqlStore was opened before a fork; open one in this process")
        db = self._db

        def transaction() -> T:
            with _transaction(db):
                instant = now or datetime.now(UTC)
                moving.lapse_keys(db, instant)
                return step(db, instant, *args, **kwargs)

        return await asyncio.wrap_future(self._thread.submit(transaction))


@contextmanager
def _transaction(db: Connection) -> Iterator[None]:
    """Commit what is done within, or undo all of it."""
    with _errors():
        # SQLite has one lock for all writers, taken here. On a server rows are locked as they are read.
        db.execute("begin immediate")
        try:
            yield
            db.execute("commit")
        except BaseException:
            if db.in_transaction:
                db.execute("rollback")
            raise


@contextmanager
def _errors() -> Iterator[None]:
    """Tell in the contract's words what the driver says."""
    try:
        yield
    except (sqlite3.DataError, sqlite3.IntegrityError, OverflowError, UnicodeEncodeError) as error:
        raise StoreError(f"this cannot be stored: {error}") from error
    except sqlite3.Error as error:
        raise StoreUnavailableError(str(error)) from error


def _connected(path: Path) -> Connection:
    with _errors():
        db = sqlite3.connect(path, timeout=10, isolation_level=None)
        db.row_factory = sqlite3.Row
        db.execute("pragma journal_mode = wal")
        with _transaction(db):
            [version] = db.execute("pragma user_version").fetchone()
            if version > VERSION:
                raise SchemaTooNewError(f"the file has version {version}, and this release knows {VERSION}")
            if version < VERSION:
                for statement in TABLES.split(";"):
                    db.execute(statement)
                db.execute(f"pragma user_version = {VERSION}")
        return db
