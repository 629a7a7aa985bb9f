"""A schedule as a row of its queue's companion queue: what is read of it, and how it is released."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.report import Failure, Report
from conveyor.core._schedules import due_runs
from conveyor.core._schedules.definition import ScheduleSpec, ScheduleState, decode, encode
from conveyor.core.store import Change, JobState, Outcome, Where

if TYPE_CHECKING:
    from datetime import datetime

    from conveyor.core.store import Inserted, JobRecord, Store, Undecodable

#: What reading a document may raise that another release has written, or that was edited by hand.
UNREADABLE: Final = (ValueError, TypeError, LookupError, AttributeError)


def opened(record: JobRecord) -> tuple[ScheduleSpec, ScheduleState]:
    """What a row says.

    Raises one of `UNREADABLE`.
    """
    spec, state = decode(record.report)
    # It has not been held since it was added: it began then.
    return spec, state or due_runs.begin(spec, record.created_at or held_at(record))


def held_at(record: JobRecord) -> datetime:
    """When a row that is held was claimed, by the store's clock."""
    assert record.processed_at is not None  # noqa: S101 - every claimed job has it
    return record.processed_at


def release(
    record: JobRecord, spec: ScheduleSpec, state: ScheduleState, jobs: tuple[JobRecord, ...] = ()
) -> Outcome:
    """The outcome that releases a held row with its state, and adds its jobs in the same step."""
    return Outcome.snoozed(record, encode(spec, state), run_at=due_runs.look_at(state), spawn=jobs)


def unreadable(row: Undecodable) -> Outcome:
    """The outcome of a row that the store cannot read."""
    return Outcome.unreadable(
        row, Report(error=Failure(type="undecodable", message=row.reason)).encode(final=True)
    )


async def take_over(store: Store, spec: ScheduleSpec, job: JobRecord, found: Inserted) -> None:
    """Let the holder of the deduplication key take the new data of a job that was not added, if it is to."""
    if found.created or not spec.replaces or found.key.id == job.id:
        return
    where = Where(
        queue=found.key.queue,
        ids=frozenset({found.key.id}),
        states=frozenset({JobState.WAITING, JobState.DELAYED}),
    )
    await store.update(where, Change(payload=job.payload, delay=job.delay))
