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
`open()`/`close()`. A call may be cancelled at any moment; invariant 2 holds all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from conveyor.core.jobs import JobKey, JobRecord, JobState, Lease

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime, timedelta
    from types import TracebackType

    from conveyor.core.events import Bus

__all__ = [
    "Advanced",
    "Beat",
    "Change",
    "Claim",
    "Claimed",
    "Deleted",
    "Feature",
    "Inserted",
    "JobKey",
    "JobRecord",
    "JobState",
    "Lease",
    "Limit",
    "Order",
    "Outcome",
    "Pause",
    "Rate",
    "Release",
    "Renewed",
    "Retention",
    "Settled",
    "Stalled",
    "Store",
    "Undecodable",
    "Where",
]


class Feature(StrEnum):
    """What a store may or may not offer; a store declares the ones it has.

    Using one that is not declared raises UnsupportedFeatureError from the call concerned.
    """

    #: A job that was added survives the end of the process, and a loss of power.
    DURABLE = "durable"
    #: Several processes may use the same data at once, and hear each other's events.
    MULTI_PROCESS = "multi-process"
    #: `unique_key` and `unique_for`.
    UNIQUE_KEYS = "unique-keys"
    #: `parent`: jobs that wait for their children.
    FLOWS = "flows"
    #: `group`: turns among groups, `group_max_size`, and pausing a group.
    GROUPS = "groups"
    #: `Limit.active`.
    ACTIVE_LIMITS = "active-limits"
    #: `Limit.rate`.
    RATE_LIMITS = "rate-limits"


# ------------------------------------------------------------------ inserting


@dataclass(frozen=True, slots=True, kw_only=True)
class Inserted:
    """What became of one record given to `insert`, or spawned by an outcome.

    `key` is the job that stands for it now. With `created` false that is the job that was there
    before: the one with this id, or the holder of the unique key. `state` is that job's state, and
    `created_at` when it was created, by the store's clock.
    """

    key: JobKey
    created: bool
    state: JobState
    created_at: datetime


# ------------------------------------------------------------------- claiming


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most `max` starts in any window of length `per`.

    A start at `t` counts for every moment from `t` up to, and not including, `t + per`.
    """

    max: int
    per: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How many jobs may be active at once, and how often one may start; None: no such limit."""

    active: int | None = None
    rate: Rate | None = None


class Stalled(Enum):
    """How a claim returns jobs that have stalled before."""

    #: As any other.
    ALIKE = "alike"
    #: By themselves: what is returned ends before the first of them, or is that one alone.
    ALONE = "alone"
    #: Not at all: what is returned ends before the first of them.
    LEFT = "left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A request for up to `count` jobs of `queue`.

    `token` is random for each call: a claim is fenced by it, and never by the worker's name.
    `names` and `ids` narrow what may be returned. `limit` binds the queue, `group_limit` each
    group by itself; jobs without a group have no group limit. `started` is what `started` of the leased
    jobs becomes, save of those that have stalled before: theirs is false until a beat says otherwise.
    `stalled` says how jobs are returned that have stalled before.
    """

    queue: str
    count: int
    token: str
    lease: timedelta
    worker: str
    newest_first: bool = False
    names: frozenset[str] | None = None
    ids: frozenset[str] | None = None
    limit: Limit | None = None
    group_limit: Limit | None = None
    started: bool = True
    stalled: Stalled = Stalled.ALIKE


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecodable:
    """A job that was claimed although its row cannot be read; its holder settles it as failed."""

    lease: Lease
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What a claim got.

    `jobs` are the leased records, most urgent first. `now` is the store's time. `wait` is how long
    until there may be more: never longer than it takes until a due time, a rate window or the end
    of a timed pause lets this same claim return another job, and None when none of these will.
    It is a hint, may be shorter, and is not computed (None) when as many jobs as asked were returned, or
    when `cut_short`: because a job has stalled before, it is the only one returned, or the next to be.
    """

    jobs: Sequence[JobRecord]
    now: datetime
    wait: timedelta | None = None
    undecodable: Sequence[Undecodable] = ()
    cut_short: bool = False


