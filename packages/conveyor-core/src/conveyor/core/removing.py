"""Removing jobs that no worker holds, and telling of the parents that this releases.

A store does not say whom it releases when it removes a job. So, while any job of the store waits for others,
what is to be removed is read first; if none does, it is removed unseen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from conveyor.core import observing
from conveyor.core._engine.descendants import by_queue
from conveyor.core._engine.family import UNFINISHED
from conveyor.core.errors import InvalidJobStateError
from conveyor.core.events import JobDelayed, JobRemoved, JobWaiting
from conveyor.core.jobs import JobState
from conveyor.core.store import Feature, Where

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.jobs import JobKey, JobRecord
    from conveyor.core.store import Store

#: How many jobs one step removes, so that no single step holds up the others for long; and how many are read.
_SWEEP: Final = 1_000
_LOOK: Final = 500
_AWAITED: Final = frozenset({JobState.WAITING_CHILDREN})
_TOLD: Final = {JobState.WAITING: JobWaiting, JobState.DELAYED: JobDelayed}


async def remove(store: Store, key: JobKey, clock: Clock) -> bool:
    """Remove a job that is not active, and say whether it was there.

    Raises InvalidJobStateError if it is active.
    """
    where = Where(queue=key.queue, ids=frozenset({key.id}), states=frozenset(JobState) - {JobState.ACTIVE})
    found = await observing.read(store, key)
    if (await store.delete(where, limit=1)).removed:
        gone = JobRemoved(queue_name=key.queue, job_id=key.id, at=clock.now())
        await store.bus.publish([gone, *await _released(store, [] if found is None else [found], clock)])
        return True
    if await observing.read(store, key) is None:
        return False
    raise InvalidJobStateError(key.id, JobState.ACTIVE, ("any other state",), "cancel it first")


async def remove_all(store: Store, where: Where, clock: Clock, *, limit: int | None = None) -> int:
    """Remove the jobs of a set, or so many of them, the longest there first, and return how many."""
    removed = 0
    if await _may_release(store, where):
        while page := await store.find(where, limit=_most(_LOOK, limit, removed)):
            ids = frozenset(record.id for record in page)
            removed += len((await store.delete(replace(where, ids=ids), limit=len(ids))).removed)
            if events := await _released(store, page, clock):
                await store.bus.publish(events)
            if removed == limit:
                return removed
    # What cannot be read is left by now.
    while (most := _most(_SWEEP, limit, removed)) and (
        step := (await store.delete(where, limit=most)).removed
    ):
        removed += len(step)
    return removed


async def forget(store: Store, queue: str, clock: Clock) -> None:
    """Remove every trace of a queue."""
    #: One of each parent.
    children: dict[JobKey | None, JobRecord] = {}
    unfinished = Where(queue=queue, states=UNFINISHED)
    if await _may_release(store, unfinished):
        page: Sequence[JobRecord] = ()
        while page := await store.find(unfinished, limit=_LOOK, after=page[-1] if page else None):
            children |= {record.parent: record for record in page if not record.released}
    await store.forget(queue)
    if events := await _released(store, children.values(), clock):
        await store.bus.publish(events)


def _most(step: int, limit: int | None, removed: int) -> int:
    return step if limit is None else min(step, limit - removed)


async def _may_release(store: Store, where: Where) -> bool:
    """Whether there are jobs that removing these may release: none that have finished do."""
    if Feature.FLOWS not in store.features or (where.states is not None and not where.states & UNFINISHED):
        return False
    return bool(await store.count(Where(states=_AWAITED)))


async def _released(store: Store, removed: Iterable[JobRecord], clock: Clock) -> list[Event]:
    """The events of the parents that waited for these, and wait for no child now."""
    events: list[Event] = []
    parents = (job.parent for job in removed if job.parent is not None and not job.released)
    for queue, ids in by_queue(parents).items():
        waiting = Where(queue=queue, ids=frozenset(ids), states=frozenset(_TOLD))
        events += [
            _TOLD[found.state](queue_name=queue, job_id=found.id, at=clock.now())
            for found in await store.find(waiting, limit=len(ids))
        ]
    return events
