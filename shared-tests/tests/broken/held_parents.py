"""Bugs about parents that are claimed by their ids while they wait for children."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from broken.store import MANY, Broken, Now, caught_by
from conveyor.core.store import Change, Claimed, JobKey, JobState, Outcome, Settled, Where


class Settles(Broken):
    """A store that does one more thing to each job that it settles."""

    def more(self, row: Any, before: Any, outcome: Outcome) -> None:
        """What it does."""
        raise NotImplementedError

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        before = {one.lease: await self.look(one.lease.key, now) for one in outcomes}
        settled = await super().settle(outcomes, now=now)
        for one in outcomes:
            row = self.row(one.lease.key)
            if row is not None and before[one.lease] is not None and one.lease in settled.applied:
                self.more(row, before[one.lease], one)
        return settled


@caught_by("flows", "test_a_held_parent_keeps_its_delay")
class DropsTheDelayOfHeldParents(Broken):
    """A claim by id takes the delay away."""

    async def take(self, queue: str, ids: Collection[str], **how: Any) -> Claimed:
        taken = await super().take(queue, ids, **how)
        for one in taken.jobs:
            self.row(one.key).delay = None
        return replace(taken, jobs=[replace(one, delay=None) for one in taken.jobs])


@caught_by("flows", "test_the_last_childs_end_starts_the_delay_of_a_held_parent")
class KeepsTheDelayOfHeldParents(Broken):
    """A parent that is held when its last child ends keeps its delay, and runs at once when given back."""

    async def settle(self, outcomes: Sequence[Outcome], *, now: Now = None) -> Settled:
        rows = [self.row(one.key) for one in await self.find(Where(queue="q"), limit=MANY, now=now)]
        active = JobState.ACTIVE
        delays = {row: row.delay for row in rows if row.state is active and row.delay is not None}
        settled = await super().settle(outcomes, now=now)
        for row, delay in delays.items():
            if row.state is active and row.delay is None:
                row.delay, row.run_at = delay, None
        return settled


@caught_by("flows", "test_a_held_parent_that_ends_waits_for_no_child")
class KeepsThePendingOfTheEnded(Settles):
    """A parent that ends keeps the number of its children that are left."""

    def more(self, row: Any, before: Any, outcome: Outcome) -> None:
        if outcome.state.terminal:
            row.pending = before.pending


@caught_by("flows", "test_a_retry_of_a_held_parent_drops_its_delay_while_children_are_left")
class KeepsTheDelayOfRetries(Settles):
    """The delay of a retry counts from the last child's end."""

    def more(self, row: Any, before: Any, outcome: Outcome) -> None:
        if row.state is JobState.WAITING_CHILDREN and before.pending:
            row.delay = outcome.delay or row.delay


@caught_by("flows", "test_awaiting_replaces_what_a_held_parent_waited_for")
class AddsToWhatIsWaitedFor(Settles):
    """`awaiting` adds to the children that a job waits for."""

    def more(self, row: Any, before: Any, outcome: Outcome) -> None:
        if outcome.state is JobState.WAITING_CHILDREN:
            row.pending += before.pending


@caught_by("flows", "test_awaiting_keeps_the_run_at_of_a_held_parent")
class ClearsTheRunAtOfAwaiting(Settles):
    """`awaiting` forgets until when a job was to wait."""

    def more(self, row: Any, before: Any, outcome: Outcome) -> None:
        if before.run_at and outcome.state is row.state is JobState.WAITING_CHILDREN:
            row.run_at = None


@caught_by("flows", "test_awaiting_nothing_clears_the_delay_of_a_held_parent")
class KeepsTheDelayOfAwaitingNothing(Settles):
    """A job none of whose children was created keeps its delay."""

    def more(self, row: Any, before: Any, outcome: Outcome) -> None:
        if outcome.state is JobState.WAITING_CHILDREN and row.state is JobState.WAITING:
            row.delay = before.delay


@caught_by("flows", "test_a_retried_child_leaves_its_parents_run_at")
class ClearsTheRunAtOfReopened(Broken):
    """A child that is retried takes away until when its parent was to wait."""

    async def update(self, where: Where, change: Change, *, now: Now = None) -> frozenset[JobKey]:
        changed = await super().update(where, change, now=now)
        for key in changed if change.retry else ():
            parent = self.row(key).parent
            if parent is not None and self.row(parent) is not None:
                self.row(parent).run_at = None
        return changed