# ------------------------------------------------------------------- renewing


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A sign of life from a lease's holder, with what its handler wants written, if anything.

    `started` writes that the job is about to run: from now on the loss of this lease is a stall.
    """

    lease: Lease
    report: str | None = None
    payload: str | None = None
    started: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """Which leases are still held, which are lost, and which of those held should be cancelled."""

    held: frozenset[Lease]
    lost: frozenset[Lease]
    cancelled: frozenset[Lease]


# ------------------------------------------------------------------- settling


class Release(Enum):
    """How the end of a child bears on its parent."""

    #: One child fewer to wait for.
    ONE = "one"
    #: No more children to wait for: the parent's fate is to be decided now.
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long a finished job is kept.

    Never less long than it holds its unique key. `age` counts from its end; zero removes it in the step
    that ends it. `count` keeps it while
    fewer than that many jobs of its queue and state, themselves with a `count`, ended later.
    """

    age: timedelta | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a lease's holder decided about its job. Made by the named constructors only.

    `report` None leaves the job's report as it is. With neither `delay` nor `run_at`, a state that is
    not terminal means: back to where the job was (waiting for children that have not ended, delayed
    until a `run_at` still to come, or waiting). `stalls` are added to the job's `stalled`. `spawn` is
    inserted if, and only if, this applies.
    """

    lease: Lease
    state: JobState
    attempt: int
    report: str | None = None
    delay: timedelta | None = None
    run_at: datetime | None = None
    release: Release = Release.ONE
    retention: Retention | None = None
    stalls: int = 0
    spawn: tuple[JobRecord, ...] = field(default=())

    @classmethod
    def completed(
        cls,
        job: JobRecord,
        report: str,
        *,
        retention: Retention | None = None,
        spawn: tuple[JobRecord, ...] = (),
    ) -> Self:
        """The handler returned."""
        return cls(
            lease=job.lease,
            state=JobState.COMPLETED,
            attempt=job.attempt,
            report=report,
            retention=retention,
            spawn=spawn,
        )

    @classmethod
    def failed(
        cls,
        job: JobRecord,
        report: str,
        *,
        release: Release = Release.ONE,
        retention: Retention | None = None,
        spawn: tuple[JobRecord, ...] = (),
    ) -> Self:
        """The job is given up; `Release.ALL` has its parent look at its children at once."""
        return cls(
            lease=job.lease,
            state=JobState.FAILED,
            attempt=job.attempt,
            report=report,
            release=release,
            retention=retention,
            spawn=spawn,
        )

    @classmethod
    def unreadable(cls, row: Undecodable, report: str) -> Self:
        """The row cannot be decoded: failed, whatever else it says."""
        return cls(
            lease=row.lease, state=JobState.FAILED, attempt=row.attempt, report=report, release=Release.ALL
        )

    @classmethod
    def cancelled(
        cls,
        job: JobRecord,
        report: str,
        *,
        release: Release = Release.ONE,
        retention: Retention | None = None,
    ) -> Self:
        """Somebody asked for the job not to run, or not to go on."""
        return cls(
            lease=job.lease,
            state=JobState.CANCELLED,
            attempt=job.attempt,
            report=report,
            release=release,
            retention=retention,
        )

    @classmethod
    def retry(cls, job: JobRecord, report: str, *, delay: timedelta) -> Self:
        """The run failed, and there will be another one after `delay`; zero is at once."""
        return cls(lease=job.lease, state=JobState.WAITING, attempt=job.attempt, report=report, delay=delay)

    @classmethod
    def snoozed(
        cls,
        job: JobRecord,
        report: str,
        *,
        delay: timedelta | None = None,
        run_at: datetime | None = None,
        spawn: tuple[JobRecord, ...] = (),
    ) -> Self:
        """The job runs later, after `delay` or at `run_at`, as if it had not run this time."""
        return cls(
            lease=job.lease,
            state=JobState.WAITING,
            attempt=job.attempt - 1,
            report=report,
            delay=delay,
            run_at=run_at,
            spawn=spawn,
        )

    @classmethod
    def given_back(cls, job: JobRecord) -> Self:
        """The job was not run (to its end) and goes back to where it was, as if never claimed."""
        return cls(lease=job.lease, state=JobState.WAITING, attempt=job.attempt - 1)

    @classmethod
    def stalled(cls, job: JobRecord, report: str) -> Self:
        """What ran the job died, and its worker lives to say so: back to where it was, one stall more."""
        return cls(lease=job.lease, state=JobState.WAITING, attempt=job.attempt, report=report, stalls=1)

    @classmethod
    def awaiting(cls, job: JobRecord, report: str, *, children: tuple[JobRecord, ...]) -> Self:
        """The job runs again when `children`, whose `parent` it is, have ended."""
        return cls(
            lease=job.lease,
            state=JobState.WAITING_CHILDREN,
            attempt=job.attempt,
            report=report,
            spawn=children,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Which outcomes were applied; those that are not in `applied` were stale.

    `released` are the parents that have no more children to wait for (waiting or delayed now),
    `spawned` what became of the spawned records, in order, and `removed` the jobs that went at once, by a
    retention of age zero. A repeated call reports what it had applied again in `applied`, and nothing in
    the other three.
    """

    applied: frozenset[Lease]
    released: Sequence[JobKey] = ()
    spawned: Sequence[Inserted] = ()
    removed: Sequence[JobKey] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """What the passing of time did.

    `due` became waiting; `stalled` lost their leases when they had `started`, and `unstarted` lost theirs
    before that: these are charged nothing. `wait` is how long until there is more to do for these queues, as
    far as the store knows now; zero when the limit was reached, None for nothing in sight.
    """

    due: Sequence[JobKey]
    stalled: Sequence[JobKey]
    unstarted: Sequence[JobKey] = ()
    wait: timedelta | None = None


