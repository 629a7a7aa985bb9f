"""The life of a job, for stores: which fields of a row each step changes, and to what.

Pure functions of a row and of the moment. A row is an object of any class that has the attributes of
`JobRecord`, and is left as it is: what is returned are the fields that change, with their new values, and a
store writes them in the same step. No store has to use these functions, but one that writes the same rules
in another way, in SQL for instance, is held to them by the suite (`conveyor.conformance`, area
"transitions").

What reaches beyond one row is the store's: it finds the parent that a job releases, or the holder of a key,
and applies the function that says what becomes of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypedDict

from conveyor.core.store.outcomes import Release
from conveyor.core.store.records import TERMINAL, JobState

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from conveyor.core.store.outcomes import Outcome
    from conveyor.core.store.values import Change, Retention

__all__ = [
    "Fields",
    "JobRow",
    "changed",
    "concerned",
    "due_for_removal",
    "holds_key",
    "lapsed",
    "leased",
    "released",
    "reopened",
    "reopens",
    "retried",
    "settled",
    "takes_key_again",
    "waiting",
]

# An attribute of an enum costs more than a global, and these are asked for with each job.
_WAITING: Final = JobState.WAITING
_WAITING_CHILDREN: Final = JobState.WAITING_CHILDREN
_DELAYED: Final = JobState.DELAYED
_ACTIVE: Final = JobState.ACTIVE
_FAILED: Final = JobState.FAILED


class JobRow(Protocol):
    """What the rules look at of a row; `JobRecord` says what each attribute means."""

    @property
    def state(self) -> JobState: ...  # noqa: D102
    @property
    def run_at(self) -> datetime | None: ...  # noqa: D102
    @property
    def delay(self) -> timedelta | None: ...  # noqa: D102
    @property
    def priority(self) -> int: ...  # noqa: D102
    @property
    def sort_key(self) -> float: ...  # noqa: D102
    @property
    def unique_key(self) -> str | None: ...  # noqa: D102
    @property
    def unique_for(self) -> object | None: ...  # noqa: D102
    @property
    def unique_until(self) -> datetime | None: ...  # noqa: D102
    @property
    def holds_key(self) -> bool: ...  # noqa: D102
    @property
    def pending(self) -> int: ...  # noqa: D102
    @property
    def attempt(self) -> int: ...  # noqa: D102
    @property
    def stalled(self) -> int: ...  # noqa: D102
    @property
    def started(self) -> bool: ...  # noqa: D102
    @property
    def finished_at(self) -> datetime | None: ...  # noqa: D102
    @property
    def expires_at(self) -> datetime | None: ...  # noqa: D102


class Fields(TypedDict, total=False):
    """Fields of a row that change, with their new values."""

    state: JobState
    run_at: datetime | None
    delay: timedelta | None
    priority: int
    sort_key: float
    payload: str
    report: str
    holds_key: bool
    pending: int
    token: str | None
    lease_until: datetime | None
    locked_by: str | None
    attempt: int
    stalled: int
    started: bool
    cancel_requested: bool
    processed_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    keep_count: int | None


# ------------------------------------------------------------------ claims


def leased(
    row: JobRow, *, token: str, lease: timedelta, worker: str | None, started: bool, now: datetime
) -> Fields:
    """Give a claim its hold on a job."""
    return {
        "state": _ACTIVE,
        "token": token,
        "lease_until": now + lease,
        "locked_by": worker,
        "started": started and not row.stalled,
        "attempt": row.attempt + 1,
        "processed_at": now,
    }


def lapsed(row: JobRow, now: datetime) -> Fields:
    """Take back a lease that ran out: the job returns to where it was, one stall more if it had started."""
    return _gone_back(row, now) | Fields(stalled=row.stalled + row.started)


# ------------------------------------------------------------------ waiting


def waiting(now: datetime, run_at: datetime | None = None) -> Fields:
    """Have a job run at that time, at once if it has come or there is none; nobody holds it."""
    later = run_at is not None and run_at > now
    return {
        "state": _DELAYED if later else _WAITING,
        "run_at": run_at if later else None,
        "delay": None,
        "token": None,
        "lease_until": None,
        "locked_by": None,
        "started": False,
    }


def _waiting_for_children(pending: int) -> Fields:
    """Have a job wait for that many children; nobody holds it, and its `run_at` and `delay` stay."""
    return {
        "state": _WAITING_CHILDREN,
        "pending": pending,
        "token": None,
        "lease_until": None,
        "locked_by": None,
        "started": False,
    }


def _gone_back(row: JobRow, now: datetime) -> Fields:
    """Undo a claim: the job returns to where it was."""
    return _waiting_for_children(row.pending) if row.pending else waiting(now, row.run_at)


# ------------------------------------------------------------------ outcomes


def settled(row: JobRow, outcome: Outcome, now: datetime) -> Fields:
    """Apply an outcome to the job whose lease it shows.

    A job whose outcome is terminal also releases its parent (`released`), and is removed at once if it is
    `due_for_removal` then. One that is to wait for children waits for none yet: that it does for those of
    `outcome.spawn` that the store creates next, and if there are none it is `waiting`.
    """
    if outcome.state in TERMINAL:
        fields = _ended(row, outcome, now)
    elif outcome.state is _WAITING_CHILDREN:
        fields = _waiting_for_children(0)
    elif row.pending or (outcome.delay is None and outcome.run_at is None):
        fields = _gone_back(row, now)
    else:
        fields = waiting(now, outcome.run_at if outcome.delay is None else now + outcome.delay)
    fields["attempt"] = outcome.attempt
    if outcome.stalls:
        fields["stalled"] = row.stalled + outcome.stalls
    if outcome.report is not None:
        fields["report"] = outcome.report
    return fields


def _ended(row: JobRow, outcome: Outcome, now: datetime) -> Fields:
    fields: Fields = {
        "state": outcome.state,
        "finished_at": now,
        "run_at": None,
        "delay": None,
        "pending": 0,
        "cancel_requested": False,
        "token": None,
        "lease_until": None,
        "locked_by": None,
        "started": False,
    }
    keeps_key = row.unique_for is not None and holds_key(row, now)
    if row.holds_key and not keeps_key:
        fields["holds_key"] = False
    if outcome.retention is not None:
        fields.update(_retained(outcome.retention, now, row.unique_until if keeps_key else None))
    return fields


def _retained(retention: Retention, finished_at: datetime, key_until: datetime | None) -> Fields:
    """Say until when a finished job is kept: at least while it holds its key."""
    expires_at = None if retention.age is None else finished_at + retention.age
    if expires_at is not None and key_until is not None:
        expires_at = max(expires_at, key_until)
    return {"expires_at": expires_at, "keep_count": retention.count}


def due_for_removal(row: JobRow, now: datetime) -> bool:
    """Whether the retention of a job, by age, is over."""
    return row.expires_at is not None and row.expires_at <= now


# ------------------------------------------------------------------ parents


def released(parent: JobRow, how: Release, now: datetime) -> Fields:
    """Release a parent that has children pending, by the end of one of them.

    If it waits for none any more, its `state` is among the fields: it is waiting or delayed now. A parent
    that is held has one child fewer, and goes on as it is.
    """
    pending = parent.pending - 1 if how is Release.ONE else 0
    fields = Fields(pending=pending)
    if pending:
        return fields
    run_at = parent.run_at if parent.delay is None else now + parent.delay
    if parent.state is _WAITING_CHILDREN:
        return fields | waiting(now, run_at)
    return fields | Fields(run_at=run_at, delay=None)


# ------------------------------------------------------------------ retries by `Change`


def takes_key_again(row: JobRow) -> bool:
    """Whether a retried job is to hold its key again: if another job does, it cannot be retried."""
    return row.unique_key is not None and row.unique_for is None and not row.holds_key


def retried(row: JobRow, now: datetime) -> Fields:
    """Take a finished job back to waiting, as if it had never run; see `takes_key_again` and `reopens`."""
    fields = waiting(now) | _reset()
    if takes_key_again(row):
        fields["holds_key"] = True
    return fields


def reopens(parent: JobRow) -> bool:
    """Whether a parent waits again for a child that had released it, and is retried."""
    return parent.state in _REOPENED


def reopened(parent: JobRow, pending: int, *, takes_key: bool = False) -> Fields:
    """Have a parent wait for that many children, one of which was retried.

    One that had failed is reset. It holds its key again, if it `takes_key_again` and no other job does.
    """
    fields = _waiting_for_children(pending)
    if parent.state is _FAILED:
        fields |= _reset()
    if takes_key:
        fields["holds_key"] = True
    return fields


def _reset() -> Fields:
    return {
        "attempt": 0,
        "stalled": 0,
        "cancel_requested": False,
        "processed_at": None,
        "finished_at": None,
        "expires_at": None,
        "keep_count": None,
    }


# ------------------------------------------------------------------ other changes


def changed(row: JobRow, change: Change, now: datetime) -> Fields:
    """Do to a job what applies to it of a change, save for `Change.retry`; no fields: nothing does."""
    fields = Fields()
    ended = row.state in TERMINAL
    if not ended and change.payload is not None:
        fields["payload"] = change.payload
    if not ended and change.priority is not None:
        fields["sort_key"] = row.sort_key + (change.priority - row.priority)
        fields["priority"] = change.priority
    if row.state in _IN_LINE and (change.delay is not None or change.run_at is not None):
        fields |= waiting(now, change.run_at if change.delay is None else now + change.delay)
    if row.state is _ACTIVE and change.cancel:
        fields["cancel_requested"] = True
    if ended and change.retention is not None:
        key_until = row.unique_until if holds_key(row, now) else None
        fields |= _retained(change.retention, row.finished_at or now, key_until)
    if change.release_key and holds_key(row, now):
        fields["holds_key"] = False
    if row.state is not _ACTIVE and change.report is not None:
        fields["report"] = change.report
    return fields


def concerned(change: Change) -> frozenset[JobState]:
    """The states of the jobs that a change may apply to."""
    found: set[JobState] = set()
    if change.release_key:
        found.update(JobState)
    if change.retry or change.retention is not None:
        found |= TERMINAL
    if change.payload is not None or change.priority is not None:
        found |= set(JobState) - TERMINAL
    if change.delay is not None or change.run_at is not None:
        found |= _IN_LINE
    if change.cancel:
        found.add(_ACTIVE)
    if change.report is not None:
        found |= set(JobState) - {_ACTIVE}
    return frozenset(found)


def holds_key(row: JobRow, now: datetime) -> bool:
    """Whether a job is the holder of its unique key at that moment."""
    return row.holds_key and (row.unique_until is None or row.unique_until > now)


_IN_LINE: Final = frozenset({_WAITING, _DELAYED})
_REOPENED: Final = frozenset({_WAITING, _WAITING_CHILDREN, _FAILED})
