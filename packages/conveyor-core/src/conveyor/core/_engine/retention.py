"""Removing finished jobs whose time is over, save children that their parents may still want to read.

Some have a retention of their own, and the others go by default: these are found as they finished, earliest
first, and each is looked at once: it is removed, or gets a retention of its own then.

A parent that has failed or was cancelled may want its children: it runs when it is retried, or reopened by a
child that is. It may stay for ever, so its children are looked at less and less often.

Several workers sweep one queue. One that finds a page gone when it comes to remove it has met another that is
at it, and leaves it the rest.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core._jobs import remove_and_release
from conveyor.core._jobs.dependencies import FAILED
from conveyor.core._jobs.keep import BY_DEFAULT
from conveyor.core.store import Change, Feature, JobState, Order, Retention, Where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from conveyor.core.clock import Clock
    from conveyor.core.store import JobKey, JobRecord, Store

#: How many are read at once: their data may be large.
_LOOK: Final = 100
#: The child of a parent that has failed is looked at again after this, and then after twice the time, ….
_LATER: Final = timedelta(minutes=10)


async def sweep(store: Store, queue: str, clock: Clock, stopped: Callable[[], bool]) -> None:
    """Remove what is over in a queue, in bounded steps, until done or `stopped`."""
    await _sweep(store, Where(queue=queue, expired=True), clock, stopped)
    for age in sorted(set(BY_DEFAULT.values())):
        states = frozenset(state for state, kept in BY_DEFAULT.items() if kept == age)
        old = Where(queue=queue, states=states, older_than=age, unretained=True)
        await _sweep(store, old, clock, stopped, order=Order.EARLIEST)


async def _sweep(
    store: Store,
    where: Where,
    clock: Clock,
    stopped: Callable[[], bool],
    *,
    order: Order = Order.ADDED,
) -> None:
    page: Sequence[JobRecord] = ()
    while not stopped():
        page = await store.find(where, limit=_LOOK, after=page[-1] if page else None, order=order)
        over, unread = await _apart(store, page)
        removed = await _remove(store, where, over, clock)
        # Those that go by default are looked at once. The others have their time: a parent that is under way
        # removes them when it completes.
        later = [child for child, parent in unread if where.unretained or parent in FAILED]
        await _put_off(store, later, clock)
        if len(page) < _LOOK or (over and not removed):
            return


async def _apart(
    store: Store, page: Sequence[JobRecord]
) -> tuple[Sequence[JobRecord], Sequence[tuple[JobRecord, JobState]]]:
    """Those that may be removed, and the children that may still be read, with their parents' states."""
    if Feature.FLOWS not in store.features:
        return page, ()
    parents = await _states(store, {child.parent for child in page if child.parent is not None})
    over, unread = [], []
    for record in page:
        # A job without a parent gets none any more: so what was read may be removed by its ids.
        state = None if record.parent is None else parents[record.parent]
        if state is None or state is JobState.COMPLETED:
            over.append(record)
        else:
            unread.append((record, state))
    return over, unread


async def _remove(store: Store, where: Where, over: Sequence[JobRecord], clock: Clock) -> int:
    if not over:
        return 0
    ids = frozenset(record.id for record in over)
    return await remove_and_release.remove_all(store, replace(where, ids=ids), clock, limit=len(ids))


async def _states(store: Store, parents: Iterable[JobKey]) -> dict[JobKey, JobState | None]:
    """Where these jobs are; None of those that are gone."""
    keys = list(parents)
    counts = await asyncio.gather(
        *(store.count(Where(queue=key.queue, ids=frozenset({key.id}))) for key in keys)
    )
    return {key: next((state for _, state in count), None) for key, count in zip(keys, counts, strict=True)}


async def _put_off(store: Store, children: Sequence[JobRecord], clock: Clock) -> None:
    """Look at these of one queue again later: each time after as long as they have been kept."""
    now = clock.now()
    kept = [now - child.finished_at for child in children if child.finished_at is not None]
    if kept:
        where = Where(queue=children[0].queue, ids=frozenset(child.id for child in children))
        age = max(kept) + max(*kept, _LATER)
        await store.update(where, Change(retention=Retention(age=age)))
