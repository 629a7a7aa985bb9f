"""Running jobs again, or sooner, from outside; and the parents that this reopens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.dependencies import read_report
from conveyor.core._jobs.lookup import read
from conveyor.core.events import JobWaiting, JobWaitingChildren
from conveyor.core.store import Feature, JobState, Where

if TYPE_CHECKING:
    from collections.abc import Iterable

    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.store import Change, JobKey, JobRecord, Store

#: How many retried jobs are read at once, to look for their parents.
_PAGE: Final = 100


async def make_all_wait(store: Store, queue: str, state: JobState, change: Change, clock: Clock) -> int:
    """Apply a change that lets every job of a state run (again), and return how many it applied to."""
    applied = await store.update(Where(queue=queue, states=frozenset({state})), change)
    at = clock.now()
    await store.bus.publish(
        [JobWaiting(queue_name=key.queue, job_id=key.id, at=at) for key in sorted(applied)]
    )
    if change.retry and Feature.FLOWS in store.features:
        ids = sorted(key.id for key in applied)
        for start in range(0, len(ids), _PAGE):
            page = frozenset(ids[start : start + _PAGE])
            retried = await store.find(Where(queue=queue, ids=page), limit=_PAGE)
            await store.bus.publish(await reopened(store, retried, clock))
    return len(applied)


async def reopened(store: Store, retried: Iterable[JobRecord], clock: Clock) -> list[Event]:
    """The events of the parents that failed, and that wait again for these retried children."""
    at = clock.now()
    events: dict[JobKey, Event] = {}
    todo = list(retried)
    while todo:
        child = todo.pop()
        if child.parent is None or child.released or child.parent in events:
            continue
        parent = await read(store, child.parent)
        report = None if parent is None else read_report(parent)
        if parent is not None and parent.state is JobState.WAITING_CHILDREN and report and report.final:
            events[parent.key] = JobWaitingChildren(queue_name=parent.queue, job_id=parent.id, at=at)
            todo.append(parent)
    return list(events.values())
