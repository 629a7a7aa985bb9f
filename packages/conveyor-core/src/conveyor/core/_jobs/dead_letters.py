"""Dead letters: what is added elsewhere, in the step in which a job fails for good.

A dead letter is a job like any other, of the dead-letter queue, with the name and the data of the one that
failed. Where it came from is kept in its report, which lasts as long as it does. Its id is made from the
lease under which the job failed: the same failure makes the same one, another failure another one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from conveyor.core import _documents
from conveyor.core._jobs.payload import fingerprint
from conveyor.core._jobs.report import Report
from conveyor.core._queue_names import checked_queue_name
from conveyor.core.errors import InvalidOptionError
from conveyor.core.job_options import JobOptions
from conveyor.core.store import JobRecord

if TYPE_CHECKING:
    from datetime import datetime

    from conveyor.core._jobs.report import Attempt


#: What is kept of the record of the job that failed. Its name and its data are the dead letter's own.
_KEPT: Final = frozenset(
    {
        *("queue", "id", "name", "options", "report", "created_at", "stalled", "priority", "lifo", "ageing"),
        *("group", "group_max_size", "unique_key", "unique_for", "parent"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """The job that a dead letter stands for, as it was when it had failed for good."""

    queue_name: str
    job_id: str
    created_at: datetime | None
    failed_at: datetime | None
    failed_reason: str | None
    error_type: str | None
    attempts_made: int
    stalled_count: int
    progress: float
    logs: tuple[str, ...]
    attempt_history: tuple[Attempt, ...]
    options: JobOptions
    priority: int
    group_id: str | None
    deduplication_key: str | None
    parent_id: str | None
    parent_queue_name: str | None


def checked_dead_letter(given: str | None, queue: str) -> str | None:
    """The dead-letter queue of a job of `queue`, if it has one.

    Raises InvalidOptionError for a name that is kept for core, or that is the job's own queue.
    """
    if given is None:
        return None
    checked_queue_name(given, "dead_letter")
    if given == queue:
        raise InvalidOptionError("dead_letter", given, "a queue cannot be its own dead-letter queue")
    return given


def dead_letters_of(record: JobRecord, report: Report, options: JobOptions) -> tuple[JobRecord, ...]:
    """What the outcome of a job that fails for good is to spawn: one dead letter, or none.

    `report` is the job's last one. The dead letter has no parent, no key and no group: nothing waits for it.
    """
    queue = options.dead_letter
    if queue is None or queue == record.queue or record.token is None:
        return ()
    failed = replace(record, report=report.encode(final=True))
    origin = Report(dead_letter_of=_documents.plain(failed, only=set(_KEPT)))
    return (
        JobRecord(
            queue=queue,
            id=fingerprint("dead letter", record.queue, record.id, record.token)[:32],
            name=record.name,
            payload=record.payload,
            report=origin.encode(),
        ),
    )


def original(dead: JobRecord) -> tuple[JobRecord, datetime | None] | None:
    """The job that a dead letter stands for, to be added again, and when it was added; None if it is none.

    Its attempts are fresh; its logs and its history are kept.
    """
    found = _origin(dead)
    if found is None:
        return None
    return replace(found, payload=dead.payload, created_at=None, stalled=0), found.created_at


def dead_letter(dead: JobRecord) -> DeadLetter | None:
    """What a dead letter says of the job that failed; None for a job that is none."""
    record = _origin(dead)
    if record is None:
        return None
    try:
        report, options = Report.decode(record.report, finished=True), JobOptions.decode(record.options)
        return DeadLetter(
            queue_name=record.queue,
            job_id=record.id,
            created_at=record.created_at,
            # The dead letter was added in the very step in which the job failed.
            failed_at=dead.created_at,
            failed_reason=None if report.error is None else report.error.message,
            error_type=None if report.error is None else report.error.type,
            attempts_made=report.failures,
            stalled_count=record.stalled,
            progress=report.progress,
            logs=tuple(report.logs),
            attempt_history=tuple(report.history),
            options=options,
            priority=record.priority,
            group_id=record.group,
            deduplication_key=record.unique_key,
            parent_id=None if record.parent is None else record.parent.id,
            parent_queue_name=None if record.parent is None else record.parent.queue,
        )
    except ValueError:
        return None


def _origin(dead: JobRecord) -> JobRecord | None:
    """What a dead letter keeps of the record of the job that failed."""
    try:
        found = Report.decode(dead.report).dead_letter_of
        return None if found is None else _documents.from_plain(JobRecord, found)
    except ValueError:
        return None
