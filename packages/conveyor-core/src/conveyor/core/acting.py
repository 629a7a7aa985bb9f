"""What can be done to a job by who does not run it: hold it for a moment, cancel it, remove it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core import observing
from conveyor.core.errors import InvalidJobStateError
from conveyor.core.events import CancelRequested, JobCancelled, JobRemoved, JobWaiting
from conveyor.core.ids import new_token
from conveyor.core.jobs import JobState
from conveyor.core.report import Report
from conveyor.core.store import Change, Claim, Outcome, Where

if TYPE_CHECKING:
    from conveyor.core.clock import Clock
    from conveyor.core.jobs import JobKey, JobRecord
    from conveyor.core.store import Store

#: Cancellations under way: the event loop itself keeps no task alive.
_under_way: Final[set[asyncio.Future[bool]]] = set()
#: For how long a job is held by who edits or cancels it; the hold ends by itself if they die.
_MOMENT: Final = timedelta(seconds=30)
#: The states in which a job can be held so.
ASIDE: Final = frozenset({JobState.WAITING, JobState.DELAYED, JobState.WAITING_CHILDREN})


async def take(store: Store, key: JobKey) -> JobRecord | None:
    """Hold a job that is not running, whatever is paused; None if it is running, finished or not there."""
    claimed = await store.claim(
        Claim(
            queue=key.queue,
            count=1,
            token=new_token(),
            lease=_MOMENT,
            worker="",
            ids=frozenset({key.id}),
        )
    )
    return claimed.jobs[0] if claimed.jobs else None


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
            settled = await store.settle([Outcome.cancelled(record, _last_report(record))])
            if record.lease in settled.applied:
                at = clock.now()
                await store.bus.publish(
                    [
                        JobCancelled(queue_name=key.queue, job_id=key.id, at=at),
                        *(JobWaiting(queue_name=p.queue, job_id=p.id, at=at) for p in settled.released),
                    ]
                )
                return True
        elif await store.update(where, Change(cancel=True)):
            await store.bus.publish([CancelRequested(queue_name=key.queue, job_id=key.id, at=clock.now())])
            return True
        else:
            found = await observing.read(store, key)
            if found is None or found.state.terminal:
                return False


def _last_report(record: JobRecord) -> str:
    try:
        return Report.for_run(record).encode(final=True)
    except (ValueError, TypeError, LookupError):
        return record.report  # what cannot be read is kept as it is, and stops nobody


async def remove(store: Store, key: JobKey, clock: Clock) -> bool:
    """Remove a job that is not active, and say whether it was there.

    Raises InvalidJobStateError if it is active.
    """
    ids = frozenset({key.id})
    states = frozenset(JobState) - {JobState.ACTIVE}
    if await store.delete(Where(queue=key.queue, ids=ids, states=states), limit=1):
        await store.bus.publish([JobRemoved(queue_name=key.queue, job_id=key.id, at=clock.now())])
        return True
    if await observing.read(store, key) is None:
        return False
    raise InvalidJobStateError(key.id, JobState.ACTIVE, ("any other state",), "cancel it first")
