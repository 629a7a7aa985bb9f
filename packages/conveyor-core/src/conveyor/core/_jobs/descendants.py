"""Cancelling what is left of a family when its parent has been cancelled."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.dependencies import UNFINISHED, as_cancelled, is_parent
from conveyor.core._jobs.refusals import settle_in_parts
from conveyor.core._jobs.settlements import fail_unreadable
from conveyor.core._jobs.short_leases import hold
from conveyor.core.events import CancelRequested, JobCancelled
from conveyor.core.store import Change, JobKey, JobState, Where

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.store import JobRecord, Store

    Publish = Callable[[list[Event]], Awaitable[None]]

_log: Final = logging.getLogger("conveyor.flow")

#: How many jobs are looked at in one step.
PAGE: Final = 100
#: A job that changes hands between two steps is tried again this often.
_TRIES: Final = 10


def by_queue(keys: Iterable[JobKey]) -> dict[str, list[str]]:
    """The ids, by queue."""
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys(keys):
        found.setdefault(key.queue, []).append(key.id)
    return found


async def cancel_descendants(store: Store, key: JobKey, clock: Clock, publish: Publish) -> None:
    """Cancel the unfinished children of a job that is over, and theirs; ask those that run to stop.

    Calling it again goes on where a call that failed has stopped.
    """
    todo = [key]
    while todo:
        family = Where(parent=todo.pop(), states=UNFINISHED)
        page: Sequence[JobRecord] = ()
        while page := await store.find(family, limit=PAGE, after=page[-1] if page else None):
            todo += [child.key for child in page if is_parent(child)]
            for queue, ids in by_queue(child.key for child in page).items():
                await _cancel(store, queue, frozenset(ids), clock, publish)


async def _cancel(store: Store, queue: str, ids: frozenset[str], clock: Clock, publish: Publish) -> None:
    left = ids
    for _ in range(_TRIES):
        claimed = await hold(store, queue, left)
        settled, refused = await settle_in_parts(
            store,
            [
                *(as_cancelled(held) for held in claimed.jobs),
                *(fail_unreadable(row, clock.now()).outcome for row in claimed.undecodable),
            ],
        )
        cancelled = {lease.key for lease in settled.applied}
        at = clock.now()
        left -= {key.id for key in cancelled} | {lease.id for lease in refused}
        running = Where(queue=queue, ids=left, states=frozenset({JobState.ACTIVE}))
        asked = await store.update(running, Change(cancel=True)) if left else frozenset[JobKey]()
        await publish(
            [
                *(JobCancelled(queue_name=key.queue, job_id=key.id, at=at) for key in sorted(cancelled)),
                *(CancelRequested(queue_name=key.queue, job_id=key.id, at=at) for key in sorted(asked)),
            ]
        )
        left -= {key.id for key in asked}
        if left:
            found = await store.find(Where(queue=queue, ids=left, states=UNFINISHED), limit=len(left))
            left = frozenset(record.id for record in found)
        if not left:
            return
    _log.warning("jobs of queue %r could not be cancelled with their parent: %s", queue, sorted(left))