# --------------------------------------------------------------- sets of jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A set of jobs: every field that is given must match; an empty set matches nothing.

    `report` is the exact text of that document: with it a change applies to what its caller has read, or not
    at all. `older_than` is the least age, by the store's clock, since the job finished (terminal) or was
    created (otherwise). `expired` is true of terminal jobs whose retention, by age or by count, is over;
    `unretained` of those for which none was given. A page of a queue's `unretained` jobs of some states and
    `older_than`, in `Order.EARLIEST`, costs by the page, however many finished jobs are kept beside it.
    """

    queue: str | None = None
    ids: frozenset[str] | None = None
    states: frozenset[JobState] | None = None
    names: frozenset[str] | None = None
    group: str | None = None
    parent: JobKey | None = None
    #: Only the job that holds this key now.
    unique_key: str | None = None
    report: str | None = None
    older_than: timedelta | None = None
    expired: bool = False
    unretained: bool = False


class Order(StrEnum):
    """The order in which `find` returns jobs; `seq` decides between equals."""

    #: As they were added, oldest first.
    ADDED = "added"
    #: As they were added, newest first.
    NEWEST = "newest"
    #: As they finished, latest first; jobs that have not finished come last, newest first.
    FINISHED = "finished"
    #: As they finished, earliest first; jobs that have not finished come last, oldest first.
    EARLIEST = "earliest"
    #: As an ordinary claim would take them (rank, then `lifo` jobs newest first, then the others
    #: oldest first), without regard to turns among groups, limits and pauses. Of jobs that are not waiting
    #: it may cost by the size of the whole set.
    CLAIM = "claim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What to do to each job of a set. A job to which nothing of it applies is left alone.

    `payload` and `priority` apply to jobs that are not terminal; a changed priority shifts `rank` by
    the difference. `delay` (zero: now) and `run_at` apply to waiting and delayed jobs. `cancel` asks the
    holder of an active job to stop. `retention` applies to terminal jobs, and counts from their end.
    `release_key` gives up the job's unique key. `report` applies to jobs that nobody holds: the report of an
    active one is its holder's.

    `retry` takes a terminal job back to waiting, in its old place: `attempt`, `stalled` and the instants of
    its end and its runs are reset, its three documents are kept. It takes its key again if it had one
    without `unique_for`; if another job holds that now, it is left alone. If it had released its parent,
    and that is waiting, waiting for children or failed, the release is taken back: the parent waits for all
    its children that have not released it. A failed parent is reopened so, and takes back its own release
    likewise.
    """

    payload: str | None = None
    priority: int | None = None
    delay: timedelta | None = None
    run_at: datetime | None = None
    cancel: bool = False
    retry: bool = False
    release_key: bool = False
    retention: Retention | None = None
    report: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """What a `delete` removed, in the order the jobs were added, and the parents that this released.

    `released` have no more children to wait for: they are waiting or delayed now. None of them is among the
    `removed`.
    """

    removed: Sequence[JobKey]
    released: Sequence[JobKey] = ()


# -------------------------------------------------------------------- pausing


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """What is paused: the jobs of one name, or of one group, or (with neither) the whole queue."""

    name: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        """Refuse a pause of a name within a group: there is no such thing."""
        if self.name is not None and self.group is not None:
            msg = "a pause is of a name, of a group, or of the whole queue; not of a name in a group"
            raise ValueError(msg)


# ------------------------------------------------------------------ the store


