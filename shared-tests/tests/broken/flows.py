"""Bugs about parents and their children."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from broken.store import MANY, Broken, Now, caught_by
from conveyor.core.store import (
    Change,
    Deleted,
    JobKey,
    JobState,
    Outcome,
    Settled,
    Where,
)


@caught_by("flows", "test_a_child_that_ends_twice_releases_once")
class ReleasesTwice(Broken):
    """A child that has released its parent does so again when it is removed."""

    async def delete(self, where: Where, *, limit: int, now: Now = None) -> Deleted:
        for found in await self.find(where, limit=limit, now=now):
            self.row(found.key).released = False
        return await super().delete(where, limit=limit, now=now)


@caught_by("flows", "test_a_child_that_is_deleted_releases_its_parent_unless_it_has")
@caught_by("crashes", "test_a_call_cancelled_at_any_await_happened_wholly_or_not_at_all")
class ForgetsTheParentOfADeletedChild(Broken):
    """A parent whose child is deleted waits for ever."""

    async def delete(self, where: Where, *, limit: int, now: Now = None) -> Deleted:
        for found in await self.find(where, limit=limit, now=now):
            self.row(found.key).released = True
            await asyncio.sleep(0)
        return await super().delete(where, limit=limit, now=now)


@caught_by("flows", "test_a_late_child_does_not_resurrect_a_parent_that_has_ended")
class ResurrectsParents(Broken):
    """A child that ends late takes its failed parent back to waiting."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        kids = [await self.look(one.lease.key, now) for one in outcomes if one.state.terminal]
        settled = await super().settle(outcomes, now=now)
        for kid in kids:
            if kid is not None and kid.parent is not None:
                where = Where(queue=kid.parent.queue, ids=frozenset({kid.parent.id}))
                await self.update(where, Change(retry=True), now=now)
        return settled


@caught_by("flows", "test_a_parent_that_failed_is_reopened")
class LeavesFailedParentsClosed(Broken):
    """A retried child does not reopen its failed parent."""

    async def update(self, where: Where, change: Change, *, now: Now = None) -> frozenset[JobKey]:
        kids = await self.find(where, limit=MANY, now=now) if change.retry else []
        parents = [self.row(kid.parent) for kid in kids if kid.parent is not None]
        failed = [row for row in parents if row is not None and row.state is JobState.FAILED]
        for row in failed:
            row.state = JobState.COMPLETED
        changed = await super().update(where, change, now=now)
        for row in failed:
            row.state = JobState.FAILED
        return changed


@caught_by("flows", "test_a_child_that_is_deleted_releases_its_parent_unless_it_has")
class KeepsQuietAboutParents(Broken):
    """A parent that a removal released is told of to nobody."""

    async def delete(self, where: Where, *, limit: int, now: Now = None) -> Deleted:
        return replace(await super().delete(where, limit=limit, now=now), released=())


@caught_by("flows", "test_those_are_reported_as_released_that_wait_for_no_child_and_are_still_there")
class CallsTheRemovedReleased(Broken):
    """A parent that a removal released is told of though the same call removed it."""

    async def delete(self, where: Where, *, limit: int, now: Now = None) -> Deleted:
        parents = [one.parent for one in await self.find(where, limit=limit, now=now)]
        deleted = await super().delete(where, limit=limit, now=now)
        gone = [key for key in deleted.removed if key in parents]
        return replace(deleted, released=[*deleted.released, *gone])


@caught_by("flows", "test_those_are_reported_as_released_that_wait_for_no_child_and_are_still_there")
class CallsEveryParentReleased(Broken):
    """The parents of what was removed are told as released, whatever else they wait for."""

    async def delete(self, where: Where, *, limit: int, now: Now = None) -> Deleted:
        found = await self.find(where, limit=limit, now=now)
        parents = {one.parent for one in found if one.parent is not None and not one.released}
        deleted = await super().delete(where, limit=limit, now=now)
        left = [key for key in sorted(parents) if await self.look(key, now) is not None]
        return replace(deleted, released=left)


@caught_by("flows", "test_children_of_a_forgotten_queue_release_their_parents_elsewhere")
class ForgetsInSilence(Broken):
    """A parent released by the end of another queue is told of to nobody."""

    async def forget(self, queue: str, *, now: Now = None) -> Sequence[JobKey]:
        await super().forget(queue, now=now)
        return ()
