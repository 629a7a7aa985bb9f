"""What can be done to a job by who does not run it: edit its report, cancel it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.dependencies import as_cancelled, is_parent, read_report, release
from conveyor.core._jobs.descendants import cancel_descendants
from conveyor.core._jobs.leases import claim_of
from conveyor.core._jobs.lookup import read
from conveyor.core._jobs.outcomes import Settlement, events_of
from conveyor.core._jobs.parents import follow_up
from conveyor.core._jobs.report import Report
from conveyor.core.errors import InvalidJobStateError, JobNotFoundError
from conveyor.core.events import CancelRequested, JobCancelled, JobWaitingChildren
from conveyor.core.store import Change, JobState, Where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.store import JobKey, JobRecord, Store

#: Cancellations under way: the event loop itself keeps no task alive.
_under_way: Final[set[asyncio.Future[bool]]] = set()
#: The states in which a job can be held so, for a moment.
ASIDE: Final = frozenset({JobState.WAITING, JobState.DELAYED, JobState.WAITING_CHILDREN})


async def take(store: Store, key: JobKey) -> JobRecord | None:
    """Hold a job that is not running, whatever is paused; None if it is running, finished or not there."""
    claimed = await store.claim(claim_of(key.queue, [key.id]))
    return claimed.jobs[0] if claimed.jobs else None


async def edit_report(
    store: Store, key: JobKey, edit: Callable[[Report], object], states: frozenset[JobState]
) -> JobRecord:
    """Edit the report of a job in one of these states, none of which is active, and return the job.

    Nobody is kept from the job meanwhile: if another writer was quicker, what that one left is edited.
    Pinned by test_writers_at_once_lose_nothing.

    Raises JobNotFoundError, InvalidJobStateError.
    """
    while True:
        record = await read(store, key)
        if record is None:
            raise JobNotFoundError(key.queue, key.id)
        if record.state not in states:
            hint = "while it runs, only its handler may do this" if record.state is JobState.ACTIVE else ""
            raise InvalidJobStateError(key.id, record.state, tuple(sorted(states)), hint)
        report = Report.of(record)
        edit(report)
        text = report.encode(final=record.state.terminal)
        unchanged = Where(
            queue=key.queue,
            ids=frozenset({key.id}),
            states=frozenset({record.state}),
            report=record.report,
        )
        if await store.update(unchanged, Change(report=text)):
            return replace(record, report=text)


async def cancel(store: Store, key: JobKey, clock: Clock) -> bool:
    """Cancel a job: at once if nobody holds it, else by asking who does.

    A call that is itself cancelled has happened, or goes on to happen: the job is not left held.
    """
    return await asyncio.shield(_kept(asyncio.ensure_future(_cancel(store, key, clock))))


def _kept(task: asyncio.Future[bool]) -> asyncio.Future[bool]:
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    return task


async def _cancel(store: Store, key: JobKey, clock: Clock) -> bool:
    where = Where(queue=key.queue, ids=frozenset({key.id}), states=frozenset({JobState.ACTIVE}))
    while True:
        record = await take(store, key)
        if record is not None:
            outcome = as_cancelled(record, release(record))
            told = JobCancelled(queue_name=key.queue, job_id=key.id, at=clock.now())
            settlement = Settlement(
                outcome=outcome, events=(told,), parent=record.parent, has_children=is_parent(record)
            )
            settled = await store.settle([outcome])
            if record.lease in settled.applied:
                await store.bus.publish(events_of([settlement], settled, clock.now()))
                await follow_up(store, [settlement], settled, clock, store.bus.publish)
                return True
        elif await store.update(where, Change(cancel=True)):
            await store.bus.publish([CancelRequested(queue_name=key.queue, job_id=key.id, at=clock.now())])
            return True
        else:
            found = await read(store, key)
            if found is None or found.state.terminal:
                if found is not None and found.state is JobState.CANCELLED and is_parent(found):
                    # It may have been cancelled by a call that did not get as far as its children.
                    await cancel_descendants(store, key, clock, store.bus.publish)
                return False


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
        if parent is not None and parent.state is JobState.WAITING_CHILDREN and report and report.over:
            events[parent.key] = JobWaitingChildren(queue_name=parent.queue, job_id=parent.id, at=at)
            todo.append(parent)
    return list(events.values())
