"""The document that a job's runs leave behind: result, error, progress, logs and history.

Core's own: a store keeps its text and does not look into it.
"""

from __future__ import annotations

import traceback as tracebacks
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json, to_json

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
    progress: float = 0
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
    over: bool = field(default=False, compare=False)
    #: No more retries, whatever attempts are left.
    discarded: bool = False
    #: Of a dead letter: the job that failed. See `dead_letters.py`.
    dead_letter_of: dict[str, Any] | None = None

    @classmethod
    def of(cls, record: JobRecord) -> Report:
        """The report of a job as its state has it.

        Raises ValueError, TypeError or LookupError if it cannot be read.
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

        Raises ValueError, TypeError or LookupError if it cannot be read.
        """
        if text == "{}":
            return cls()
        found: Any = from_json(text)
        if not isinstance(found, dict):
            raise TypeError("a job's report is a JSON object")
        report = cls(
            logs=list(found.get("logs", ())),
            runs=int(found.get("runs", 0)),
            history=[_attempt(entry) for entry in found.get("history", ())],
            children=[str(child) for child in found.get("children", ())],
            over=bool(found.get("final")),
            dead_letter_of=found.get("dead_letter_of"),
        )
        if finished or not found.get("final"):
            report.result = found.get("result")
            report.error = Failure(**found["error"]) if found.get("error") else None
            report.progress = found.get("progress", 0)
            report.failures = int(found.get("failures", 0))
            report.stalls = int(found.get("stalls", 0))
            report.discarded = bool(found.get("discarded", False))
        return report

    def encode(self, *, final: bool = False) -> str:
        """JSON text of what there is; `final` for the outcome that finishes the job."""
        error = self.error
        found: dict[str, Any] = {
            "final": final,
            "error": error and {"type": error.type, "message": error.message, "traceback": error.traceback},
            "progress": self.progress,
            "failures": self.failures,
            "stalls": self.stalls,
            "discarded": self.discarded,
            "logs": self.logs,
            "runs": self.runs,
            "history": [_entry(attempt) for attempt in self.history],
            "children": self.children,
            "dead_letter_of": self.dead_letter_of,
        }
        found = {name: value for name, value in found.items() if value}
        if self.result is not None:
            found["result"] = self.result
        return to_json(found).decode()

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


def _attempt(entry: dict[str, Any]) -> Attempt:
    started, ended = entry.get("started_at"), entry.get("ended_at")
    return Attempt(
        number=entry["number"],
        worker=entry["worker"],
        started_at=None if started is None else datetime.fromisoformat(started),
        ended_at=None if ended is None else datetime.fromisoformat(ended),
        outcome=entry["outcome"],
        error_type=entry.get("error_type"),
        message=entry.get("message"),
        traceback=entry.get("traceback"),
    )


def _entry(attempt: Attempt) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "number": attempt.number,
        "worker": attempt.worker,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "outcome": attempt.outcome,
    }
    if attempt.error_type is not None:
        entry |= {
            "error_type": attempt.error_type,
            "message": attempt.message,
            "traceback": attempt.traceback,
        }
    return entry


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
