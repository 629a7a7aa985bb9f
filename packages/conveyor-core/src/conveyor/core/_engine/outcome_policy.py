"""The outcome of a job from how its run ended: decisions only, nothing is done here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from conveyor.core._engine.run import Stop
from conveyor.core._jobs.dependencies import release
from conveyor.core._jobs.keep import retention_of
from conveyor.core._jobs.payload import decode, encode
from conveyor.core._jobs.refusals import reason
from conveyor.core._jobs.report import Failure, Report
from conveyor.core._jobs.settlements import (
    RunLog,
    Settlement,
    event_of,
    fail_permanently,
    fail_undecodable,
)
from conveyor.core.errors import JobTimeoutError, UnserialisableResultError
from conveyor.core.events import (
    JobCancelled,
    JobCompleted,
    JobDelayed,
    JobFailed,
    JobRetrying,
    JobStalled,
    JobWaiting,
    JobWaitingChildren,
    QueuePaused,
)
from conveyor.core.signals import RateLimited, Retry, Signal, Snooze, Unrecoverable
from conveyor.core.store import JobState, Outcome, Pause

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from conveyor.core._engine.retry_policy import RetryPolicy
    from conveyor.core._engine.run import Run
    from conveyor.core.job_options import JobOptions
    from conveyor.core.store import JobRecord, Retention

_AT_ONCE: Final = timedelta(0)


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned a value."""

    value: Any


@dataclass(frozen=True)
class Raised:
    """The handler raised; `outside` if it was cancelled as its worker was ending, by none of us."""

    error: BaseException
    outside: bool = False
    #: What is kept of it, if it was raised in another process.
    carried: Failure | None = None

    @cached_property
    def failure(self) -> Failure:
        """What is kept of it, made once for all jobs of a batch."""
        failure = self.carried or Failure.of(self.error)
        if isinstance(self.error, asyncio.CancelledError) and not failure.message:
            # Its own text is empty, and would leave a job that failed for no reason.
            return replace(failure, message="cancelled by its handler, or by what that waited for")
        return failure


@dataclass(frozen=True, slots=True)
class Died:
    """The process that the handler ran in died by itself; `how` it did."""

    how: str


