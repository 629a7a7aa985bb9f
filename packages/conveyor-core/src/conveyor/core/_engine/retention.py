"""Removing finished jobs whose retention is over, save children that their parents still want to read."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from conveyor.core._engine.family import UNFINISHED
from conveyor.core.store import Feature, Where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from conveyor.core.jobs import JobKey, JobRecord
    from conveyor.core.store import Store

#: How many jobs one step removes unseen.
_SWEEP: Final = 500
#: How many are read at once: their data may be large.
_LOOK: Final = 100


async def sweep(store: Store, queue: str, stopped: Callable[[], bool]) -> None:
    """Remove what is over in a queue, in bounded steps, until done or `stopped`."""
    expired = Where(queue=queue, expired=True)
    if Feature.FLOWS not in store.features:
        while not stopped() and await store.delete(expired, limit=_SWEEP) == _SWEEP:
            pass
        return
    page: Sequence[JobRecord] = ()
    while not stopped():
        page = await store.find(expired, limit=_LOOK, after=page[-1] if page else None)
        waited_for = await _unfinished(store, {r.parent for r in page if r.parent is not None})
        # A job is over for good: only a child whose parent is not must be spared, and of the others none can
        # become one. So what was read may be removed by its ids.
        over = frozenset(record.id for record in page if record.parent not in waited_for)
        if over:
            await store.delete(replace(expired, ids=over), limit=len(over))
        if len(page) < _LOOK:
            return


async def _unfinished(store: Store, parents: Iterable[JobKey]) -> set[JobKey | None]:
    """Those of these jobs that are there and have not ended."""
    keys = list(parents)
    counts = await asyncio.gather(
        *(store.count(Where(queue=key.queue, ids=frozenset({key.id}), states=UNFINISHED)) for key in keys)
    )
    return {key for key, count in zip(keys, counts, strict=True) if count}
