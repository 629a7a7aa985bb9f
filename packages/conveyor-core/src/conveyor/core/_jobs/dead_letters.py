"""Dead letters: what is added elsewhere, in the step in which a job fails for good.

A letter is a job like any other, of the dead-letter queue, with the name and the data of the one that failed.
Where it came from is kept in its report, which lasts as long as the letter does. Its id is made from the
lease under which the job failed: the same failure makes the same letter, another one another letter.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from conveyor.core._jobs.payload import fingerprint
from conveyor.core._jobs.report import Report
from conveyor.core._queue_names import checked_queue_name
from conveyor.core.errors import InvalidOptionError
from conveyor.core.options import JobOptions
from conveyor.core.store import JobKey, JobRecord

if TYPE_CHECKING:
    from conveyor.core._jobs.report import Attempt


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


def letters_of(record: JobRecord, report: Report, options: JobOptions) -> tuple[JobRecord, ...]:
    """What the outcome of a job that fails for good is to spawn: one letter, or none.

    `report` is the job's last one. The letter has no parent, no key and no group: nothing waits for it.
    """
    queue = options.dead_letter
    if queue is None or queue == record.queue or record.token is None:
        return ()
    letter = Report(dead_letter_of=_described(record, report))
    return (
        JobRecord(
            queue=queue,
            id=fingerprint("dead letter", record.queue, record.id, record.token)[:32],
            name=record.name,
            payload=record.payload,
            report=letter.encode(),
        ),
    )


def original(letter: JobRecord) -> tuple[JobRecord, datetime | None] | None:
    """The job that a letter stands for, to be added again, and when it was added first; None if it is none.

    Its attempts are fresh; its logs and its history are kept.
    """
    found = _origin(letter)
    if found is None:
        return None
    try:
        parent = found.get("parent")
        record = JobRecord(
            queue=found["queue"],
            id=found["id"],
            name=letter.name,
            payload=letter.payload,
            options=to_json(found["options"]).decode(),
            report=to_json(found["report"]).decode(),
            priority=found.get("priority", 0),
            lifo=found.get("lifo", False),
            ageing=_span(found.get("ageing")),
            group=found.get("group"),
            group_max_size=found.get("group_max_size"),
            unique_key=found.get("unique_key"),
            unique_for=_span(found.get("unique_for")),
            parent=None if parent is None else JobKey(*parent),
        )
        return record, _instant(found.get("created_at"))
    except (ValueError, TypeError, LookupError):
        return None


def dead_letter(letter: JobRecord) -> DeadLetter | None:
    """What a letter tells of the job that failed; None for a job that is no letter."""
    found, again = _origin(letter), original(letter)
    if found is None or again is None:
        return None
    record, created_at = again
    try:
        report = Report.decode(record.report, finished=True)
        return DeadLetter(
            queue_name=record.queue,
            job_id=record.id,
            created_at=created_at,
            # The letter was added in the very step in which the job failed.
            failed_at=letter.created_at,
            failed_reason=None if report.error is None else report.error.message,
            error_type=None if report.error is None else report.error.type,
            attempts_made=report.failures,
            stalled_count=int(found.get("stalled", 0)),
            progress=report.progress,
            logs=tuple(report.logs),
            attempt_history=tuple(report.history),
            options=JobOptions.decode(record.options),
            priority=record.priority,
            group_id=record.group,
            deduplication_key=record.unique_key,
            parent_id=None if record.parent is None else record.parent.id,
            parent_queue_name=None if record.parent is None else record.parent.queue,
        )
    except (ValueError, TypeError, LookupError):
        return None


def _described(record: JobRecord, report: Report) -> dict[str, Any]:
    found = {
        "queue": record.queue,
        "id": record.id,
        "created_at": record.created_at,
        "stalled": record.stalled,
        "options": from_json(record.options),
        "report": from_json(report.encode(final=True)),
        "priority": record.priority,
        "lifo": record.lifo,
        "ageing": None if record.ageing is None else record.ageing.total_seconds(),
        "group": record.group,
        "group_max_size": record.group_max_size,
        "unique_key": record.unique_key,
        "unique_for": None if record.unique_for is None else record.unique_for.total_seconds(),
        "parent": record.parent,
    }
    return {name: value for name, value in found.items() if value or name in {"options", "report"}}


def _origin(letter: JobRecord) -> dict[str, Any] | None:
    try:
        found = Report.decode(letter.report).dead_letter_of
    except (ValueError, TypeError, LookupError):
        return None
    return found if isinstance(found, dict) else None


def _span(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
