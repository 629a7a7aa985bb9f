"""Bugs about sets: how large they are, and which jobs are in them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from broken.store import MANY, Broken, Now, caught_by
from conveyor.core.store import Change, Deleted, JobKey, JobRecord, JobState, Order, Where

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
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: Now = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        counts = await super().count(where, by_group=by_group, most=most, now=now)
        return {key: n if n < MOST else round(n, -2) for key, n in counts.items()}


@caught_by("sets", "test_no_number_is_greater_than_most_and_none_smaller_than_it_need_be")
class CountsAll(Broken):
    """Counts are not bounded, whatever is asked for."""

    async def count(
        self,
        where: Where,
        *,
        by_group: bool = False,
        most: int | None = None,  # noqa: ARG002 - the bug
        now: Now = None,
    ) -> Mapping[tuple[str | None, JobState], int]:
        return await super().count(where, by_group=by_group, now=now)


@caught_by("sets", "test_no_number_is_greater_than_most_and_none_smaller_than_it_need_be")
class CountsFirst(Broken):
    """A count stops after so many jobs of the whole set, and not of each queue and state."""

    async def count(
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: Now = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        if most is None or by_group:
            return await super().count(where, by_group=by_group, most=most, now=now)
        seen = await self.find(where, limit=most, now=now)
        return Counter((one.queue, one.state) for one in seen)


@caught_by("sets", "test_no_group_has_more_than_most")
class CountsEachIndex(Broken):
    """The jobs with a group and those without are counted up to `most` each, and then added."""

    async def count(
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: Now = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        if most is None or by_group:
            return await super().count(where, by_group=by_group, most=most, now=now)
        counts = Counter(
            (one.queue, one.state, one.group is None) for one in await self.find(where, limit=MANY, now=now)
        )
        found = Counter[tuple[str | None, JobState]]()
        for (queue, state, _), number in counts.items():
            found[queue, state] += min(number, most)
        return found


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


@caught_by("sets", "test_no_more_than_limit_are_removed_the_longest_there_first")
class TellsTheSetAsRemoved(Broken):
    """What was looked at is told as removed, though the limit spared some of it."""

    async def delete(self, where: Where, *, limit: int, now: Now = None) -> Deleted:
        found = await self.find(where, limit=MANY, now=now)
        deleted = await super().delete(where, limit=limit, now=now)
        return replace(deleted, removed=[one.key for one in found])


@caught_by("sets", "test_a_large_set_is_taken_whole")
class TellsSomeAsRemoved(Broken):
    """Of what was removed as much is told as one statement returns."""

    async def delete(self, where: Where, *, limit: int, now: Now = None) -> Deleted:
        deleted = await super().delete(where, limit=limit, now=now)
        return replace(deleted, removed=deleted.removed[:MOST])


@caught_by("sets", "test_what_was_removed_is_reported_in_the_order_in_which_it_was_added")
class TellsRemovedByName(Broken):
    """What was removed is told in the order of a table's key."""

    async def delete(self, where: Where, *, limit: int, now: Now = None) -> Deleted:
        deleted = await super().delete(where, limit=limit, now=now)
        return replace(deleted, removed=sorted(deleted.removed))


@caught_by("sets", "test_the_report_of_a_job_that_nobody_holds_can_be_replaced")
class WritesReportsOfOthers(Broken):
    """A report is written from outside beneath the holder of the job."""

    async def update(self, where: Where, change: Change, *, now: Now = None) -> frozenset[JobKey]:
        changed = await super().update(where, change, now=now)
        if change.report is not None:
            for found in await self.find(where, limit=MANY, now=now):
                self.row(found.key).report = change.report
                changed |= {found.key}
        return changed


@caught_by("sets", "test_find_by_the_exact_text_of_the_report")
class ComparesWhatReportsSay(Broken):
    """Reports are compared by what they say, as `jsonb` has it."""

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: Now = None,
    ) -> Sequence[JobRecord]:
        if not where.report:
            return await super().find(where, limit=limit, after=after, order=order, now=now)
        rest = replace(where, report=None)
        found = await super().find(rest, limit=limit, after=after, order=order, now=now)
        return [one for one in found if json.loads(one.report) == json.loads(where.report)]


@caught_by("sets", "test_a_report_is_replaced_by_one_of_those_who_have_read_it")
class WritesWhateverWasRead(Broken):
    """What the writer has read is not looked at: the last one wins."""

    async def update(self, where: Where, change: Change, *, now: Now = None) -> frozenset[JobKey]:
        return await super().update(replace(where, report=None), change, now=now)
