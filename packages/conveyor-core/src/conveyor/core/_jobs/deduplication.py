"""Deduplication keys: what a job's key is, and what becomes of its holder when another one is added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.payload import canonical, fingerprint
from conveyor.core.events import JobDelayed, JobWaiting
from conveyor.core.job_options import LONGEST_NAME, checked_key
from conveyor.core.store import Change, JobState, Where

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.job_options import Deduplication, Parsed
    from conveyor.core.store import JobKey, JobRecord, Store

#: What has not started takes other data; what runs or has run is a plain duplicate.
_REPLACEABLE: Final = frozenset({JobState.WAITING, JobState.DELAYED})


def key_of(deduplication: Deduplication | None, name: str, payload: str) -> str | None:
    """The key that a job holds, as stores keep it; None for a job without one."""
    if deduplication is None:
        return None
    if deduplication.key is None:
        return fingerprint(name, canonical(payload))
    return stored_key(deduplication.key)


def stored_key(key: str) -> str:
    """A key that every store can index: a long one is replaced by its fingerprint.

    Raises InvalidOptionError for what cannot be a key.
    """
    checked_key(key, "key")
    return key if len(key.encode()) <= LONGEST_NAME else fingerprint(key)


async def replace_holders(
    store: Store, queue: str, given: Iterable[tuple[JobRecord, Parsed, JobKey]], clock: Clock
) -> Sequence[JobRecord]:
    """Give holders that have not started what was to be added instead, and return them as they are then.

    `given` are the records that were not created, in order, with the existing jobs. A holder that
    has started meanwhile keeps what it has: the add was a plain duplicate then.
    """
    replaced: set[str] = set()
    ids: set[str] = set()
    for record, options, holder in given:
        ids.add(holder.id)
        dedup = options.deduplication
        # One that is known by its id is not the holder of a key, or is so by chance.
        if dedup is None or dedup.mode != "replace" or holder.id == record.id:
            continue
        change = Change(payload=record.payload, delay=options.delay, run_at=options.run_at)
        where = Where(queue=queue, ids=frozenset({holder.id}), states=_REPLACEABLE)
        if await store.update(where, change):
            replaced.add(holder.id)
    found = await store.find(Where(queue=queue, ids=frozenset(ids)), limit=len(ids))
    kinds = {JobState.DELAYED: JobDelayed, JobState.WAITING: JobWaiting}
    events: list[Event] = [
        kinds[record.state](queue_name=queue, job_id=record.id, at=clock.now())
        for record in found
        if record.id in replaced and record.state in kinds
    ]
    if events:
        await store.bus.publish(events)
    return found


async def release(store: Store, queue: str, key: str) -> bool:
    """Let the next add with this key add a job, and say whether a job held it.

    Raises InvalidOptionError for what cannot be a key.
    """
    where = Where(queue=queue, unique_key=stored_key(key))
    return bool(await store.update(where, Change(release_key=True)))
