"""The worker registry: which workers work at a queue, as they say themselves in a queue of core's own.

A registration is a job that the worker has leased itself. Its payload is what the worker says of itself, its
lease is the worker's heartbeat: one whose lease has run out is of a worker that died, or is out of touch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core import _documents
from conveyor.core._queue_names import workers_of
from conveyor.core.limits import GroupLimit, RateLimit
from conveyor.core.store import JobState, Where

if TYPE_CHECKING:
    from conveyor.core.store import JobRecord, Store

#: The most running jobs that a registration names: what a heartbeat writes has to stay small.
MOST_RUNNING: Final = 100
_PAGE: Final = 500
#: A younger registration that is not leased may be of a worker that is just starting.
_YOUNG: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """A job that a worker said it is running."""

    id: str
    name: str
    started_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """What a running worker last said of itself, at `last_beat_at` by the store's clock.

    `names` are the job names it has handlers for; None: it takes any. `running` names the first 100 of
    `running_count` jobs, `ready_count` is how many it has claimed and not started. `batch_size` is how many a
    call of its handler takes at most, 1 without `batch=`, and `free_count` how many more calls it may start.
    """

    id: str
    name: str
    queue_names: tuple[str, ...]
    host: str
    pid: int
    started_at: datetime
    last_beat_at: datetime
    concurrency: int
    batch_size: int
    free_count: int
    paused: bool
    lifo: bool
    names: frozenset[str] | None
    max_global_concurrency: int | None
    limiter: RateLimit | None
    group: GroupLimit | None
    running_count: int
    ready_count: int
    running: tuple[RunningJob, ...]

    @property
    def room(self) -> int:
        """How many jobs it may hold at once: of a batch that has started, as many as are in it."""
        held = self.running_count + self.ready_count
        return self.concurrency * self.batch_size if self.free_count or self.batch_size == 1 else held

    def handles(self, job_name: str) -> bool:
        """Whether it claims jobs of this name."""
        return self.names is None or job_name in self.names


@dataclass(frozen=True, slots=True, kw_only=True)
class _Registration:
    """What a worker says of itself, and for how long that is believed."""

    info: WorkerInfo
    lease: timedelta


def registration(info: WorkerInfo, lease: timedelta) -> str:
    """What a worker says of itself, as JSON text; it is believed for `lease`."""
    return _documents.encode(
        _Registration(info=replace(info, running=info.running[:MOST_RUNNING]), lease=lease)
    )


async def find_workers(store: Store, queue: str) -> list[WorkerInfo]:
    """The workers of a queue whose heartbeat has not run out, the longest there first."""
    records: list[JobRecord] = []
    held = Where(queue=workers_of(queue), states=frozenset({JobState.ACTIVE}))
    while page := await store.find(held, limit=_PAGE, after=records[-1] if records else None):
        records += page
    if not records:
        return []
    now = await store_time(store)
    found = [
        info
        for record in records
        if (until := record.lease_until) is not None and until > now
        if (info := _info(record, until)) is not None
    ]
    return sorted(found, key=lambda info: (info.started_at, info.id))


async def store_time(store: Store) -> datetime:
    """What time it is by the store's clock."""
    return (await store.advance(())).now


async def sweep(store: Store, queue: str, *, limit: int = _PAGE, spare_young: bool = True) -> None:
    """Remove the registrations of workers that died."""
    workers = workers_of(queue)
    await store.advance({workers})
    dead = Where(
        queue=workers,
        states=frozenset({JobState.WAITING}),
        older_than=_YOUNG if spare_young else None,
    )
    await store.delete(dead, limit=limit)


def _info(record: JobRecord, lease_until: datetime) -> WorkerInfo | None:
    """What a registration says; None if that cannot be read."""
    try:
        found = _documents.decode(_Registration, record.payload)
    except ValueError:
        return None
    return replace(found.info, last_beat_at=lease_until - found.lease)
