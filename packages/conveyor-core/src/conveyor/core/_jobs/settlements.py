"""How a job's life goes on, or ends, where it need not run for that: decisions only.

A `Settlement` is a decision: the outcome that a store is to apply, and what follows once it is applied.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from conveyor.core._jobs.dead_letters import dead_letters_of
from conveyor.core._jobs.dependencies import is_parent, read_options, release
from conveyor.core._jobs.keep import BY_DEFAULT, retention_of
from conveyor.core._jobs.report import Failure, Report
from conveyor.core.events import (
    JobCancelled,
    JobDelayed,
    JobFailed,
    JobRemoved,
    JobWaiting,
    JobWaitingChildren,
)
from conveyor.core.job_options import JobOptions
from conveyor.core.store import JobState, Outcome, Retention

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from conveyor.core.events import Event
    from conveyor.core.store import Inserted, JobKey, JobRecord, Pause, Settled, Undecodable


class RunLog(NamedTuple):
    """What the log says of a run, beside its outcome."""

    name: str | None
    at: datetime
    attempt: int | None = None
    attempts: int | None = None
    started_at: datetime | None = None
    failure: Failure | None = None
    #: What the handler raised; None if it is core that fails the job.
    error: BaseException | None = None

    @property
    def duration(self) -> float | None:
        """How long the handler ran, in seconds; None if it did not."""
        return None if self.started_at is None else max(0.0, (self.at - self.started_at).total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """An outcome, the events to publish once it is applied, and what to pause before it is."""

    outcome: Outcome
    events: tuple[Event, ...] = ()
    pause: tuple[Pause, timedelta] | None = None
    #: The job's parent, and whether it is one itself: for what follows from a job's end in its family.
    parent: JobKey | None = None
    has_children: bool = False
    #: What to log once it is applied.
    run_log: RunLog | None = None


def fail_permanently(
    record: JobRecord,
    report: Report,
    options: JobOptions | None,
    failure: Failure,
    now: datetime,
    *,
    keep: Retention | None = None,
    run_log: RunLog | None = None,
) -> Settlement:
    """Fail a job for good.

    `options` None: they cannot be read; `run_log` None: it never ran; `keep` is what its worker says.
    """
    return Settlement(
        outcome=Outcome.failed(
            record,
            report.encode(final=True),
            release=release(record, options),
            retention=retention_of(record, JobState.FAILED, report, options, by_worker=keep),
            spawn=dead_letters_of(record, report, options or JobOptions()),
        ),
        events=(event_of(JobFailed, record, now, reason=failure.message),),
        parent=record.parent,
        has_children=is_parent(record) if options is None else bool(options.children or report.children),
        run_log=run_log or RunLog(record.name, now, failure=failure),
    )


def fail_undecodable(
    record: JobRecord, failure: Failure, now: datetime, *, keep: Retention | None = None
) -> Settlement:
    """Fail a job without running it, for what is stored of it cannot be read."""
    report, options = Report(), None
    with contextlib.suppress(Exception):
        report = Report.for_run(record)
    with contextlib.suppress(Exception):
        options = JobOptions.decode(record.options)
    report.error = failure
    return fail_permanently(record, report, options, failure, now, keep=keep)


def fail_unreadable(row: Undecodable, now: datetime, *, keep: Retention | None = None) -> Settlement:
    """Fail a job whose row the store cannot read."""
    report = Report(error=Failure(type="undecodable", message=f"its row cannot be read: {row.reason}"))
    event = JobFailed(queue_name=row.lease.queue, job_id=row.lease.id, at=now, reason=row.reason)
    return Settlement(
        # What its key is cannot be read, either: the store keeps it until that lapses.
        outcome=replace(
            Outcome.unreadable(row, report.encode(final=True)),
            retention=keep or Retention(age=BY_DEFAULT[JobState.FAILED]),
        ),
        events=(event,),
        run_log=RunLog(None, now, failure=report.error),
    )


def cancel_unrun(
    record: JobRecord, report: Report, now: datetime, *, keep: Retention | None = None
) -> Settlement:
    """End a job as cancelled without running it: its last run was asked to stop, and stalled."""
    options = read_options(record)
    return Settlement(
        outcome=Outcome.cancelled(
            record,
            report.encode(final=True),
            release=release(record, options),
            retention=retention_of(record, JobState.CANCELLED, report, options, by_worker=keep),
        ),
        events=(event_of(JobCancelled, record, now),),
        parent=record.parent,
        has_children=is_parent(record),
        run_log=RunLog(record.name, now, report.failures + 1),
    )


def events_of(batch: Sequence[Settlement], settled: Settled, at: datetime) -> list[Event]:
    """The events to publish of settlements that were written."""
    events = [e for one in batch if one.outcome.lease in settled.applied for e in one.events]
    events.extend(JobRemoved(queue_name=key.queue, job_id=key.id, at=at) for key in settled.removed)
    events.extend(JobWaiting(queue_name=key.queue, job_id=key.id, at=at) for key in settled.released)
    events.extend(event_for(found, at) for found in settled.spawned if found.created)
    created = {found.key for found in settled.spawned if found.created}
    events.extend(
        JobWaiting(queue_name=one.outcome.lease.queue, job_id=one.outcome.lease.id, at=at)
        for one in batch
        # It added children, all of which stood in for by others: it waits for none.
        if one.outcome.state is JobState.WAITING_CHILDREN
        and created.isdisjoint(record.key for record in one.outcome.spawn)
    )
    return events


def event_for(found: Inserted, at: datetime) -> Event:
    """The event of a job that was added."""
    kind = {JobState.DELAYED: JobDelayed, JobState.WAITING_CHILDREN: JobWaitingChildren}.get(
        found.state, JobWaiting
    )
    return kind(queue_name=found.key.queue, job_id=found.key.id, at=at)


def event_of(kind: type[Event], record: JobRecord, at: datetime, **details: Any) -> Event:
    """An event of this kind about a job."""
    return kind(queue_name=record.queue, job_id=record.id, at=at, **details)  # type: ignore[call-arg]
