"""A parent's outcome from its children's.

A child that fails may be the end of its parent's waiting. What becomes of the parent is decided by whichever
process claims it next: by the ordinary claim of a worker, before it runs the job, and by the process that
wrote the child's outcome, at once and by its id (`family_follow_up.py`). Both read the children first, so
that a crash between the two steps loses nothing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.dependencies import FAILED, UNFINISHED
from conveyor.core._jobs.report import Failure, Report
from conveyor.core._jobs.settlements import (
    Settlement,
    event_of,
    fail_permanently,
)
from conveyor.core.events import JobDelayed
from conveyor.core.job_options import JobOptions
from conveyor.core.store import Change, JobState, Outcome, Retention, Where

if TYPE_CHECKING:
    from conveyor.core.clock import Clock
    from conveyor.core.store import JobRecord, Store

#: Removed in the step that ends it.
REMOVED: Final = Retention(age=timedelta(0))
#: What the error of a job is called that failed because a child of its own did.
CHILD_FAILED: Final = "child-failed"
#: A parent that was released although a child of its own goes on is looked at again after this.
_AGAIN: Final = timedelta(seconds=1)


async def parent_outcome(
    store: Store,
    record: JobRecord,
    report: Report,
    options: JobOptions,
    clock: Clock,
    *,
    keep: Retention | None,
) -> Settlement | None:
    """What becomes of a parent just claimed, by its children; None if it may run.

    `keep` is what its worker says about how long finished jobs are kept.
    """
    counts = await store.count(Where(parent=record.key))
    failed = sum(number for (_, state), number in counts.items() if state in FAILED)
    if failed and options.fail_parent_on_child_failure == "remove":
        return await _removed(store, record)
    if failed and options.fail_parent_on_child_failure == "fail":
        report.error = await _reason(store, record)
        return fail_permanently(record, report, options, report.error, clock.now(), keep=keep)
    if any(state in UNFINISHED for _, state in counts):
        # Rare: a child that had failed was retried at this very moment, or failed without its policy being
        # legible, or the job was retried by hand before its children had ended.
        # Pinned by test_a_parent_released_too_early_does_not_run_before_its_children_have_ended.
        outcome = Outcome.snoozed(record, report.encode(), delay=_AGAIN)
        if record.pending:
            outcome = Outcome.given_back(record)
        event = event_of(JobDelayed, record, clock.now())
        return Settlement(outcome=outcome, events=() if record.pending else (event,))
    return None


async def _removed(store: Store, record: JobRecord) -> Settlement:
    if record.holds_key and record.unique_for is not None:
        # A job that holds its key outlives its retention.
        where = Where(queue=record.queue, ids=frozenset({record.id}), unique_key=record.unique_key)
        await store.update(where, Change(release_key=True))
    return Settlement(
        outcome=Outcome.cancelled(record, record.report, retention=REMOVED),
        parent=record.parent,
        has_children=True,
    )


async def _reason(store: Store, record: JobRecord) -> Failure:
    """Why a parent fails: the first child that did, or what was the reason of that."""
    found = await store.find(Where(parent=record.key, states=FAILED), limit=1)
    if not found:
        return Failure(type=CHILD_FAILED, message="a child failed; its row cannot be read")
    child = found[0]
    what = f"job {child.id!r} ({child.name}) of queue {child.queue!r}"
    if child.state is JobState.CANCELLED:
        return Failure(type=CHILD_FAILED, message=f"child failed: {what} was cancelled")
    error = failure_of(child)
    if error.type == CHILD_FAILED:
        return error
    return Failure(type=CHILD_FAILED, message=f"child failed: {what}: {error.message}")


def failure_of(record: JobRecord) -> Failure:
    """Why a job failed or was cancelled."""
    if record.state is JobState.CANCELLED:
        return Failure(type="cancelled", message="cancelled")
    try:
        error = Report.of(record).error
    except ValueError:
        error = None
    return error or Failure(type="unknown", message="unknown")
