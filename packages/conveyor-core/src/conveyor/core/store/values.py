"""What the calls of a store take and return: values, frozen, checked where they are made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

from conveyor.core.store.records import JobKey, JobRecord, JobState, Lease

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    #: Time is that of a server that all share, so the clocks of its clients need not agree.
    SERVER_CLOCK = "server-clock"


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

    `token` is random for each call: a claim is fenced by it, and never by the worker's name, which is None
    where no worker claims. `names` narrows what may be returned. `limit` binds the queue, `group_limit` each
    group by itself; jobs without a group have no group limit. `started` is what `started` of the leased
    jobs becomes, save of those that have stalled before: theirs is false until a beat says otherwise.
    `stalled` says how jobs are returned that have stalled before. `newest_first` is a worker's choice, and
    workers of both kinds may share a queue: it costs a second index of the waiting jobs (`sort_key`, then
    `seq` backwards), or a search for each `sort_key` that is claimed from.
    """

    queue: str
    count: int
    token: str
    lease: timedelta
    worker: str | None = None
    newest_first: bool = False
    names: frozenset[str] | None = None
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
    """What a claim got, or `take`.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long a finished job is kept.

    Never less long than it holds its unique key. `age` counts from its end; zero removes it in the step
    that ends it. `count` keeps it while fewer than that many jobs of its queue and state, themselves with a
    `count`, ended later.
    """

    age: timedelta | None = None
    count: int | None = None


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
    """What the passing of time did, up to `now` by the store's clock.

    `due` became waiting; `stalled` lost their leases when they had `started`, and `unstarted` lost theirs
    before that: these are charged nothing. `wait` is how long until there is more to do for these queues, as
    far as the store knows now; zero when the limit was reached, None for nothing in sight.
    """

    now: datetime
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
    #: As an ordinary claim would take them (sort key, then `lifo` jobs newest first, then the others
    #: oldest first), without regard to turns among groups, limits and pauses. Of jobs that are not waiting
    #: it may cost by the size of the whole set.
    CLAIM = "claim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What to do to each job of a set. A job to which nothing of it applies is left alone.

    `payload` and `priority` apply to jobs that are not terminal; a changed priority shifts `sort_key` by
    the difference. `delay` (zero: now) and `run_at` apply to waiting and delayed jobs. `cancel` asks the
    holder of an active job to stop. `retention` applies to terminal jobs, and counts from their end.
    `release_key` gives up the job's unique key. `report` applies to jobs that nobody holds: the report of an
    active one is its holder's.

    `retry` takes a terminal job back to waiting, in its old place: `attempt`, `stalled` and the instants of
    its end and its runs are reset, its three documents are kept. It takes its key again if it had one
    without `unique_for`; if another job holds that now, it is left alone. If it had released its parent,
    and that is waiting, waiting for children or failed, the release is taken back: the parent waits for all
    its children that have not released it. A failed parent is reopened so, and takes back its own release
    likewise. The `run_at` and the `delay` of that parent stay.
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
