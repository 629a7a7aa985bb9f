"""What a job's end means to its family, as far as its own record says: decisions only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.keep import retention_of
from conveyor.core._jobs.report import Report
from conveyor.core.job_options import JobOptions
from conveyor.core.store import JobState, Outcome, Release

if TYPE_CHECKING:
    from conveyor.core.store import JobRecord

UNFINISHED: Final = frozenset(state for state in JobState if not state.terminal)
#: A cancelled child counts as a failed one.
FAILED: Final = frozenset({JobState.FAILED, JobState.CANCELLED})


def release(record: JobRecord, options: JobOptions | None = None) -> Release:
    """How the failure (or cancellation) of a job bears on its parent.

    Of one whose options cannot be read the parent decides: its next claim looks at its children.
    """
    if record.parent is None:
        return Release.ONE
    if options is None:
        options = read_options(record)
    return Release.ONE if options is not None and not options.fails_parent else Release.ALL


def as_cancelled(record: JobRecord, release: Release = Release.ONE) -> Outcome:
    """How a job ends that is held for nothing else than being cancelled."""
    retention = retention_of(record, JobState.CANCELLED, read_report(record), read_options(record))
    return Outcome.cancelled(record, last_report(record), release=release, retention=retention)


def is_parent(record: JobRecord) -> bool:
    """Whether a job has, or had, children, for all that is known."""
    options, report = read_options(record), read_report(record)
    return bool((options is not None and options.children) or (report is not None and report.children))


def read_options(record: JobRecord) -> JobOptions | None:
    """A job's options; None if they cannot be read."""
    try:
        return JobOptions.decode(record.options)
    except ValueError:
        return None


def read_report(record: JobRecord) -> Report | None:
    """A job's report; None if it cannot be read."""
    try:
        return Report.of(record)
    except ValueError:
        return None


def last_report(record: JobRecord) -> str:
    """The report with which a job that does not run is ended; one that cannot be read is kept as it is."""
    try:
        return Report.for_run(record).encode(final=True)
    except ValueError:
        return record.report
