"""Sending dead letters back to where they came from.

A dead letter is held while it is looked at, so that two callers do not send the same one back. What is left
of the job decides how it goes back:

- It is still there, and failed: it is retried where it is, and only then the dead letter is removed. A caller
  that dies in between leaves a dead letter of a job that has gone on, which the next call removes.
- It has been removed: the step that ends the dead letter adds it again, under its old id. The dead letter is
  removed once the job is known to have been created; if its id or its key was taken in that very moment, the
  dead letter waits again. A caller that dies in between leaves a completed one, which is not sent again.
- Another job has its id or its key: the dead letter stays.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.dead_letters import original
from conveyor.core._jobs.refusals import settle_in_parts
from conveyor.core._jobs.retry_by_hand import reopened
from conveyor.core._jobs.shielding import to_the_end
from conveyor.core._jobs.short_leases import hold
from conveyor.core.events import JobRemoved, JobWaiting
from conveyor.core.job_options import FOREVER
from conveyor.core.store import Change, JobKey, JobRecord, JobState, Order, Outcome, Retention, Where

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from conveyor.core.clock import Clock
    from conveyor.core.store import Store

#: How many dead letters are held at once; their histories may be long.
_PAGE: Final = 50
_ASIDE: Final = frozenset({JobState.WAITING, JobState.DELAYED})
_REMOVED: Final = Retention(age=timedelta(0))


async def redrive(
    store: Store, queue: str, clock: Clock, *, ids: frozenset[str] | None = None, limit: int | None = None
) -> int:
    """Send back the dead letters that wait in `queue` now (these, so many of them), and return how many."""
    # What an earlier call held when it died comes back; a dead-letter queue need not have a worker to do so.
    await store.advance({queue})
    waiting = Where(queue=queue, ids=ids, states=_ASIDE)
    newest = await store.find(waiting, limit=1, order=Order.NEWEST)
    sent, last = 0, None
    while newest and (limit is None or sent < limit):
        most = _PAGE if limit is None else min(_PAGE, limit - sent)
        page = await store.find(waiting, limit=most, after=last)
        # What failed again meanwhile is behind the newest of the beginning: it is left.
        dead_letters = [dead for dead in page if dead.seq <= newest[0].seq]
        if not dead_letters:
            break
        last = dead_letters[-1]
        sent += await to_the_end(_send_page(store, dead_letters, clock))
    return sent


async def _send_page(store: Store, dead_letters: Sequence[JobRecord], clock: Clock) -> int:
    sent = 0
    rest = [(dead, found) for dead in dead_letters if (found := original(dead)) is not None]
    while rest:
        # Of several dead letters of one job each is looked at after the one before has gone.
        first = {found[0].key: (dead, found) for dead, found in reversed(rest)}
        chosen = {dead.key for dead, _ in first.values()}
        rest = [(dead, found) for dead, found in rest if dead.key not in chosen]
        sent += await _send(store, [*first.values()], clock)
    return sent


async def _send(
    store: Store, given: Sequence[tuple[JobRecord, tuple[JobRecord, datetime | None]]], clock: Clock
) -> int:
    queue = given[0][0].queue
    ids = frozenset(dead.id for dead, _ in given)
    claimed = await hold(store, queue, ids)
    held = {dead.id: dead for dead in claimed.jobs}
    jobs = {dead.id: found for dead, found in given if dead.id in held}
    there = await _there(store, [job.key for job, _ in jobs.values()])
    again = await _retried(store, jobs, there)
    outcomes: list[Outcome] = []
    added: dict[str, JobKey] = {}
    missing = [job for job, _ in jobs.values() if job.key not in there]
    # Together: the dead letters are held for a moment only.
    looked_up = await asyncio.gather(*(_key_is_taken(store, job) for job in missing))
    taken = {job.key for job, is_taken in zip(missing, looked_up, strict=True) if is_taken}
    for dead in held.values():
        job, created_at = jobs[dead.id]
        found = there.get(job.key)
        if found is None and job.key not in taken:
            added[dead.id] = job.key
            # If this call dies before it looks what became of the job, this is all that is left of it.
            outcomes.append(Outcome.completed(dead, dead.report, retention=FOREVER, spawn=(job,)))
        elif job.key in again or (
            found is not None and found.state is not JobState.FAILED and found.created_at == created_at
        ):
            # Sent, now or before: by a call that died, or by a retry by hand.
            outcomes.append(Outcome.completed(dead, dead.report, retention=_REMOVED))
        else:
            outcomes.append(Outcome.given_back(dead))
    settled, _ = await settle_in_parts(store, outcomes)
    created = {found.key for found in settled.spawned if found.created}
    finished = await _finish(store, queue, added, created)
    at = clock.now()
    children = [job.key for job, _ in jobs.values() if job.key in again and job.parent is not None]
    await store.bus.publish(
        [
            *(JobWaiting(queue_name=key.queue, job_id=key.id, at=at) for key in sorted(again | created)),
            *(
                JobRemoved(queue_name=key.queue, job_id=key.id, at=at)
                for key in (*finished, *settled.removed)
            ),
            *await reopened(store, (await _there(store, children)).values(), clock),
        ]
    )
    return len(again) + len(created)


async def _there(store: Store, keys: Sequence[JobKey]) -> dict[JobKey, JobRecord]:
    """The jobs of these keys that exist."""
    found: dict[JobKey, JobRecord] = {}
    for queue in {key.queue for key in keys}:
        ids = frozenset(key.id for key in keys if key.queue == queue)
        records = await store.find(Where(queue=queue, ids=ids), limit=len(ids))
        found |= {record.key: record for record in records}
    return found


async def _retried(
    store: Store,
    jobs: dict[str, tuple[JobRecord, datetime | None]],
    there: dict[JobKey, JobRecord],
) -> frozenset[JobKey]:
    """Retry the jobs that are still there, failed, and return those that this applied to."""
    failed: dict[str, set[str]] = {}
    for job, created_at in jobs.values():
        found = there.get(job.key)
        if found is not None and found.state is JobState.FAILED and found.created_at == created_at:
            failed.setdefault(job.queue, set()).add(job.id)
    again: frozenset[JobKey] = frozenset()
    for queue, ids in failed.items():
        where = Where(queue=queue, ids=frozenset(ids), states=frozenset({JobState.FAILED}))
        again |= await store.update(where, Change(retry=True))
    return again


async def _key_is_taken(store: Store, job: JobRecord) -> bool:
    if job.unique_key is None:
        return False
    return bool(await store.find(Where(queue=job.queue, unique_key=job.unique_key), limit=1))


async def _finish(
    store: Store, queue: str, added: dict[str, JobKey], created: set[JobKey]
) -> Sequence[JobKey]:
    """Remove the dead letters of the jobs that were created, and return them; let the others wait again."""
    done = frozenset({JobState.COMPLETED})
    gone = frozenset(id for id, key in added.items() if key in created)
    removed: Sequence[JobKey] = ()
    if gone:
        removed = (await store.delete(Where(queue=queue, ids=gone, states=done), limit=len(gone))).removed
    if back := frozenset(added) - gone:
        await store.update(Where(queue=queue, ids=back, states=done), Change(retry=True))
    return removed