@runtime_checkable
class Store(Protocol):
    """A place that keeps jobs. Subclassing it is optional, and gives `using` and `async with`.

    A store class also offers `from_url(url, **options)`, which `open_store` calls: it returns a store that
    is not open yet, and raises InvalidOptionError for a URL or an option it cannot use.
    """

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
        its id is looked at first. The same holds between the jobs of one call: the first is created.
        `new_only` refuses the whole call (nothing is created, nothing raised) if any of the ids exists,
        here or in the store: all are reported as not created, those that do not exist with their own key,
        their initial state and the present time.

        A new job is delayed if its `delay` is positive or its `run_at` is to come, else waiting. A job that
        is the parent of a created one in the same call waits for its children; a parent already in the store,
        and waiting for children, waits for this one too; any other parent is not affected, and the child
        counts as having released it. A job whose parent stands in the same call and is not created is not
        created either, nor reported as another: its own key, its initial state, the present time.
        Children come before their parents.

        Raises GroupFullError, having added nothing, when a created job would exceed its `group_max_size`: the
        waiting and delayed jobs of its group, those of this call included.
        """
        ...

    async def claim(self, request: Claim, *, now: datetime | None = None) -> Claimed:
        """Lease up to `request.count` waiting jobs and return them, most urgent first.

        Each has the request's token, `lease_until` one lease from now, `locked_by` the worker, `attempt` one
        higher than before, `processed_at` now, and `started` as the request says. Fewer than asked, or none,
        is not an error.

        Urgency is lowest `rank`; within a rank, turns among groups (below); then `lifo` jobs, newest first,
        and then the others in insertion order; `newest_first` makes that newest first for all. A job keeps
        its place for life. No job is ever returned to two callers whose leases overlap. Jobs whose name or
        group is paused are passed over, all of them while the queue is. Cost does not grow with what is
        passed over, nor with the number of jobs.

        Turns: among the groups that have a job of the lowest rank to give, the one served longest ago goes
        next, one never served before any other, and between those the one with the more urgent such job.
        The jobs without a group take turns as one more group. A queue's turns are remembered from when it
        first has a job with a group until `advance` finds that it knows no group any more. A group is
        forgotten by `advance` when it has no waiting, delayed or active job, and every group that has
        waiting jobs was served after it.

        Limits: never are there more than `limit.active` active jobs in the queue, or `group_limit.active`
        in a group, by this claim's doing, counting every active job however it was claimed. Never are there
        more starts in a window than `rate` says, counting the starts of every claim of that queue (or
        group) that carried a rate for it, whatever its numbers. Every job returned by such a claim is a
        start, a re-claim included. Starts are remembered for the longest window that any claim of the queue
        has carried.

        `request.ids` claims exactly those of these jobs that are waiting, delayed or waiting for children,
        whatever is paused; limits, turns, `names` and `stalled` are not looked at, and nothing counts as a
        start or a turn. Their `run_at` and `pending` stay, so that giving them back undoes the claim.

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
        keeps it; it releases its parent if it has not yet. A parent left with nothing to wait for becomes
        waiting, or delayed by its own `delay` or `run_at`. A parent that somebody holds (by a claim by ids)
        has one child fewer all the same, and goes on as it is; releasing any other parent does nothing. A
        `Retention` of age zero removes the job at once, unless it still holds its key: then it goes when
        that lapses. A job that waits again keeps its place, its `pending` and a `cancel_requested`.

        A lease whose outcome was applied, given again with the same resulting state, is reported as applied
        and changes nothing, the job having been removed since or not; that is promised for at least ten
        minutes. Spawned records follow the rules of `insert`, save that `group_max_size` is not looked at.
        With `Outcome.awaiting`, the job waits for those of its children that were created, and if none was,
        it is waiting at once.
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

        `after` need not exist any more. A row that cannot be decoded is left out, with a line in the log.
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

    def using(self, connection: Any = None) -> AbstractAsyncContextManager[Store]:
        """A block whose jobs exist together or not at all: a store to add to and read from within it.

        They are added in one step when the block ends, and dropped if it raises. Within it they have their
        ids, and are read like stored ones; what is neither adding nor reading is refused. Once it has ended,
        nothing can be added, and all other calls go to the store itself.

        This form takes no part in the `connection`, which is there for a store that can add jobs in a
        transaction of its user's: such a store has a `using` of its own.
        """
        del connection
        from conveyor.core.using import buffered  # noqa: PLC0415 - it imports this module

        return buffered(self)

    async def __aenter__(self) -> Self:
        """Open the store."""
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the store."""
        await self.close()
