"""The document that a job's runs leave behind: result, error, progress, logs and history.

Core's own: a store keeps its text and does not look into it.
"""

from __future__ import annotations

import traceback as tracebacks
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from conveyor.core import _documents

if TYPE_CHECKING:
    from conveyor.core.store import JobRecord

MOST_LOGS: Final = 1_000
MOST_ATTEMPTS: Final = 20
LONGEST_LOG: Final = 8_192
LONGEST_MESSAGE: Final = 8_192
LONGEST_TRACEBACK: Final = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a run, or a job, failed: text only, and short enough to keep."""

    type: str
    message: str
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """What is kept of an exception, whatever it is: nothing it does can fail this."""
        return cls(
            type=_clean(_name(error), 255),
            message=_clean(_message(error), LONGEST_MESSAGE),
            traceback=_clean(_traceback(error), LONGEST_TRACEBACK, keep_end=True),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of a job: `outcome` is completed, failed, timed-out, stalled, cancelled or snoozed.

    Of a run that stalled nothing but that is known: its worker died, or lost touch.
    """

    number: int
    worker: str | None
    started_at: datetime | None
    ended_at: datetime | None
    outcome: str
    error_type: str | None = None
    message: str | None = None
    traceback: str | None = None


@dataclass(slots=True, kw_only=True)
class Report:
    """A job's report, decoded, while a run adds to it."""

    result: Any = None
    error: Failure | None = None
    progress: int | float = 0
    logs: list[str] = field(default_factory=list)
    #: Failed runs so far.
    failures: int = 0
    #: Runs so far that are, or were, in the history.
    runs: int = 0
    history: list[Attempt] = field(default_factory=list)
    #: Stalled runs that are, or were, in the history.
    stalls: int = 0
    #: The ids of the children that its runs added, in their order.
    children: list[str] = field(default_factory=list)
    #: Whether it was written by the outcome that finished the job (before it was retried, if it was).
    final: bool = field(default=False, compare=False)
    #: No more retries, whatever attempts are left.
    discarded: bool = False
    #: Of a dead letter: the job that failed. See `dead_letters.py`.
    dead_letter_of: Any = None

    @classmethod
    def of(cls, record: JobRecord) -> Report:
        """The report of a job as its state has it.

        Raises ValueError if it cannot be read.
        """
        return cls.decode(record.report, finished=record.state.terminal)

    @classmethod
    def for_run(cls, record: JobRecord) -> Report:
        """The report that the run of a job just claimed goes on with; stalled runs are in its history."""
        report = cls.decode(record.report)
        for _ in range(record.stalled - report.stalls):
            report.ended("stalled")
        report.stalls = record.stalled
        return report

    @classmethod
    def decode(cls, text: str, *, finished: bool = False) -> Report:
        """A report from its text.

        What a job that is not `finished` has of an earlier life, from before it was retried by hand, is left
        out, save for logs, history and children.

        Raises ValueError if it cannot be read.
        """
        if text == "{}":
            return cls()
        report = _documents.decode(cls, text)
        if finished or not report.final:
            return report
        return cls(
            logs=report.logs,
            runs=report.runs,
            history=report.history,
            children=report.children,
            final=True,
            dead_letter_of=report.dead_letter_of,
        )

    def encode(self, *, final: bool = False) -> str:
        """JSON text of what there is; `final` for the outcome that finishes the job."""
        self.final = final
        return _documents.encode(self)

    def log(self, line: str) -> None:
        """Add a line; the oldest goes when there are too many."""
        self.logs.append(_clean(line, LONGEST_LOG))
        if len(self.logs) > MOST_LOGS:
            del self.logs[: len(self.logs) - MOST_LOGS]

    def ended(
        self,
        outcome: str,
        *,
        worker: str | None = None,
        started_at: datetime | None = None,
        ended_at: datetime | None = None,
        error: Failure | None = None,
    ) -> None:
        """Add a run to the history; the oldest goes when there are too many."""
        self.runs += 1
        self.history.append(
            Attempt(
                number=self.runs,
                worker=worker,
                started_at=started_at,
                ended_at=ended_at,
                outcome=outcome,
                error_type=None if error is None else error.type,
                message=None if error is None else error.message,
                traceback=None if error is None else error.traceback,
            )
        )
        del self.history[:-MOST_ATTEMPTS]


def _name(error: BaseException) -> str:
    # Not `type(error).__name__`: a metaclass may have its own idea of that.
    return "".join([type.__dict__["__name__"].__get__(type(error))])


def _message(error: BaseException) -> str:
    try:
        # Joined, the text of a subclass of str becomes plain text.
        return "".join(["", str(error)])
    except BaseException:  # noqa: BLE001 - a hostile __str__ may raise anything
        return f"<{type(error).__name__} whose text cannot be made>"


def _traceback(error: BaseException) -> str:
    try:
        return "".join(tracebacks.format_exception(error, limit=-50))
    except BaseException:  # noqa: BLE001 - a hostile __str__ may raise anything
        return ""


def _clean(text: str, most: int, *, keep_end: bool = False) -> str:
    """Text that every store can keep: no NUL, no lone surrogates, not too long."""
    if len(text) > most:
        text = "…" + text[1 - most :] if keep_end else text[: most - 1] + "…"
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
