"""Removing finished jobs whose retention is over, save children that their parents may still want to read.

A parent that has failed or was cancelled may: it runs when it is retried, or reopened by a child that is. It
may stay for ever, so its children are looked at less and less often.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core import removing
from conveyor.core._engine.family import FAILED
from conveyor.core.jobs import JobState
from conveyor.core.store import Change, Feature, Retention, Where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from conveyor.core.clock import Clock
    from conveyor.core.jobs import JobKey, JobRecord
    from conveyor.core.store import Store

#: How many jobs one step removes unseen.
_SWEEP: Final = 500
#: How many are read at once: their data may be large.
_LOOK: Final = 100
#: The child of a parent that has failed is looked at again after this, and then after twice the time, ….
_LATER: Final = timedelta(minutes=10)
_OVER: Final = frozenset({None, JobState.COMPLETED})


async def sweep(store: Store, queue: str, clock: Clock, stopped: Callable[[], bool]) -> None:
    """Remove what is over in a queue, in bounded steps, until done or `stopped`."""
    expired = Where(queue=queue, expired=True)
    if Feature.FLOWS not in store.features:
        while not stopped() and await removing.remove_all(store, expired, clock, limit=_SWEEP) == _SWEEP:
            pass
        return
    page: Sequence[JobRecord] = ()
    while not stopped():
        page = await store.find(expired, limit=_LOOK, after=page[-1] if page else None)
        parents = await _states(store, {r.parent for r in page if r.parent is not None})
        # A job without a parent gets none any more: so what was read may be removed by its ids.
        over = frozenset(r.id for r in page if r.parent is None or parents[r.parent] in _OVER)
        if over:
            await removing.remove_all(store, replace(expired, ids=over), clock, limit=len(over))
        await _put_off(store, queue, [r for r in page if r.parent and parents[r.parent] in FAILED], clock)
        if len(page) < _LOOK:
            return


async def _states(store: Store, parents: Iterable[JobKey]) -> dict[JobKey, JobState | None]:
    """Where these jobs are; None of those that are gone."""
    keys = list(parents)
    counts = await asyncio.gather(
        *(store.count(Where(queue=key.queue, ids=frozenset({key.id}))) for key in keys)
    )
    return {key: next((state for _, state in count), None) for key, count in zip(keys, counts, strict=True)}


async def _put_off(store: Store, queue: str, children: Sequence[JobRecord], clock: Clock) -> None:
    """Look at these again later: each time after as long as they have been kept."""
    now = clock.now()
    kept = [now - child.finished_at for child in children if child.finished_at is not None]
    if kept:
        ids = frozenset(child.id for child in children)
        age = max(kept) + max(*kept, _LATER)
        await store.update(Where(queue=queue, ids=ids), Change(retention=Retention(age=age)))
