"""Why a job is not running: the reasons there are, one frozen class each, and their words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from conveyor.core.store import JobKey, JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One thing that bears on when a job runs; its text is a sentence.

    `blocks` is whether the job cannot start while this holds. A reason that does not block says more.
    """

    blocks: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Reason):
    """The job has finished; `why` is the reason of a failure."""

    state: JobState
    at: datetime | None
    why: str | None

    def __str__(self) -> str:
        """A sentence."""
        why = "" if self.why is None else f": {self.why}"
        return f"it is {self.state} since {_at(self.at)}{why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InDeadLetters(Reason):
    """The job failed for good, and was added to that queue as a dead letter then."""

    queue_name: str
    blocks: ClassVar[bool] = False

    def __str__(self) -> str:
        """A sentence."""
        return f"a dead letter of it was added to the dead-letter queue {self.queue_name!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class IsDeadLetter(Reason):
    """The job is a dead letter itself: of this job."""

    queue_name: str
    job_id: str
    blocks: ClassVar[bool] = False

    def __str__(self) -> str:
        """A sentence."""
        return f"it is the dead letter of job {self.job_id!r} of queue {self.queue_name!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running(Reason):
    """A worker holds the job: it runs, or is about to. After `lease_until` it is taken back."""

    worker: str | None
    since: datetime | None
    lease_until: datetime | None
    blocks: ClassVar[bool] = False

    def __str__(self) -> str:
        """A sentence."""
        held = f"worker {self.worker!r} holds it" if self.worker else "it is held for a moment, by no worker,"
        return f"{held} since {_at(self.since)}, and must give a sign of life by {_at(self.lease_until)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CancellationPending(Reason):
    """The job was asked to stop; it ends as soon as its worker receives that."""

    blocks: ClassVar[bool] = False

    def __str__(self) -> str:
        """A sentence."""
        return "its cancellation was asked for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delayed(Reason):
    """The job is not due yet."""

    until: datetime | None

    def __str__(self) -> str:
        """A sentence."""
        return f"it is delayed until {_at(self.until)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitsForChildren(Reason):
    """The job waits for `pending` other jobs; `children` are the first of those that have not ended."""

    pending: int
    children: tuple[tuple[JobKey, JobState], ...]

    def __str__(self) -> str:
        """A sentence."""
        named = ", ".join(f"{key.id!r} of {key.queue!r} ({state})" for key, state in self.children)
        more = self.pending - len(self.children)
        return f"it waits for {self.pending} children: {named}{f' and {more} more' if more > 0 else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(Reason):
    """Its queue, its name or its group is paused; without `until`: until it is resumed."""

    job_name: str | None
    group: str | None
    until: datetime | None

    def __str__(self) -> str:
        """A sentence."""
        what = "its queue is"
        if self.job_name is not None:
            what = f"jobs named {self.job_name!r} are"
        elif self.group is not None:
            what = f"its group {self.group!r} is"
        return f"{what} paused until {'resumed' if self.until is None else _at(self.until)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoWorker(Reason):
    """No worker is registered for its queue, or (of `others` that are) none that takes jobs of its name."""

    job_name: str | None
    others: int

    def __str__(self) -> str:
        """A sentence."""
        if self.job_name is None:
            return "no worker is registered for its queue"
        return f"none of the {self.others} registered workers takes jobs named {self.job_name!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersPaused(Reason):
    """Every worker that takes it has said that it is paused."""

    workers: tuple[str, ...]

    def __str__(self) -> str:
        """A sentence."""
        return f"every worker that takes it is paused: {', '.join(self.workers)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersBusy(Reason):
    """The workers that take it hold as many jobs as they have room for."""

    active: int
    room: int

    def __str__(self) -> str:
        """A sentence."""
        return f"the workers that take it have room for {self.room} jobs at once, and hold {self.active}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AtLimit(Reason):
    """As many jobs of the queue (of `group`) are active as the most generous worker lets be."""

    group: str | None
    active: int
    limit: int

    def __str__(self) -> str:
        """A sentence."""
        where = "its queue" if self.group is None else f"its group {self.group!r}"
        return f"{where} is at its limit: {self.active} jobs are active, and {self.limit} may be"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateExceeded(Reason):
    """At least `starts` jobs of the queue (of `group`) have started in the window, which opens at `until`.

    The starts of jobs that have been removed since are not known, and so are not counted.
    """

    group: str | None
    starts: int
    max: int
    per: timedelta
    until: datetime

    def __str__(self) -> str:
        """A sentence."""
        where = "its queue" if self.group is None else f"its group {self.group!r}"
        return (
            f"{where} is at its rate limit: {self.starts} jobs have started within {_span(self.per)}, "
            f"{self.max} may; the next may start at {_at(self.until)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WithinRate(Reason):
    """Starts are limited; as far as is known there is room, but starts of removed jobs count as well."""

    group: str | None
    starts: int
    max: int
    per: timedelta
    blocks: ClassVar[bool] = False

    def __str__(self) -> str:
        """A sentence."""
        where = "its queue" if self.group is None else f"its group {self.group!r}"
        return (
            f"{where} may start {self.max} jobs within {_span(self.per)}; at least {self.starts} have started"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InLine(Reason):
    """So many waiting jobs are ahead of it, in the order of claims; without `exact`: at least so many.

    Turns among groups are not looked at, nor whether those jobs are paused; a worker with `lifo` takes
    others first.
    """

    ahead: int
    exact: bool
    blocks: ClassVar[bool] = False

    def __str__(self) -> str:
        """A sentence."""
        if self.ahead == 0:
            return "it is the next in line"
        return f"{'' if self.exact else 'at least '}{self.ahead} waiting jobs are ahead of it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What `Queue.explain` found: the reasons, those that keep the job from starting first.

    It is a picture of one moment. Without a reason that blocks, a worker is expected to take the job.
    """

    queue_name: str
    job_id: str
    job_name: str
    state: JobState
    reasons: tuple[Reason, ...]

    @property
    def blocked(self) -> bool:
        """Whether something keeps the job from starting, besides the jobs ahead of it."""
        return any(reason.blocks for reason in self.reasons)

    def __str__(self) -> str:
        """The reasons as text, a line each."""
        head = f"job {self.job_id!r} ({self.job_name}) of queue {self.queue_name!r} is {self.state}:"
        return "\n".join([head, *(f"- {reason}" for reason in self.reasons)])


def _at(instant: datetime | None) -> str:
    return "an unknown time" if instant is None else instant.isoformat(timespec="milliseconds")


def _span(span: timedelta) -> str:
    return f"{span.total_seconds():g} s"
