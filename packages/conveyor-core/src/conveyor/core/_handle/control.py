"""A job's remote control: what any program that knows the store can do with a job, and wait for."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from conveyor.core._handle.snapshot import JobSnapshot
from conveyor.core._inspect import follow
from conveyor.core._jobs import cancel, edits, remove_and_release, retry_by_hand
from conveyor.core._jobs.lookup import read
from conveyor.core._jobs.run_context import from_threads, statement_from_threads
from conveyor.core.durations import Duration, duration
from conveyor.core.errors import JobNotFoundError
from conveyor.core.events import JobDelayed, JobWaiting
from conveyor.core.job_options import INT32, whole
from conveyor.core.store import TERMINAL, Change, JobState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conveyor.core._jobs.run_context import RunContext
    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.store import JobRecord, Store

T = TypeVar("T", default=Any)
R = TypeVar("R", default=Any)


class JobControl(JobSnapshot[T, R], Generic[T, R]):
    """A job that can be read again, waited for, changed, cancelled and removed by any program."""

    _store: Store
    _clock: Clock
    _run: RunContext | None

    @property
    def run_context(self) -> RunContext | None:
        """The run of the handler that this was given to. Not for users."""
        return self._run

    # ---------------------------------------------------- reading it again

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

    # ------------------------------------------------------- from outside

    @statement_from_threads
    async def change_delay(self, delay: Duration) -> None:
        """Let a delayed job be due that long from now.

        Raises InvalidJobStateError unless it is delayed.
        """
        await self._change(Change(delay=duration(delay, "delay", zero=False)), JobState.DELAYED)
        await self._publish(JobDelayed(**self._of_event()))

    @statement_from_threads
    async def change_priority(self, priority: int) -> None:
        """Give a waiting or delayed job another priority; it keeps its place within that.

        Raises InvalidJobStateError if it is neither.
        """
        whole(priority, "priority", least=-INT32 - 1)
        await self._change(Change(priority=priority), JobState.WAITING, JobState.DELAYED)
        await self._wake()

    @statement_from_threads
    async def promote(self) -> None:
        """Let a delayed job run now.

        Raises InvalidJobStateError unless it is delayed.
        """
        await self._change(Change(delay=timedelta(0)), JobState.DELAYED)
        await self._publish(JobWaiting(**self._of_event()))

    @statement_from_threads
    async def retry(self) -> None:
        """Run a finished job again, with all its attempts; its logs and history are kept.

        A parent that failed for it is reopened, and waits for it again.

        Raises InvalidJobStateError unless it is completed, failed or cancelled, and if another job
        holds its deduplication key now.
        """
        await self._change(Change(retry=True), *sorted(TERMINAL))
        reopened = await retry_by_hand.reopened(self._store, [self._record], self._clock)
        await self._publish(JobWaiting(**self._of_event()), *reopened)

    @statement_from_threads
    async def remove(self) -> None:
        """Remove the job; one that is not there is none any more, which is fine.

        Raises InvalidJobStateError if it is active: cancel it first.
        """
        await remove_and_release.remove(self._store, self._key, self._clock)

    @from_threads
    async def cancel(self) -> bool:
        """Cancel the job, at once if it is not running; else its handler is cancelled within a second.

        Its unfinished children are cancelled, too, and theirs. False if it has finished, or is not there any
        more. A handler that ends before it receives this ends as it does: `wait_until_finished` says how.
        """
        return await cancel.cancel(self._store, self._key, self._clock)

    # --------------------------------------------------------------- below

    def _of_event(self) -> dict[str, Any]:
        return {"queue_name": self.queue_name, "job_id": self.id, "at": self._clock.now()}

    async def _publish(self, *events: Event) -> None:
        await self._store.bus.publish(events)

    async def _wake(self) -> None:
        """Have workers look for a waiting job that was written to: their claims pass over what others write.

        Pinned by test_a_line_beside_a_claim_is_kept_or_refused.
        """
        if self.state is JobState.WAITING:
            await self._publish(JobWaiting(**self._of_event()))

    async def _read(self) -> JobRecord:
        record = await read(self._store, self._key)
        if record is None:
            raise JobNotFoundError(self.queue_name, self.id)
        return record

    async def _change(self, change: Change, *states: JobState) -> None:
        """Apply a change if the job is in one of these states."""
        self._took(await edits.change(self._store, self._key, change, states))
