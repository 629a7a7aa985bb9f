"""A job as it was when last read: what is known of it without asking the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from conveyor.core._jobs.dead_letters import DeadLetter, dead_letter
from conveyor.core._jobs.payload import Payload
from conveyor.core._jobs.report import Report
from conveyor.core.job_options import JobOptions
from conveyor.core.store import JobState

if TYPE_CHECKING:
    from datetime import datetime

    from conveyor.core._jobs.report import Attempt
    from conveyor.core.store import JobKey, JobRecord

T = TypeVar("T", default=Any)
R = TypeVar("R", default=Any)


class JobSnapshot(Generic[T, R]):
    """A job as it was when last read."""

    # The constructor is that of `Job`: a chain of four, one a class, would take twice as long.
    _record: JobRecord
    _payload: Payload[T]
    _result: Payload[R]
    _data: T | None
    _decoded: bool
    _snapshot: Report | None

    def __repr__(self) -> str:
        """Never the data: it may be secret."""
        return f"<Job {self.name!r} {self.id} {self.state} in {self.queue_name!r}>"

    @property
    def record(self) -> JobRecord:
        """The record of the job as it was last read. Not for users."""
        return self._record

    # ---------------------------------------------------------- what it is

    @property
    def id(self) -> str:
        """The job's id, unique in its queue."""
        return self._record.id

    @property
    def name(self) -> str:
        """What kind of job it is."""
        return self._record.name

    @property
    def queue_name(self) -> str:
        """The queue it was added to."""
        return self._record.queue

    @property
    def data(self) -> T:
        """What it was added with, of the queue's payload type if that has one.

        Raises PayloadError if what is stored does not fit the type.
        """
        if not self._decoded:
            self._data = self._payload.decode(self._record.payload)
            self._decoded = True
        return self._data  # type: ignore[return-value]

    @property
    def options(self) -> JobOptions:
        """Attempts, backoff, timeout, retention, and what a child's failure means to it."""
        return JobOptions.decode(self._record.options)

    @property
    def state(self) -> JobState:
        """Where it was in its life when it was last read."""
        return self._record.state

    @property
    def priority(self) -> int:
        """Lower runs first."""
        return self._record.priority

    @property
    def group_id(self) -> str | None:
        """The group it belongs to."""
        return self._record.group

    @property
    def deduplication_key(self) -> str | None:
        """The key it was added with, as stores keep it: for a payload, or a long key, a fingerprint."""
        return self._record.unique_key

    @property
    def parent_id(self) -> str | None:
        """The job that waits for this one."""
        return None if self._record.parent is None else self._record.parent.id

    @property
    def parent_queue_name(self) -> str | None:
        """The queue of the job that waits for this one."""
        return None if self._record.parent is None else self._record.parent.queue

    @property
    def children_ids(self) -> tuple[str, ...]:
        """The ids of its children, in their order: those it was added with, then those that it added itself.

        One whose deduplication key was held when it was to be added, or that was removed since, is among
        them.
        """
        try:
            known = self.options.children
        except ValueError:
            known = ()
        return tuple(dict.fromkeys((*known, *self._report.children)))

    @property
    def schedule_key(self) -> str | None:
        """The key of the schedule that made it."""
        return self.options.schedule_key

    @property
    def scheduled_for(self) -> datetime | None:
        """When its schedule planned it for; it was made then, or later."""
        return self.options.scheduled_for

    @property
    def created_at(self) -> datetime:
        """When it was added, by the store's clock."""
        assert self._record.created_at is not None  # noqa: S101 - every job that was added has it
        return self._record.created_at

    @property
    def processed_at(self) -> datetime | None:
        """When it was last claimed."""
        return self._record.processed_at

    @property
    def delay_until(self) -> datetime | None:
        """When it is due, while it is delayed."""
        return self._record.run_at

    @property
    def completed_at(self) -> datetime | None:
        """When it completed."""
        return self._record.finished_at if self.state is JobState.COMPLETED else None

    @property
    def failed_at(self) -> datetime | None:
        """When it failed for good."""
        return self._record.finished_at if self.state is JobState.FAILED else None

    @property
    def cancelled_at(self) -> datetime | None:
        """When it was cancelled."""
        return self._record.finished_at if self.state is JobState.CANCELLED else None

    @property
    def stalled_count(self) -> int:
        """How often a worker lost it: died, or was out of touch for longer than its lease."""
        return self._record.stalled

    @property
    def cancelled(self) -> bool:
        """Whether the job was cancelled."""
        return self.state is JobState.CANCELLED

    # -------------------------------------------------- what its runs left

    @property
    def progress(self) -> float:
        """How far the handler said it is, from 0 to 100."""
        return self._report.progress

    @property
    def return_value(self) -> R | Any:
        """The result, once completed, of the queue's result type if that has one; None until then.

        Raises PayloadError if what is stored does not fit the type.
        """
        return None if self.state is not JobState.COMPLETED else self._result.of_json(self._report.result)

    @property
    def failed_reason(self) -> str | None:
        """The message of the last failure, also while it waits for a retry."""
        return None if self._report.error is None else self._report.error.message

    @property
    def attempts_made(self) -> int:
        """How many runs have failed."""
        return self._report.failures

    @property
    def logs(self) -> list[str]:
        """The lines logged so far, the last 1,000."""
        return list(self._report.logs)

    @property
    def stacktrace(self) -> list[str]:
        """The tracebacks of the failed runs in the history, oldest first."""
        return [attempt.traceback for attempt in self._report.history if attempt.traceback]

    @property
    def attempt_history(self) -> list[Attempt]:
        """The last 20 runs, oldest first."""
        return list(self._report.history)

    @property
    def discarded(self) -> bool:
        """Whether the next failure is final, whatever attempts are left."""
        return self._report.discarded

    @property
    def dead_letter_of(self) -> DeadLetter | None:
        """Of a job in a dead-letter queue: the job that failed, and how; None for any other job."""
        return dead_letter(self._record)

    def to_dict(self) -> dict[str, Any]:
        """Everything above as a plain dictionary; the data and the result as JSON has them."""
        names = (
            *("id", "name", "queue_name", "state", "priority", "group_id", "parent_id", "parent_queue_name"),
            *("children_ids", "deduplication_key", "dead_letter_of"),
            *("created_at", "processed_at", "delay_until", "completed_at", "failed_at", "cancelled_at"),
            *("stalled_count", "progress", "failed_reason", "attempts_made", "logs"),
            *("stacktrace", "attempt_history", "discarded", "options", "schedule_key", "scheduled_for"),
        )
        return {
            "data": Payload[Any]().decode(self._record.payload),
            "return_value": self._report.result if self.state is JobState.COMPLETED else None,
        } | {name: getattr(self, name) for name in names}

    @property
    def _key(self) -> JobKey:
        return self._record.key

    @property
    def _report(self) -> Report:
        if self._snapshot is None:
            try:
                self._snapshot = Report.of(self._record)
            except ValueError:
                # Nothing here may stop a reader: an unreadable report says nothing.
                self._snapshot = Report()
        return self._snapshot

    def _took(self, record: JobRecord) -> None:
        """Show this from now on: the job was read again."""
        self._record = record
        self._decoded = False
        self._snapshot = None
