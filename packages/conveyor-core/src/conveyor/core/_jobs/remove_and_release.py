"""Removing jobs that no worker holds, and the events of that, and of the parents that this releases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.descendants import by_queue
from conveyor.core._jobs.lookup import read
from conveyor.core.errors import InvalidJobStateError
from conveyor.core.events import JobDelayed, JobRemoved, JobWaiting, QueueObliterated
from conveyor.core.store import JobState, Where

if TYPE_CHECKING:
    from collections.abc import Iterable

    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.store import Deleted, JobKey, Store

#: How many jobs one step removes, so that no single step holds up the others for long.
_SWEEP: Final = 1_000
_EVENTS: Final = {JobState.WAITING: JobWaiting, JobState.DELAYED: JobDelayed}


async def remove(store: Store, key: JobKey, clock: Clock) -> bool:
    """Remove a job that is not active, and say whether it was there.

    Raises InvalidJobStateError if it is active.
    """
    where = Where(queue=key.queue, ids=frozenset({key.id}), states=frozenset(JobState) - {JobState.ACTIVE})
    if await remove_all(store, where, clock, limit=1):
        return True
    if await read(store, key) is None:
        return False
    raise InvalidJobStateError(key.id, JobState.ACTIVE, (), "cancel it first")


async def remove_all(store: Store, where: Where, clock: Clock, *, limit: int | None = None) -> int:
    """Remove the jobs of a set, or so many of them, the longest there first, and return how many."""
    removed = 0
    while most := _SWEEP if limit is None else min(_SWEEP, limit - removed):
        deleted = await store.delete(where, limit=most)
        if not deleted.removed:
            break
        removed += len(deleted.removed)
        await store.bus.publish(await events_of(store, deleted, clock))
    return removed


async def refuse_active(store: Store, queue: str) -> None:
    """Raise InvalidJobStateError if a job of the queue is active."""
    for job in await store.find(Where(queue=queue, states=frozenset({JobState.ACTIVE})), limit=1):
        hint = "obliterate(force=True) removes active jobs too"
        raise InvalidJobStateError(job.id, JobState.ACTIVE, (), hint)


async def forget(store: Store, queue: str, clock: Clock) -> None:
    """Remove every trace of a queue."""
    released = await store.forget(queue)
    obliterated = QueueObliterated(queue_name=queue, at=clock.now())
    await store.bus.publish([obliterated, *await _released(store, released, clock)])


async def events_of(store: Store, deleted: Deleted, clock: Clock) -> list[Event]:
    """The events of what a step removed, and of the parents that wait for no child now."""
    at = clock.now()
    removed = [JobRemoved(queue_name=key.queue, job_id=key.id, at=at) for key in deleted.removed]
    return [*removed, *await _released(store, deleted.released, clock)]


async def _released(store: Store, parents: Iterable[JobKey], clock: Clock) -> list[Event]:
    events: list[Event] = []
    for queue, ids in by_queue(parents).items():
        # One that has been claimed since needs no event; nor does one that is gone.
        waiting = Where(queue=queue, ids=frozenset(ids), states=frozenset(_EVENTS))
        events += [
            _EVENTS[found.state](queue_name=queue, job_id=found.id, at=clock.now())
            for found in await store.find(waiting, limit=len(ids))
            if found.state in _EVENTS
        ]
    return events
