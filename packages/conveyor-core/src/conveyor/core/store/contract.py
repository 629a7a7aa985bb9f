"""The store contract: what a place that keeps jobs must do, and nothing else.

A store is a set of job rows that can be leased. It never retries, backs off, reads a cron
expression or knows what a worker is: core takes every decision, and a decision arrives here as a
value that is applied in one atomic step. Everything is a batch; one is a batch of one.

What every store owes, and the conformance suite checks:

1. *Fencing.* `renew` and `settle` touch a job only while it is active under the caller's token. A
   stale entry changes nothing, is told by its absence from the answer, and fails no other entry.
2. *One step.* Each call happens wholly or not at all, a cancelled or cut-off one included, and
   can be repeated: `insert` finds its jobs there, `settle` knows the tokens it has applied.
3. *Terminal only through `settle`* (or `delete`), and out of it only by `Change(retry=True)`.
4. *A child that ends releases its parent in the same step, exactly once*, however it ends.
5. *A unique key is held by at most one job of a queue*, under any concurrency.
6. *Limits are exact* under any concurrency.
7. *The store's clock decides.* Callers pass durations, or instants that a user gave. `now=` is for
   tests; None, as always in production, is the store's own clock.
8. *A row that cannot be decoded never stops the others.*

Every call raises StoreError when the store cannot do its work, and StoreClosedError outside
`open()`/`close()`. A call may be cancelled at any moment; invariant 2 holds all the same, and a cancelled
call is over, one way or the other, before its caller's next call can see what it did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from conveyor.core.store.outcomes import Outcome
from conveyor.core.store.records import JobKey, JobRecord, JobState
from conveyor.core.store.values import (
    Advanced,
    Beat,
    Change,
    Claim,
    Claimed,
    Deleted,
    Feature,
    Inserted,
    Order,
    Pause,
    Renewed,
    Settled,
    Where,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    from conveyor.core.events import Bus


class StoreCalls(Protocol):
    """What a store is asked for. `Store` has `using` and `async with` beside it."""

    @property
    def features(self) -> frozenset[Feature]:
        """What this store offers. Facts, the same for the life of the store."""
        ...

    @property
    def bus(self) -> Bus:
        """How this store's events travel."""
        ...

    async def open(self) -> None:
        """Make the store ready; any number of processes may do so at once. Opening twice does nothing.

        Raises SchemaTooNewError, before any write, when the data was written by a newer release.
        """
        ...

    async def close(self) -> None:
        """Finish the calls under way and let everything go. Closing twice does nothing.

        Leases are left as they are. Subscriptions of the bus end.
        """
        ...

    async def insert(
        self, jobs: Sequence[JobRecord], *, new_only: bool = False, now: datetime | None = None
    ) -> Sequence[Inserted]:
        """Add jobs in one step, and say for each, in order, which job stands for it now.

        A job whose id exists in its queue, or whose unique key is held, is not created and changes nothing;
        its id is looked at first. The same holds between the jobs of one call: the first is created. A key
        with `unique_for` is held for exactly that long: from `unique_until` on a new job may take it, and no
        record of the old one that any call returns says that it holds it.
        `new_only` refuses the whole call (nothing is created, nothing raised) if any of the ids exists,
        here or in the store: all are reported as not created, those that do not exist with their own key,
        their initial state and the present time.

        A new job is delayed if its `delay` is positive or its `run_at` is to come, else waiting. A job that
        is the parent of a created one in the same call waits for its children; a parent already in the store,
        and waiting for children, waits for this one too; any other parent, one that is held included, is not
        affected, and the child counts as having released it. A job whose parent stands in the same call and
        is not created is not created either, nor reported as another: its own key, its initial state, the
        present time. Children come before their parents.

        Raises GroupFullError, having added nothing, when a created job would exceed its `group_max_size`: the
        waiting and delayed jobs of its group, those of this call included.
        """
        ...

    async def claim(self, request: Claim, *, now: datetime | None = None) -> Claimed:
        """Lease up to `request.count` waiting jobs and return them, most urgent first.

        Each has the request's token, `lease_until` one lease from now, `locked_by` the worker, `attempt` one
        higher than before, `processed_at` now, and `started` as the request says. Fewer than asked, or none,
        is not an error.

        Urgency is lowest `sort_key`; within that, turns among groups (below); then `lifo` jobs, newest first,
        and then the others in insertion order; `newest_first` makes that newest first for all. A job keeps
        its place for life. No job is ever returned to two callers whose leases overlap. Jobs whose name or
        group is paused are passed over, all of them while the queue is. Cost does not grow with what is
        passed over, nor with the number of jobs.

        Turns: among the groups that have a job of the lowest sort key to give, the one served longest ago
        goes next, one never served before any other, and between those the one with the more urgent such job.
        The jobs without a group take turns as one more group. A queue's turns are remembered from when it
        first has a job with a group until `advance` finds that it knows no group any more. A group is
        forgotten by `advance`, the next one exactly, when it has no waiting, delayed or active job, and every
        group that has waiting jobs was served after it.

        Limits: never are there more than `limit.active` active jobs in the queue, or `group_limit.active`
        in a group, by this claim's doing, counting every active job however it was claimed. Never are there
        more starts in a window than `rate` says, counting the starts of every claim of that queue (or
        group) that carried a rate for it, whatever its numbers. Every job returned by such a claim is a
        start, a re-claim included. Starts are remembered for the longest window that any claim of the queue
        has carried.

        Raises StoreError if the outcome is unknown; the leases then expire by themselves.
        """
        ...

    async def take(
        self,
        queue: str,
        ids: Collection[str],
        *,
        token: str,
        lease: timedelta,
        worker: str | None = None,
        started: bool = True,
        now: datetime | None = None,
    ) -> Claimed:
        """Lease those of these jobs that are waiting, delayed or waiting for children, whatever is paused.

        Limits, turns among groups and earlier stalls are not looked at, and nothing counts as a start or a
        turn; as active jobs they count for the limits of others. Each becomes what a claim makes of it, and
        keeps its `run_at`, `delay` and `pending`, so that giving it back undoes this. They are returned most
        urgent first, and `wait` is None.

        A parent that is held so still loses a child with each that ends: see `settle`. Any outcome may end
        such a hold, as after a claim: a batch takes jobs by their ids and runs them.

        Raises StoreError if the outcome is unknown; the leases then expire by themselves.
        """
        ...

    async def renew(self, beats: Sequence[Beat], lease: timedelta, *, now: datetime | None = None) -> Renewed:
        """Let each lease last until `lease` from now, and write what the beats carry.

        A lease that ran out, but that nobody has taken back, is still held. A lost one writes nothing.
        """
        ...

    async def settle(self, outcomes: Sequence[Outcome], *, now: datetime | None = None) -> Settled:
        """Apply each outcome whose lease is still held, in order, in one step, and say which.

        A terminal job has `finished_at` now, no lease, and gives up its unique key unless `unique_for`
        keeps it; its `pending` is zero; it releases its parent if it has not yet. A parent left with nothing
        to wait for becomes waiting, or delayed by its own `delay`, counted from now, or by its `run_at`.
        Releasing a parent that waits for no children does nothing. A `Retention` of age zero removes the job
        at once, unless it still holds its key: then it goes when that lapses. A job that waits again keeps
        its place, its `pending` and a `cancel_requested`.

        A parent that is held (by `take`) while it waits for children has one child fewer all the same, and
        goes on as it is; the last child's end turns its `delay` into a `run_at`. An outcome that sends it
        back while `pending` is not zero has it wait for its children, and the outcome's `delay` and `run_at`
        are left out of account.

        With `Outcome.awaiting`, the job waits for those of its children that were created, whatever its
        `pending` was, and keeps its `run_at`; if none was created, it is waiting at once, with neither a
        `run_at` nor a `delay`. Spawned records follow the rules of `insert`, save that `group_max_size` is
        not looked at.

        The latest outcome that was applied to a job, given again with the same lease and resulting state, is
        reported as applied and changes nothing. That is promised while the job exists, and for ten minutes
        after it was removed, except by `forget`. An earlier outcome of the job is stale by then.
        """
        ...

    async def advance(
        self, queues: Collection[str], *, limit: int = 1000, now: datetime | None = None
    ) -> Advanced:
        """Let time pass: jobs that are due become waiting, leases that ran out are taken back.

        Due is a delayed job whose `run_at` is not after now. A lease has run out when `lease_until` is not
        after now; its job counts one more `stalled` if it had `started`, loses its token, and goes back to
        where it was, in its old place: waiting for children that have not ended, delayed until a `run_at`
        still to come, or waiting. At most `limit` of each in a call, most overdue first. This is also when a
        store forgets what it need not remember: ended pauses, old starts, idle groups.

        Without queues nothing is done, and `now` says what time it is by the store's clock.
        """
        ...

    async def find(
        self,
        where: Where,
        *,
        limit: int,
        after: JobRecord | None = None,
        order: Order = Order.ADDED,
        now: datetime | None = None,
    ) -> Sequence[JobRecord]:
        """Return up to `limit` jobs of the set, in order, starting behind `after`, a record found before.

        Fewer than `limit` are the last: there are no more behind them. `after` need not exist any more. A row
        that cannot be decoded is left out, with a line in the log, and does not count for `limit`.
        """
        ...

    async def count(
        self, where: Where, *, by_group: bool = False, most: int | None = None, now: datetime | None = None
    ) -> Mapping[tuple[str | None, JobState], int]:
        """How many jobs the set has, by queue and state; combinations without jobs are left out.

        With `by_group` the first part of the key is the group instead, None for jobs without one. Exact, save
        that with `most` no number is greater than that.

        Cost grows with the number of jobs of the set; with `most`, and a `where` of nothing but a queue and
        states, no further than to `most` jobs for each state.
        """
        ...

    async def update(self, where: Where, change: Change, *, now: datetime | None = None) -> frozenset[JobKey]:
        """Apply a change to every job of the set, in one step, and return those that it applied to.

        Jobs become what the change makes of them in the order they were added.
        """
        ...

    async def delete(self, where: Where, *, limit: int, now: datetime | None = None) -> Deleted:
        """Remove up to `limit` jobs of the set, the longest there first, and say which.

        Whatever state they are in: a caller that means to spare active jobs says so in `where`. One that
        has not released its parent does so now (`Release.ONE`).
        """
        ...

    async def pause(
        self, queue: str, what: Pause, for_: timedelta | None = None, *, now: datetime | None = None
    ) -> None:
        """Let no claim of the queue return what is paused, from the next claim on.

        `for_` ends it by itself after that time. The later of two ends holds; None, no end, is the latest.
        """
        ...

    async def resume(self, queue: str, what: Pause, *, now: datetime | None = None) -> None:
        """Undo exactly this pause: others that cover the same jobs stay."""
        ...

    async def paused(self, queue: str, *, now: datetime | None = None) -> Mapping[Pause, datetime | None]:
        """What is paused now, and until when; None is until resumed."""
        ...

    async def forget(self, queue: str, *, now: datetime | None = None) -> Sequence[JobKey]:
        """Remove every trace of a queue, active jobs included; children release parents elsewhere.

        Returns the parents that have no more children to wait for now (waiting or delayed).
        """
        ...
