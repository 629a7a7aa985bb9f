"""Outcomes: what a lease's holder decided about its job, in the only ways there are."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Self

from conveyor.core.store.records import JobRecord, JobState, Lease
from conveyor.core.store.values import Retention, Undecodable


class Release(Enum):
    """How the end of a child bears on its parent."""

    #: One child fewer to wait for.
    ONE = "one"
    #: No more children to wait for: what becomes of the parent is to be decided now.
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a lease's holder decided about its job. Made by the named constructors only.

    `report` None leaves the job's report as it is. With neither `delay` nor `run_at`, a state that is
    not terminal means: back to where the job was (waiting for children that have not ended, delayed
    until a `run_at` still to come, or waiting). `stalls` are added to the job's `stalled`. `spawn` is
    inserted if, and only if, this applies.
    """

    lease: Lease
    state: JobState
    attempt: int
    report: str | None = None
    delay: timedelta | None = None
    run_at: datetime | None = None
    release: Release = Release.ONE
    retention: Retention | None = None
    stalls: int = 0
    spawn: tuple[JobRecord, ...] = field(default=())

    @classmethod
    def completed(
        cls,
        job: JobRecord,
        report: str,
        *,
        retention: Retention | None = None,
        spawn: tuple[JobRecord, ...] = (),
    ) -> Self:
        """The handler returned."""
        return cls(
            lease=job.lease,
            state=JobState.COMPLETED,
            attempt=job.attempt,
            report=report,
            retention=retention,
            spawn=spawn,
        )

    @classmethod
    def failed(
        cls,
        job: JobRecord,
        report: str,
        *,
        release: Release = Release.ONE,
        retention: Retention | None = None,
        spawn: tuple[JobRecord, ...] = (),
    ) -> Self:
        """The job is given up; `Release.ALL` has its parent look at its children at once."""
        return cls(
            lease=job.lease,
            state=JobState.FAILED,
            attempt=job.attempt,
            report=report,
            release=release,
            retention=retention,
            spawn=spawn,
        )

    @classmethod
    def unreadable(cls, row: Undecodable, report: str) -> Self:
        """The row cannot be decoded: failed, whatever else it says."""
        return cls(
            lease=row.lease, state=JobState.FAILED, attempt=row.attempt, report=report, release=Release.ALL
        )

    @classmethod
    def cancelled(
        cls,
        job: JobRecord,
        report: str,
        *,
        release: Release = Release.ONE,
        retention: Retention | None = None,
    ) -> Self:
        """Somebody asked for the job not to run, or not to go on."""
        return cls(
            lease=job.lease,
            state=JobState.CANCELLED,
            attempt=job.attempt,
            report=report,
            release=release,
            retention=retention,
        )

    @classmethod
    def retry(cls, job: JobRecord, report: str, *, delay: timedelta) -> Self:
        """The run failed, and there will be another one after `delay`; zero is at once."""
        return cls(lease=job.lease, state=JobState.WAITING, attempt=job.attempt, report=report, delay=delay)

    @classmethod
    def snoozed(
        cls,
        job: JobRecord,
        report: str,
        *,
        delay: timedelta | None = None,
        run_at: datetime | None = None,
        spawn: tuple[JobRecord, ...] = (),
    ) -> Self:
        """The job runs later, after `delay` or at `run_at`, as if it had not run this time."""
        return cls(
            lease=job.lease,
            state=JobState.WAITING,
            attempt=job.attempt - 1,
            report=report,
            delay=delay,
            run_at=run_at,
            spawn=spawn,
        )

    @classmethod
    def given_back(cls, job: JobRecord) -> Self:
        """The job was not run (to its end) and goes back to where it was, as if never claimed."""
        return cls(lease=job.lease, state=JobState.WAITING, attempt=job.attempt - 1)

    @classmethod
    def stalled(cls, job: JobRecord, report: str) -> Self:
        """What ran the job died, and its worker lives to say so: back to where it was, one stall more."""
        return cls(lease=job.lease, state=JobState.WAITING, attempt=job.attempt, report=report, stalls=1)

    @classmethod
    def awaiting(cls, job: JobRecord, report: str, *, children: tuple[JobRecord, ...]) -> Self:
        """The job runs again when `children`, whose `parent` it is, have ended."""
        return cls(
            lease=job.lease,
            state=JobState.WAITING_CHILDREN,
            attempt=job.attempt,
            report=report,
            spawn=children,
        )
