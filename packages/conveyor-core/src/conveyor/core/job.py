"""Job: what `add` returns, and what a handler receives."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from conveyor.core._inspect import follow
from conveyor.core._jobs import actions, remove
from conveyor.core._jobs.actions import ASIDE
from conveyor.core._jobs.dead_letters import DeadLetter, dead_letter
from conveyor.core._jobs.dependencies import FAILED
from conveyor.core._jobs.lookup import read
from conveyor.core._jobs.parents import failure_of
from conveyor.core._jobs.payload import MAX_BYTES, Payload
from conveyor.core._jobs.report import Report
from conveyor.core._jobs.run_context import from_threads, statement_from_threads
from conveyor.core.durations import Duration, duration, instant
from conveyor.core.errors import (
    InvalidJobStateError,
    InvalidOptionError,
    JobNotFoundError,
    LeaseLostError,
)
from conveyor.core.events import (
    JobDelayed,
    JobProgress,
    JobWaiting,
)
from conveyor.core.options import INT32, JobOptions, whole
from conveyor.core.signals import Snooze, Unrecoverable
from conveyor.core.store import TERMINAL, Change, JobState, Where

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from conveyor.core._jobs.flow_graph import FlowJob
    from conveyor.core._jobs.report import Attempt
    from conveyor.core._jobs.run_context import AnyQueue, RunContext
    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.signals import Signal
    from conveyor.core.store import JobKey, JobRecord, Store

#: The type of the data, and that of the result.
T = TypeVar("T", default=Any)
R = TypeVar("R", default=Any)

_WHOLE = 100
_PAGE = 1_000


class Job(Generic[T, R]):
    """A job as it was when last read, and what can be done with it.

    The properties are a snapshot: `refresh` reads the job again. Inside a handler that is a plain function,
    and so runs in a thread, the methods block and return their results themselves.

    A handler writes under its job's lease. Once its run is over, the job that it was given can be read, and
    dealt with as by anybody (`retry`, `remove`, `cancel`, `promote`, …), but what writes for the run raises
    LeaseLostError: progress, logs and data, `discard`, `add_children`, `move_to_delayed`, `move_to_failed`.
    """

    def __init__(
        self,
        store: Store,
        record: JobRecord,
        payload: Payload[T],
        clock: Clock,
        *,
        result: Payload[R] | None = None,
        deduplicated: bool = False,
        max_bytes: int = MAX_BYTES,
        hold: RunContext | None = None,
    ) -> None:
        """Made by queues and workers."""
        self._store = store
        self._record = record
        self._payload = payload
        self._result: Payload[R] = Payload() if result is None else result
        self._clock = clock
        self._max_bytes = max_bytes
        self._hold = hold
        self._data: T | None = None
        self._decoded = False
        self._snapshot: Report | None = None
        #: Whether it was read again after its run was over: until then the report is the run's own.
        self._read_since = False
        #: Whether `add` found this job there already, by its id or by its deduplication key.
        self.deduplicated = deduplicated

    def encoded(self, data: T) -> str:
        """Data of the job's type as JSON text. Not for users. Raises PayloadError if it cannot be stored."""
        return self._payload.encode(data, self._max_bytes)

    @property
    def record(self) -> JobRecord:
        """The record of the job as it was last read. Not for users."""
        return self._record

    @property
    def hold(self) -> RunContext | None:
        """The hold of the handler that this was given to. Not for users."""
        return self._hold

    def __repr__(self) -> str:
        """Never the data: it may be secret."""
        return f"<Job {self.name!r} {self.id} {self.state} in {self.queue_name!r}>"

    # ---------------------------------------------------------- what it is

    @property
    def id(self) -> str:
        """The job's id, unique in its queue."""
        return self._record.id

    @property
    def name(self) -> str:
        """What kind of job it is."""
        return self._record.name

    @property
    def queue_name(self) -> str:
        """The queue it was added to."""
        return self._record.queue

    @property
    def data(self) -> T:
        """What it was added with, of the queue's payload type if that has one.

        Raises PayloadError if what is stored does not fit the type.
        """
        if not self._decoded:
            self._data = self._payload.decode(self._record.payload)
            self._decoded = True
        return self._data  # type: ignore[return-value]

    @property
    def options(self) -> JobOptions:
        """Attempts, backoff, timeout, retention, and what a child's failure means to it."""
        return JobOptions.decode(self._record.options)

    @property
    def state(self) -> JobState:
        """Where it was in its life when it was last read."""
        return self._record.state

    @property
    def priority(self) -> int:
        """Lower runs first."""
        return self._record.priority

    @property
    def group_id(self) -> str | None:
        """The group it belongs to."""
        return self._record.group

    @property
    def deduplication_key(self) -> str | None:
        """The key it was added with, as stores keep it: for a payload, or a long key, a fingerprint."""
        return self._record.unique_key

    @property
    def parent_id(self) -> str | None:
        """The job that waits for this one."""
        return None if self._record.parent is None else self._record.parent.id

    @property
    def parent_queue_name(self) -> str | None:
        """The queue of the job that waits for this one."""
        return None if self._record.parent is None else self._record.parent.queue

    @property
    def children_ids(self) -> tuple[str, ...]:
        """The ids of its children, in their order: those it was added with, then those that it added itself.

        One whose deduplication key was held when it was to be added, or that was removed since, is among
        them.
        """
        try:
            known = self.options.children
        except (ValueError, TypeError, LookupError):
            known = ()
        return tuple(dict.fromkeys((*known, *self._report.children)))

    @property
    def schedule_key(self) -> str | None:
        """The key of the schedule that made it."""
        return self.options.schedule_key

    @property
    def scheduled_for(self) -> datetime | None:
        """When its schedule planned it for; it was made then, or later."""
        return self.options.scheduled_for

    @property
    def created_at(self) -> datetime | None:
        """When it was added, by the store's clock."""
        return self._record.created_at

    @property
    def processed_at(self) -> datetime | None:
        """When it was last claimed."""
        return self._record.processed_at

    @property
    def delay_until(self) -> datetime | None:
        """When it is due, while it is delayed."""
        return self._record.run_at

    @property
    def completed_at(self) -> datetime | None:
        """When it completed."""
        return self._record.finished_at if self.state is JobState.COMPLETED else None

    @property
    def failed_at(self) -> datetime | None:
        """When it failed for good."""
        return self._record.finished_at if self.state is JobState.FAILED else None

    @property
    def cancelled_at(self) -> datetime | None:
        """When it was cancelled."""
        return self._record.finished_at if self.state is JobState.CANCELLED else None

    @property
    def stalled_count(self) -> int:
        """How often a worker lost it: died, or was out of touch for longer than its lease."""
        return self._record.stalled

    @property
    def cancelled(self) -> bool:
        """In a handler: whether it should stop. Elsewhere: whether the job was cancelled."""
        # Also once the run has ended: a thread that went on after its timeout still looks.
        return (self._hold is not None and self._hold.cancelled) or self.state is JobState.CANCELLED

    # -------------------------------------------------- what its runs left

    @property
    def progress(self) -> float:
        """How far the handler said it is, from 0 to 100."""
        return self._report.progress

    @property
    def return_value(self) -> R | Any:
        """The result, once completed, of the queue's result type if that has one; None until then.

        Raises PayloadError if what is stored does not fit the type.
        """
        return None if self.state is not JobState.COMPLETED else self._result.of_json(self._report.result)

    @property
    def failed_reason(self) -> str | None:
        """The message of the last failure, also while it waits for a retry."""
        return None if self._report.error is None else self._report.error.message

    @property
    def attempts_made(self) -> int:
        """How many runs have failed."""
        return self._report.failures

    @property
    def logs(self) -> list[str]:
        """The lines logged so far, the last 1,000."""
        return list(self._report.logs)

    @property
    def stacktrace(self) -> list[str]:
        """The tracebacks of the failed runs in the history, oldest first."""
        return [attempt.traceback for attempt in self._report.history if attempt.traceback]

    @property
    def attempt_history(self) -> list[Attempt]:
        """The last 20 runs, oldest first."""
        return list(self._report.history)

    @property
    def discarded(self) -> bool:
        """Whether the next failure is final, whatever attempts are left."""
        return self._report.discarded

    @property
    def dead_letter_of(self) -> DeadLetter | None:
        """Of a job in a dead-letter queue: the job that failed, and how; None for any other job."""
        return dead_letter(self._record)

    @property
    def _report(self) -> Report:
        if self._hold is not None and not self._read_since:
            return self._hold.report
        if self._snapshot is None:
            try:
                self._snapshot = Report.of(self._record)
            except (ValueError, TypeError, LookupError):
                # Nothing here may stop a reader: an unreadable report says nothing.
                self._snapshot = Report()
        return self._snapshot

    def to_dict(self) -> dict[str, Any]:
        """Everything above as a plain dictionary; the data and the result as JSON has them."""
        names = (
            *("id", "name", "queue_name", "state", "priority", "group_id", "parent_id", "parent_queue_name"),
            *("children_ids", "deduplication_key", "dead_letter_of"),
            *("created_at", "processed_at", "delay_until", "completed_at", "failed_at", "cancelled_at"),
            *("stalled_count", "progress", "failed_reason", "attempts_made", "logs"),
            *("stacktrace", "attempt_history", "discarded", "options", "schedule_key", "scheduled_for"),
        )
        return {
            "data": Payload[Any]().decode(self._record.payload),
            "return_value": self._report.result if self.state is JobState.COMPLETED else None,
        } | {name: getattr(self, name) for name in names}

    # ---------------------------------------------------- reading it again

    @from_threads
    async def refresh(self) -> Job[T, R]:
        """Read the job again, and return it.

        Raises JobNotFoundError if it has been removed.
        """
        self._took(await self._read())
        return self

    @from_threads
    async def is_completed(self) -> bool:
        """Whether it is completed now."""
        return (await self._read()).state is JobState.COMPLETED

    @from_threads
    async def is_failed(self) -> bool:
        """Whether it has failed for good now."""
        return (await self._read()).state is JobState.FAILED

    @from_threads
    async def is_active(self) -> bool:
        """Whether a worker holds it now."""
        return (await self._read()).state is JobState.ACTIVE

    @from_threads
    async def wait_until_finished(self, timeout: Duration | None = None) -> R:
        """Wait until the job has finished, and return its result, of the queue's result type if that has one.

        Raises JobFailedError, JobCancelledError, JobRemovedError (so a job that is to be removed when it
        completes should be kept for a while, `remove_on_complete=Keep(age="1 minute")`), or WaitTimeoutError;
        the job then goes on. Raises PayloadError if the result does not fit the type.
        """
        limit = None if timeout is None else duration(timeout, "timeout")
        return self._result.of_json(await follow.outcome(self._store, self._key, self._clock, limit))

    def observe(self) -> AsyncIterator[Event]:
        """This job's events, until it has finished or been removed."""
        return follow.follow(self._store, self._key, self._clock, asyncio.Event(), known=True)

    # ----------------------------------------------------------- relatives

    @from_threads
    async def get_parent(self) -> Job[Any] | None:
        """The job that waits for this one, as it is now; None without one, or if it has been removed."""
        if self._record.parent is None:
            return None
        record = await read(self._store, self._record.parent)
        return None if record is None else self._relative(record)

    @from_threads
    async def get_dependencies(self) -> list[Job[Any]]:
        """The jobs that this one waits for, or waited for, in their order; those removed are left out."""
        return await self._relatives()

    @from_threads
    async def get_children_values(self) -> dict[str, Any]:
        """The results of this job's completed children, by their ids, in their order."""
        children = await self._relatives()
        return {child.id: child.return_value for child in children if child.state is JobState.COMPLETED}

    @from_threads
    async def get_failed_children(self) -> dict[str, str]:
        """Why this job's failed children failed, by their ids, in their order; "cancelled" if they were."""
        return {
            child.id: failure_of(child._record).message  # noqa: SLF001 - a job is its record, to us
            for child in await self._relatives()
            if child.state in FAILED
        }

    # --------------------------------------------------- from its handler

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
        await self._tell(JobProgress(**self._of_event(), progress=progress))

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

    # ------------------------------------------------------- from outside

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
            await self._change(Change(payload=text), (*ASIDE, JobState.ACTIVE))
            await self._wake()
        self._record = replace(self._record, payload=text)
        self._decoded = False

    @statement_from_threads
    async def change_delay(self, delay: Duration) -> None:
        """Let a delayed job be due that long from now.

        Raises InvalidJobStateError unless it is delayed.
        """
        await self._change(Change(delay=duration(delay, "delay", zero=False)), (JobState.DELAYED,))
        await self._tell(JobDelayed(**self._of_event()))

    @statement_from_threads
    async def change_priority(self, priority: int) -> None:
        """Give a waiting or delayed job another priority; it keeps its place within that.

        Raises InvalidJobStateError if it is neither.
        """
        whole(priority, "priority", least=-INT32 - 1)
        await self._change(Change(priority=priority), (JobState.WAITING, JobState.DELAYED))
        await self._wake()

    @statement_from_threads
    async def promote(self) -> None:
        """Let a delayed job run now.

        Raises InvalidJobStateError unless it is delayed.
        """
        await self._change(Change(delay=timedelta(0)), (JobState.DELAYED,))
        await self._tell(JobWaiting(**self._of_event()))

    @statement_from_threads
    async def retry(self) -> None:
        """Run a finished job again, with all its attempts; its logs and history are kept.

        A parent that failed for it is reopened, and waits for it again.

        Raises InvalidJobStateError unless it is completed, failed or cancelled, and if another job
        holds its deduplication key now.
        """
        await self._change(Change(retry=True), tuple(sorted(TERMINAL)))
        reopened = await actions.reopened(self._store, [self._record], self._clock)
        await self._tell(JobWaiting(**self._of_event()), *reopened)

    @statement_from_threads
    async def remove(self) -> None:
        """Remove the job; one that is not there is none any more, which is fine.

        Raises InvalidJobStateError if it is active: cancel it first.
        """
        await remove.remove(self._store, self._key, self._clock)

    @from_threads
    async def cancel(self) -> bool:
        """Cancel the job, at once if it is not running; else its handler is cancelled within a second.

        Its unfinished children are cancelled, too, and theirs. False if it has finished, or is not there any
        more. A handler that ends before it hears of this ends as it does: `wait_until_finished` tells.
        """
        return await actions.cancel(self._store, self._key, self._clock)

    # --------------------------------------------------------------- below

    @property
    def _key(self) -> JobKey:
        return self._record.key

    def _own_run(self) -> RunContext | None:
        """The run that this job was given to, to write through; None for a job that was read or added.

        Raises LeaseLostError once that run is over: what it left behind may be at work beside the next one.
        """
        if self._hold is not None and self._hold.over:
            raise LeaseLostError(self.id)
        return self._hold

    def _of_event(self) -> dict[str, Any]:
        return {"queue_name": self.queue_name, "job_id": self.id, "at": self._clock.now()}

    def _relative(self, record: JobRecord) -> Job[Any]:
        return Job(self._store, record, Payload[Any](), self._clock, max_bytes=self._max_bytes)

    async def _relatives(self) -> list[Job[Any]]:
        found: list[JobRecord] = []
        children = Where(parent=self._key)
        while page := await self._store.find(children, limit=_PAGE, after=found[-1] if found else None):
            found += page
        order = {job_id: n for n, job_id in enumerate(self.children_ids)}
        found.sort(key=lambda record: order.get(record.id, len(order)))
        return [self._relative(record) for record in found]

    async def _tell(self, *events: Event) -> None:
        await self._store.bus.publish(events)

    async def _wake(self) -> None:
        """Have workers look for a waiting job that was written to: their claims pass over what others write.

        Pinned by test_a_line_beside_a_claim_is_kept_or_refused.
        """
        if self.state is JobState.WAITING:
            await self._tell(JobWaiting(**self._of_event()))

    async def _read(self) -> JobRecord:
        record = await read(self._store, self._key)
        if record is None:
            raise JobNotFoundError(self.queue_name, self.id)
        return record

    def _took(self, record: JobRecord) -> None:
        self._record = record
        self._decoded = False
        self._snapshot = None
        self._read_since = self._hold is not None and self._hold.over

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
        self._took(await actions.edit_report(self._store, self._key, edit, states))
        await self._wake()

    async def _change(self, change: Change, states: tuple[JobState, ...]) -> None:
        """Apply a change if the job is in one of these states."""
        where = Where(queue=self.queue_name, ids=frozenset({self.id}), states=frozenset(states))
        applied = await self._store.update(where, change)
        found = await self._read()
        if not applied:
            hint = ""
            if change.retry and found.state in states and found.unique_key is not None:
                holders = await self._store.find(
                    Where(queue=self.queue_name, unique_key=found.unique_key), limit=1
                )
                if holders:
                    # It is in a state that would do.
                    states = ()
                    hint = f"it cannot be retried while job {holders[0].id!r} holds its deduplication key"
            raise InvalidJobStateError(self.id, found.state, states, hint)
        self._took(found)
