"""The line that each run of a job leaves in the log, once the store has accepted its outcome.

A failure for good is an error, with the traceback of what the handler raised; a failure after which the job
runs again is a warning; every other ending is for those who debug. A job's data and result are in no line.
What core says of data that it cannot read or write may quote them: of that the log has the type only, and
the job has the text. What a handler raises is logged as it is.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from conveyor.core.store import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from conveyor.core._jobs.report import Failure
    from conveyor.core._jobs.settlements import RunLog, Settlement

_log: Final = logging.getLogger("conveyor.worker")
#: The most of an error's text in one line; its traceback has all of it.
_LONGEST: Final = 300


def log_runs(applied: Iterable[Settlement], worker: str | None) -> None:
    """Log what became of jobs; an exception that several of them share has its traceback once.

    What a filter of the program's raises goes to its event loop's exception handler: the outcomes are
    written, and nothing may have them written again.
    """
    try:
        _log_runs(applied, worker)
    except Exception as error:  # noqa: BLE001 - a filter of logging's is the user's code: it may raise anything
        message = "the outcomes of jobs could not be logged"
        asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})


def _log_runs(applied: Iterable[Settlement], worker: str | None) -> None:
    debugs = _log.isEnabledFor(logging.DEBUG)
    shown: list[BaseException] = []
    for settlement in applied:
        run = settlement.run_log
        if run is None or not (debugs or run.failure is not None):
            continue
        fields = _fields(settlement, run, worker)
        if run.failure is None:
            text = "job %s (%s) of queue %r: %s%s"
            _log.debug(text, *_job(settlement), fields["outcome"], _after(run), extra=fields)
        elif settlement.outcome.stalls:
            text = "job %s (%s) of queue %r stalled%s: %s"
            _log.warning(text, *_job(settlement), _after(run), run.failure.message, extra=fields)
        elif settlement.outcome.state is not JobState.FAILED:
            text = "job %s (%s) of queue %r failed%s%s, and runs again at %s: %s"
            _log.warning(
                text,
                *_job(settlement),
                _tried(run),
                _after(run),
                fields["next_run_at"],
                _reason(run, run.failure),
                extra=fields,
            )
        else:
            error = None if any(run.error is one for one in shown) else run.error
            text = "job %s (%s) of queue %r failed for good%s%s: %s"
            args = (*_job(settlement), _tried(run), _after(run), _reason(run, run.failure))
            _log_error(text, args, error, run.failure.traceback, fields)
            if error is not None:
                shown.append(error)


def _log_error(
    text: str,
    args: tuple[object, ...],
    error: BaseException | None,
    traceback: str,
    fields: dict[str, object],
) -> None:
    """Log an error with the traceback that is kept of it: it may be of 10 MB, or no text that UTF-8 has.

    The exception itself is there for those who look at `exc_info`.
    """
    if not _log.isEnabledFor(logging.ERROR):
        return
    info = None if error is None else (type(error), error, error.__traceback__)
    record = _log.makeRecord(
        _log.name, logging.ERROR, __file__, 0, text, args, info, "log_runs", extra=fields
    )
    if error is not None:
        record.exc_text = traceback
    _log.handle(record)


def _fields(settlement: Settlement, run: RunLog, worker: str | None) -> dict[str, object]:
    """The `extra` of a line. Its names are public: the table is in docs/logging.md."""
    outcome = settlement.outcome
    word: str = outcome.state
    if outcome.state in (JobState.WAITING, JobState.DELAYED):
        word = "snoozed" if run.failure is None else "stalled" if outcome.stalls else "retrying"
    fields: dict[str, object] = {
        "job_id": outcome.lease.id,
        "job_name": run.name,
        "queue": outcome.lease.queue,
        "attempt": run.attempt,
        "attempts": run.attempts,
        "worker": worker,
        "outcome": word,
        "duration": run.duration,
        "error_type": None if run.failure is None else run.failure.type,
        "next_run_at": None if outcome.delay is None else (run.at + outcome.delay).isoformat(),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _job(settlement: Settlement) -> tuple[str, str, str]:
    lease, run = settlement.outcome.lease, settlement.run_log
    return lease.id, "?" if run is None or run.name is None else run.name, lease.queue


def _tried(run: RunLog) -> str:
    return "" if run.attempts is None else f" on attempt {run.attempt} of {run.attempts}"


def _after(run: RunLog) -> str:
    return "" if run.duration is None else f" after {run.duration:.3f} s"


def _reason(run: RunLog, failure: Failure) -> str:
    if run.error is None:
        return f"{failure.type} (its failed_reason says why)"
    text = " ".join(failure.message.split())
    return f"{failure.type}: {text if len(text) <= _LONGEST else text[:_LONGEST] + '…'}"
