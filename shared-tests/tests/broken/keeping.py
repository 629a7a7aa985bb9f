"""Stores with one bug each about which finished jobs go by default, and in what order they are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from broken.store import Broken, Now, caught_by
from conveyor.core.store import Deleted, JobRecord, Order, Where


@caught_by("queue behaviour", "test_by_default_finished_jobs_are_kept_a_day_and_failed_ones_a_fortnight")
@caught_by("sets", "test_unretained_are_the_finished_jobs_for_which_no_retention_was_given")
class TakesAllForUnretained(Broken):
    """Whatever is old enough goes, though it has a retention of its own."""

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: Now = None,
    ) -> Sequence[JobRecord]:
        where = replace(where, unretained=False)
        return await super().find(where, limit=limit, after=after, order=order, now=now)

    async def delete(self, where: Where, *, limit: int, now: Now = None) -> Deleted:
        return await super().delete(replace(where, unretained=False), limit=limit, now=now)


@caught_by("queue behaviour", "test_by_default_finished_jobs_are_kept_a_day_and_failed_ones_a_fortnight")
class KeepsForEver(Broken):
    """No job is ever without a retention."""

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: Now = None,
    ) -> Sequence[JobRecord]:
        if where.unretained:
            return []
        return await super().find(where, limit=limit, after=after, order=order, now=now)


@caught_by("sets", "test_the_order_of_finishing_is_latest_first_and_then_the_unfinished_newest_first")
@caught_by("sets", "test_unretained_are_the_finished_jobs_for_which_no_retention_was_given")
class FindsTheEarliestAsTheyWereAdded(Broken):
    """The earliest are taken to be those that were added first."""

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: Now = None,
    ) -> Sequence[JobRecord]:
        if order is Order.EARLIEST:
            order = Order.ADDED
        return await super().find(where, limit=limit, after=after, order=order, now=now)
