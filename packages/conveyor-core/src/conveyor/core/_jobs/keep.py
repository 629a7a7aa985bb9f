"""How long a finished job is kept: as the job says, else its worker, else its queue, else by default.

The default is given to no job: `Where.unretained` finds those for which nothing was said, by the index that
finished jobs have anyway, and so most jobs cost no entry in another. Only where it does not fit is something
written down: for a job that may hold its key for longer, and for a dead letter, which is kept for ever.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core.job_options import FOREVER, JobOptions
from conveyor.core.store import JobState, Retention

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conveyor.core._jobs.report import Report
    from conveyor.core.store import JobRecord

#: How long finished jobs are kept for which nothing was said.
BY_DEFAULT: Final[Mapping[JobState, timedelta]] = {
    JobState.COMPLETED: timedelta(days=1),
    JobState.CANCELLED: timedelta(days=1),
    JobState.FAILED: timedelta(days=14),
}
#: What is expired at once, and yet is not removed in the step that ends the job.
_LEAST: Final = timedelta.resolution
_AT_ONCE: Final = timedelta(0)


def retention_of(
    record: JobRecord,
    state: JobState,
    report: Report | None,
    options: JobOptions | None,
    *,
    by_worker: Retention | None = None,
) -> Retention | None:
    """What is to be written down for a job that ends in that state; None: it is kept as all are by default.

    What cannot be read of it is None, and `by_worker` is what its worker says.
    """
    said = None if options is None else _said(state, options, by_worker)
    if said is None:
        return _exception(record, state, report)
    if said.age == _AT_ONCE and (record.parent is not None or state is JobState.CANCELLED):
        # A child's result is for its parent: maintenance keeps it until that has completed or is gone. And a
        # parent that was cancelled has its children cancelled, unlike one that is removed as it ends.
        # Pinned by test_a_removed_childs_result_can_be_read_by_its_parent.
        return replace(said, age=_LEAST)
    return said


def _said(state: JobState, options: JobOptions, by_worker: Retention | None) -> Retention | None:
    own = None
    if state is JobState.COMPLETED:
        own = options.remove_on_complete
    elif state is JobState.FAILED:
        own = options.remove_on_fail
    return own or options.keep or by_worker or options.queue_keep


def _exception(record: JobRecord, state: JobState, report: Report | None) -> Retention | None:
    if report is not None and report.dead_letter_of is not None:
        return FOREVER
    if record.unique_for is None or record.unique_for <= BY_DEFAULT[state]:
        return None
    # A store keeps a job that has a retention until its key lapses.
    return Retention(age=BY_DEFAULT[state])
