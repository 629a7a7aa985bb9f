"""A schedule as a row of its queue's companion queue: what is read of it, and how it is let go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.report import Failure, Report
from conveyor.core._schedules import decisions
from conveyor.core._schedules.definition import Plan, Standing, decode, encode
from conveyor.core.store import Change, JobState, Outcome, Where

if TYPE_CHECKING:
    from datetime import datetime

    from conveyor.core.store import Inserted, JobRecord, Store, Undecodable

#: What reading a document may raise that another release, or somebody's hand, has written.
UNREADABLE: Final = (ValueError, TypeError, LookupError, AttributeError)


def opened(record: JobRecord) -> tuple[Plan, Standing]:
    """What a row says.

    Raises one of `UNREADABLE`.
    """
    plan, standing = decode(record.report)
    # Nobody has held it since it was added: it began then.
    return plan, standing or decisions.begin(plan, record.created_at or held_at(record))


def held_at(record: JobRecord) -> datetime:
    """When a row that is held was claimed, by the store's clock."""
    assert record.processed_at is not None  # noqa: S101 - every claimed job has it
    return record.processed_at


def let_go(record: JobRecord, plan: Plan, standing: Standing, jobs: tuple[JobRecord, ...] = ()) -> Outcome:
    """The outcome that lets go of a held row, as it stands now, and adds its jobs in the same step."""
    return Outcome.snoozed(record, encode(plan, standing), run_at=decisions.look_at(standing), spawn=jobs)


def unreadable(row: Undecodable) -> Outcome:
    """The outcome of a row that the store cannot read."""
    return Outcome.unreadable(
        row, Report(error=Failure(type="undecodable", message=row.reason)).encode(final=True)
    )


async def take_over(store: Store, plan: Plan, job: JobRecord, found: Inserted) -> None:
    """Where the holder of its deduplication key stands for a job, let it take the new data, if it is to."""
    if found.created or not plan.replaces or found.key.id == job.id:
        return
    where = Where(
        queue=found.key.queue,
        ids=frozenset({found.key.id}),
        states=frozenset({JobState.WAITING, JobState.DELAYED}),
    )
    await store.update(where, Change(payload=job.payload, delay=job.delay))
