"""What a job's end means to its family, as far as its own record tells: decisions only."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core.jobs import JobState
from conveyor.core.options import JobOptions
from conveyor.core.report import Report
from conveyor.core.store import Release

if TYPE_CHECKING:
    from conveyor.core.jobs import JobRecord
    from conveyor.core.store import Retention

#: What is expired at once, and yet is not removed in the step that ends the job.
_LEAST: Final = timedelta.resolution
UNFINISHED: Final = frozenset(state for state in JobState if not state.terminal)
#: A cancelled child counts as a failed one.
FAILED: Final = frozenset({JobState.FAILED, JobState.CANCELLED})


def release(record: JobRecord, options: JobOptions | None = None) -> Release:
    """How the failure (or cancellation) of a job bears on its parent.

    Of one whose options cannot be read the parent decides: whoever claims that looks at its children.
    """
    if record.parent is None:
        return Release.ONE
    if options is None:
        options = read_options(record)
    return Release.ONE if options is not None and not options.fails_parent else Release.ALL


def kept(record: JobRecord, retention: Retention | None) -> Retention | None:
    """A job's retention as it is settled: a child is not removed in the step that ends it.

    Maintenance keeps it until its parent, which wants to read its result, has completed or is gone.
    Pinned by test_a_removed_childs_result_can_be_read_by_its_parent.
    """
    if retention is None or record.parent is None or retention.age != timedelta(0):
        return retention
    return replace(retention, age=_LEAST)


def is_parent(record: JobRecord) -> bool:
    """Whether a job has, or had, children, for all that is known."""
    options, report = read_options(record), read_report(record)
    return bool((options is not None and options.children) or (report is not None and report.children))


def read_options(record: JobRecord) -> JobOptions | None:
    """A job's options; None if they cannot be read."""
    try:
        return JobOptions.decode(record.options)
    except (ValueError, TypeError, LookupError):
        return None


def read_report(record: JobRecord) -> Report | None:
    """A job's report; None if it cannot be read."""
    try:
        return Report.of(record)
    except (ValueError, TypeError, LookupError):
        return None


def last_report(record: JobRecord) -> str:
    """The report with which a job that does not run is ended; one that cannot be read is kept as it is."""
    try:
        return Report.for_run(record).encode(final=True)
    except (ValueError, TypeError, LookupError):
        return record.report
