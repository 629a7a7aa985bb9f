"""Cancelling a job from outside of its run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conveyor.core._jobs.dependencies import as_cancelled, is_parent, release
from conveyor.core._jobs.descendants import cancel_descendants
from conveyor.core._jobs.family_follow_up import follow_up
from conveyor.core._jobs.lookup import read
from conveyor.core._jobs.settlements import Settlement, event_of, events_of
from conveyor.core._jobs.shielding import to_the_end
from conveyor.core._jobs.short_leases import hold
from conveyor.core.events import CancelRequested, JobCancelled
from conveyor.core.store import Change, JobState, Where

if TYPE_CHECKING:
    from conveyor.core.clock import Clock
    from conveyor.core.store import JobKey, JobRecord, Store


async def take(store: Store, key: JobKey) -> JobRecord | None:
    """Hold a job that is not running, whatever is paused; None if it is running, finished or not there."""
    claimed = await hold(store, key.queue, [key.id])
    return claimed.jobs[0] if claimed.jobs else None


async def cancel(store: Store, key: JobKey, clock: Clock) -> bool:
    """Cancel a job: at once if it is not leased, else by asking the run that has the lease.

    A call that is itself cancelled has happened, or goes on to happen: the job is not left held.
    """
    return await to_the_end(_cancel(store, key, clock))


async def _cancel(store: Store, key: JobKey, clock: Clock) -> bool:
    where = Where(queue=key.queue, ids=frozenset({key.id}), states=frozenset({JobState.ACTIVE}))
    while True:
        record = await take(store, key)
        if record is not None:
            outcome = as_cancelled(record, release(record))
            settlement = Settlement(
                outcome=outcome,
                events=(event_of(JobCancelled, record, clock.now()),),
                parent=record.parent,
                has_children=is_parent(record),
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
