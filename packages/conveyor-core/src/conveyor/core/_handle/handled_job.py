"""A job as its running handler has it: what it writes goes under the lease of its run."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from conveyor.core._handle.control import JobControl
from conveyor.core._jobs import edits
from conveyor.core._jobs.edits import ASIDE
from conveyor.core._jobs.run_context import statement_from_threads
from conveyor.core.durations import Duration, duration, instant
from conveyor.core.errors import InvalidJobStateError, InvalidOptionError, LeaseLostError
from conveyor.core.events import JobProgress
from conveyor.core.signals import Snooze, Unrecoverable
from conveyor.core.store import TERMINAL, Change, JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from conveyor.core._jobs.flow_graph import FlowJob
    from conveyor.core._jobs.report import Report
    from conveyor.core._jobs.run_context import AnyQueue, RunContext
    from conveyor.core.signals import Signal
    from conveyor.core.store import JobRecord

T = TypeVar("T", default=Any)
R = TypeVar("R", default=Any)

_WHOLE = 100


class HandledJob(JobControl[T, R], Generic[T, R]):
    """A job whose handler writes under its lease; outside of a run, it is written to as by any program."""

    _max_bytes: int
    #: Whether it was read again after its run was over: until then the report is the run's own.
    _read_since: bool

    def encoded(self, data: T) -> str:
        """Data of the job's type as JSON text. Not for users. Raises PayloadError if it cannot be stored."""
        return self._payload.encode(data, self._max_bytes)

    @property
    def cancelled(self) -> bool:
        """In a handler: whether it should stop. Elsewhere: whether the job was cancelled."""
        # Also once the run has ended: a thread that went on after its timeout still looks.
        return (self._run is not None and self._run.cancelled) or super().cancelled

    @statement_from_threads
    async def update_progress(self, progress: float) -> None:
        """Say how far the handler is, from 0 to 100; stored when this returns.

        Raises LeaseLostError if the job is no longer this handler's, InvalidJobStateError if it runs
        elsewhere or has finished.
        """
        if (
            isinstance(progress, bool)
            or not isinstance(progress, (int, float))
            or not 0 <= progress <= _WHOLE
        ):
            raise InvalidOptionError("progress", progress, "it is a number from 0 to 100")
        await self._note(lambda report: setattr(report, "progress", progress))
        await self._publish(JobProgress(**self._of_event(), progress=progress))

    @statement_from_threads
    async def log(self, line: str) -> None:
        """Keep a line with the job: stored within a moment, and in any case with the run's outcome.

        Raises LeaseLostError if the job is known to be no longer this handler's, InvalidJobStateError if it
        runs elsewhere or has finished.
        """
        if (run := self._own_run()) is not None:
            run.report.log(str(line))
            run.write_soon()
            return
        await self._note(lambda report: report.log(str(line)))

    @statement_from_threads
    async def clear_logs(self) -> None:
        """Forget the lines logged so far; those of a finished job, too.

        Raises LeaseLostError if the job is no longer this handler's, InvalidJobStateError if it runs
        elsewhere.
        """
        await self._note(lambda report: report.logs.clear(), ASIDE | TERMINAL)

    @statement_from_threads
    async def discard(self) -> None:
        """Make the next failure final. For the job's handler, and for jobs that are not running."""
        await self._note(lambda report: setattr(report, "discarded", True))

    @statement_from_threads
    async def move_to_delayed(self, when: Duration | datetime) -> None:
        """From the handler: when it returns, run the job again at or after `when`; no attempt is used."""
        if isinstance(when, datetime):
            wait = max(instant(when, "when") - self._clock.now(), timedelta(0))
        else:
            wait = duration(when, "when")
        self._decide("move_to_delayed", Snooze(wait))

    @statement_from_threads
    async def move_to_failed(self, reason: str) -> None:
        """From the handler: when it returns, fail the job for good."""
        self._decide("move_to_failed", Unrecoverable(reason))

    @statement_from_threads
    async def add_children(self, children: Iterable[FlowJob], *, queues: Iterable[AnyQueue] = ()) -> None:
        """From the handler: when it returns, add these jobs, and run this one again when they have ended.

        What it returns is not kept then. They are added if, and only if, it returns: not if it raises, asks
        for a later run or a failure, is cancelled, timed out or shut down. Children that the job has already,
        by their ids, are passed over, so that a second run may say the same as the first.

        `queues` give their payload types and default options to the jobs of these queues; `max_size` of a
        group is not looked at. Raises InvalidOptionError or PayloadError with the path of the job concerned,
        JobExistsError if an id is taken by another job, UnsupportedFeatureError if the store offers no flows.
        """
        run = self._own_run()
        if run is None:
            raise self._not_running("add_children")
        await run.add_children(children, queues)

    @statement_from_threads
    async def update_data(self, data: T) -> None:
        """Replace what the job was added with.

        Raises PayloadError for data that cannot be stored, InvalidJobStateError if the job has finished.
        """
        await self.write_data(self.encoded(data))

    async def write_data(self, text: str) -> None:
        """Replace the data by JSON text that fits. Not for users."""
        if (run := self._own_run()) is not None:
            await run.write(text)
        else:
            await self._change(Change(payload=text), *ASIDE, JobState.ACTIVE)
            await self._wake()
        self._record = replace(self._record, payload=text)
        self._decoded = False

    # --------------------------------------------------------------- below

    @property
    def _report(self) -> Report:
        if self._run is not None and not self._read_since:
            return self._run.report
        return super()._report

    def _took(self, record: JobRecord) -> None:
        super()._took(record)
        self._read_since = self._run is not None and self._run.over

    def _own_run(self) -> RunContext | None:
        """The run that this job was given to, to write through; None for a job that was read or added.

        Raises LeaseLostError once that run is over: what it left behind may be at work beside the next one.
        """
        if self._run is not None and self._run.over:
            raise LeaseLostError(self.id)
        return self._run

    def _decide(self, method: str, signal: Signal) -> None:
        run = self._own_run()
        if run is None:
            raise self._not_running(method)
        run.decide(signal)

    def _not_running(self, method: str) -> InvalidJobStateError:
        return InvalidJobStateError(self.id, self.state, (), f"{method} is for the job's own handler")

    async def _note(self, edit: Callable[[Report], object], states: frozenset[JobState] = ASIDE) -> None:
        """Edit the report: under the handler's lease, or of a job in one of these states."""
        if (run := self._own_run()) is not None:
            edit(run.report)
            await run.write()
            return
        self._took(await edits.edit_report(self._store, self._key, edit, states))
        await self._wake()
