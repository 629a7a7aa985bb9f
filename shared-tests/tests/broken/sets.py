"""Bugs about sets: how large they are, and which jobs are in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from broken.store import MANY, Broken, Now, caught_by
from conveyor.core.store import Change, JobKey, JobRecord, JobState, Order, Where

#: What one statement takes.
MOST = 500


def cut(where: Where) -> Where:
    """The set, with as many ids as one statement takes."""
    return where if where.ids is None else replace(where, ids=frozenset(sorted(where.ids)[:MOST]))


@caught_by("sets", "test_a_large_set_is_taken_whole")
class BindsSomeIds(Broken):
    """The ids that one statement cannot take are left out."""

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: Now = None,
    ) -> Sequence[JobRecord]:
        return await super().find(cut(where), limit=limit, after=after, order=order, now=now)


@caught_by("sets", "test_a_large_set_is_taken_whole")
class ChangesSome(Broken):
    """A change reaches as many jobs as one statement takes."""

    async def update(self, where: Where, change: Change, *, now: Now = None) -> frozenset[JobKey]:
        return await super().update(cut(where), change, now=now)


@caught_by("sets", "test_a_large_set_is_taken_whole")
class EstimatesCounts(Broken):
    """Large numbers come from the statistics of a database, and are nearly right."""

    async def count(
        self, where: Where, *, by_group: bool = False, now: Now = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        counts = await super().count(where, by_group=by_group, now=now)
        return {key: n if n < MOST else round(n, -2) for key, n in counts.items()}


@caught_by("sets", "test_a_set_is_counted_changed_and_removed_as_it_is_found")
class ChangesPastHolders(Broken):
    """A change of a key's holder reaches every job that ever had the key."""

    async def update(self, where: Where, change: Change, *, now: Now = None) -> frozenset[JobKey]:
        if where.unique_key is None:
            return await super().update(where, change, now=now)
        changed: frozenset[JobKey] = frozenset()
        for found in await self.find(replace(where, unique_key=None), limit=MANY, now=now):
            if found.unique_key == where.unique_key:
                one = Where(queue=found.queue, ids=frozenset({found.id}))
                changed |= await super().update(one, change, now=now)
        return changed