#: How a run can end.
Ending = Returned | Raised | Died


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomePolicy:
    """Decides for one worker."""

    worker: str
    #: When jobs that failed run again.
    retries: RetryPolicy
    #: The JSON text of a result, by the name of the job; raises if there is none.
    encoded: Callable[[str, object], str] = lambda _, value: encode(value, root="result")
    #: How long jobs are kept that do not say so themselves.
    keep: Retention | None = None

    def settlement(  # noqa: PLR0911 - one for each way that a run can end
        self, run: Run, ending: Ending, now: datetime
    ) -> Settlement | None:
        """What becomes of a job whose run has ended; None if it is not ours to say any more."""
        match run.stop, ending:
            case Stop.LEASE_LOST, _:
                return None
            case Stop.CANCELLED, _:
                return self._cancelled(run, now)
            case Stop.TIMED_OUT, _:
                error = JobTimeoutError(
                    f"the handler ran longer than its timeout of {run.limit} and {_so(run)}"
                )
                return self._failed(run, Failure.of(error), now, error, outcome="timed-out")
            case _, Died(how):
                return self._stalled(run, how, now)
            case _ if _is_broken_off(run, ending):
                return self._unfinished(run, now)
            case _, Returned(value) if run.decision is None:
                return self._completed(run, value, now)
            case _, Returned():
                return self._signalled(run, Raised(run.decision or RuntimeError()), now)
            case _, Raised(Signal()) as raised:
                return self._signalled(run, raised, now)
            case _, Raised() as raised:
                return self._failed(run, raised.failure, now, raised.error)
            case _:  # pragma: no cover - the cases above are all there are
                raise AssertionError(ending)

    def _unfinished(self, run: Run, now: datetime) -> Settlement:
        """The run was broken off, which is not the job's fault: it goes back, with what it has logged."""
        return Settlement(
            outcome=Outcome.snoozed(run.record, run.report.encode()),
            events=(event_of(JobWaiting, run.record, now),),
            run_log=_run_log(run, now),
        )

    def stalled(self, record: JobRecord, report: Report, options: JobOptions, now: datetime) -> Settlement:
        """The job has lost its worker too often: fail it without running it."""
        failure = Failure(
            type="stalled",
            message=f"stalled: {record.stalled} times its worker died, or lost touch for too long",
        )
        report.error = failure
        return fail_permanently(record, report, options, failure, now, keep=self.keep)

    def refused(
        self, settlement: Settlement, record: JobRecord | None, error: Exception, now: datetime
    ) -> Settlement:
        """The store refuses what the job's outcome contains: fail it, with what it has accepted before.

        Without a `record` the job never ran here, and fails as its outcome has it.
        """
        failure = Failure(type="refused", message=f"the store refused the outcome: {reason(error)}")
        if record is not None:
            return fail_undecodable(record, failure, now, keep=self.keep)
        lease = settlement.outcome.lease
        outcome = replace(
            settlement.outcome,
            state=JobState.FAILED,
            report=Report(error=failure).encode(final=True),
            delay=None,
            run_at=None,
            spawn=(),
        )
        event = JobFailed(queue_name=lease.queue, job_id=lease.id, at=now, reason=failure.message)
        run_log = RunLog(None, now, failure=failure)
        return replace(settlement, outcome=outcome, events=(event,), pause=None, run_log=run_log)

    def _completed(self, run: Run, value: Any, now: datetime) -> Settlement:
        record, report = run.record, run.report
        if run.children:
            return self._awaiting(run, now)
        try:
            result = decode(self.encoded(record.name, value))
        except BaseException as error:  # noqa: BLE001 - a value of the user's own class may raise anything
            text = f"the handler's result cannot be stored: {Failure.of(error).message}"
            failure = Failure.of(UnserialisableResultError(text))
            self._note(run, "failed", now, failure)
            report.error = failure
            run_log = _run_log(run, now, failure)
            return self._fail_permanently(run, failure, now, run_log)
        report.result = result
        report.error = None
        self._note(run, "completed", now)
        return Settlement(
            outcome=Outcome.completed(
                record,
                report.encode(final=True),
                retention=retention_of(record, JobState.COMPLETED, report, run.settings, by_worker=self.keep),
            ),
            events=(event_of(JobCompleted, record, now),),
            parent=record.parent,
            has_children=bool(run.settings.children or report.children),
            run_log=_run_log(run, now),
        )

    def _awaiting(self, run: Run, now: datetime) -> Settlement:
        """The handler has added children: the job runs again when they have ended. This result goes."""
        record, report = run.record, run.report
        report.error = None
        known = {*run.settings.children, *report.children}
        report.children += [
            child.id for child in run.children if child.parent == record.key and child.id not in known
        ]
        self._note(run, "completed", now)
        return Settlement(
            outcome=Outcome.awaiting(record, report.encode(), children=tuple(run.children)),
            events=(event_of(JobWaitingChildren, record, now),),
            run_log=_run_log(run, now),
        )

    def _signalled(self, run: Run, raised: Raised, now: datetime) -> Settlement:
        record, report = run.record, run.report
        match raised.error:
            case Snooze(delay=delay):
                self._note(run, "snoozed", now)
                return Settlement(
                    outcome=Outcome.snoozed(record, report.encode(), delay=delay),
                    events=(event_of(JobDelayed if delay else JobWaiting, record, now),),
                    run_log=_run_log(run, now),
                )
            case RateLimited(delay=delay):
                self._note(run, "snoozed", now)
                return Settlement(
                    outcome=Outcome.snoozed(record, report.encode(), delay=_AT_ONCE),
                    events=(
                        event_of(JobWaiting, record, now),
                        QueuePaused(queue_name=record.queue, at=now, group=record.group),
                    ),
                    pause=(Pause(group=record.group), delay),
                    run_log=_run_log(run, now),
                )
            case Retry(delay=delay):
                return self._failed(run, raised.failure, now, raised.error, delay=delay)
            case Unrecoverable():
                return self._failed(run, raised.failure, now, raised.error, final=True)
            case _:
                return self._failed(run, raised.failure, now, raised.error)

    def _stalled(self, run: Run, how: str, now: datetime) -> Settlement:
        """What ran the job died, and how far it had come is not known: it is as if its worker had died."""
        record, report = run.record, run.report
        failure = Failure(type="ProcessDied", message=f"the process that ran it died: {how}")
        self._note(run, "stalled", now, failure)
        report.stalls = record.stalled + 1
        return Settlement(
            outcome=Outcome.stalled(record, report.encode()),
            events=(event_of(JobStalled, record, now), event_of(JobWaiting, record, now)),
            run_log=RunLog(
                record.name, now, report.failures + 1, run.settings.attempts, run.started_at, failure
            ),
        )

    def _cancelled(self, run: Run, now: datetime) -> Settlement:
        self._note(run, "cancelled", now)
        return Settlement(
            outcome=Outcome.cancelled(
                run.record,
                run.report.encode(final=True),
                release=release(run.record, run.settings),
                retention=retention_of(
                    run.record, JobState.CANCELLED, run.report, run.settings, by_worker=self.keep
                ),
            ),
            events=(event_of(JobCancelled, run.record, now),),
            parent=run.record.parent,
            has_children=bool(run.settings.children or run.report.children),
            run_log=_run_log(run, now),
        )

    def _failed(
        self,
        run: Run,
        failure: Failure,
        now: datetime,
        error: BaseException,
        *,
        outcome: str = "failed",
        delay: timedelta | None = None,
        final: bool = False,
    ) -> Settlement:
        record, report = run.record, run.report
        report.failures += 1
        report.error = failure
        self._note(run, outcome, now, failure)
        wait = None if final else self.retries.delay(run.record, report, run.settings, asked=delay)
        if wait is None:
            run_log = _run_log(run, now, failure, error)
            return self._fail_permanently(run, failure, now, run_log)
        event = event_of(JobRetrying, record, now, reason=failure.message, attempts_made=report.failures)
        return Settlement(
            outcome=Outcome.retry(record, report.encode(), delay=wait),
            events=(event, event_of(JobDelayed if wait else JobWaiting, record, now)),
            run_log=_run_log(run, now, failure, error),
        )

    def _fail_permanently(self, run: Run, failure: Failure, now: datetime, run_log: RunLog) -> Settlement:
        return fail_permanently(
            run.record, run.report, run.settings, failure, now, keep=self.keep, run_log=run_log
        )

    def _note(self, run: Run, outcome: str, now: datetime, failure: Failure | None = None) -> None:
        run.report.ended(outcome, worker=self.worker, started_at=run.started_at, ended_at=now, error=failure)


def _is_broken_off(run: Run, ending: Ending) -> bool:
    """Whether the worker's end is the reason why the run ended."""
    match run.stop, ending:
        case (Stop.SHUTDOWN, Raised(asyncio.CancelledError())) | (None, Raised(outside=True)):
            return True
        case Stop.SHUTDOWN, Returned():
            return run.noticed and run.decision is None
        case _:
            return False


def _so(run: Run) -> str:
    if run.in_thread:
        return "goes on in its thread, which nothing can stop"
    return "was cancelled" if run.call is None else "its process was killed"


def _run_log(
    run: Run, now: datetime, failure: Failure | None = None, error: BaseException | None = None
) -> RunLog:
    # A failure that the handler raised is counted in the report already.
    attempt = run.report.failures + (error is None)
    return RunLog(run.record.name, now, attempt, run.settings.attempts, run.started_at, failure, error)
