"""Writing outcomes, in batches, and telling what was applied."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from conveyor.core.errors import StoreError
from conveyor.core.events import JobDelayed, JobWaiting, JobWaitingChildren
from conveyor.core.jobs import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime, timedelta

    from conveyor.core._engine.announcer import Announcer
    from conveyor.core._engine.heartbeat import Heartbeat
    from conveyor.core._engine.outage import Outage
    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.jobs import JobKey, JobRecord
    from conveyor.core.store import Inserted, Outcome, Pause, Settled, Store

_log: Final = logging.getLogger("conveyor.worker")

#: The most outcomes in one step, so that no step holds up the others for long.
_MOST: Final = 500
#: The most jobs that one line of the log names.
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An outcome, what to tell once it is applied, and what to pause before it is."""

    outcome: Outcome
    events: tuple[Event, ...] = ()
    pause: tuple[Pause, timedelta] | None = None
    #: The job's parent, and whether it is one itself: for what follows from a job's end in its family.
    parent: JobKey | None = None
    has_children: bool = False


class Settler:
    """Writes verdicts as they come: a lone one at once, the rest as soon as the previous batch is done."""

    def __init__(
        self,
        *,
        store: Store,
        heartbeat: Heartbeat,
        announcer: Announcer,
        outage: Outage,
        clock: Clock,
        applied: Callable[[Verdict], None],
        written: Callable[[Sequence[Verdict], Settled], None],
    ) -> None:
        self._store = store
        self._heartbeat = heartbeat
        self._announcer = announcer
        self._outage = outage
        self._clock = clock
        self._applied = applied
        self._written = written
        self._waiting: list[Verdict] = []
        self._task: asyncio.Task[None] | None = None
        self._abandoned = False

    @property
    def backlog(self) -> int:
        """How many verdicts are not written yet."""
        return len(self._waiting)

    def put(self, verdict: Verdict) -> None:
        """Write this soon; after `abandon`, never."""
        if self._abandoned:
            return
        self._waiting.append(verdict)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._write_all())

    async def flush(self) -> None:
        """Return when everything put so far is written."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Stop trying: what is not written by now is left to its leases' end."""
        self._abandoned = True
        if self._task is not None:
            self._task.cancel()

    async def _write_all(self) -> None:
        while self._waiting and not self._abandoned:
            batch = self._waiting[:_MOST]
            try:
                await self._write(batch)
            except StoreError as error:
                await self._outage.wait(error)
                continue
            except Exception as error:  # noqa: BLE001 - a store's bug must not take the other jobs of the batch with it
                await self._one_by_one(batch, error)
            else:
                self._outage.over()
            del self._waiting[: len(batch)]

    async def _one_by_one(self, batch: Sequence[Verdict], error: Exception) -> None:
        for verdict in batch:
            try:
                await self._write([verdict])
            except StoreError as trouble:
                self._outage.failed(trouble)
                self._waiting.append(verdict)  # for later, behind the others
            except Exception:  # noqa: BLE001 - reported, with the job's id, and left to the end of its lease
                _log.exception("the outcome of job %s could not be written", verdict.outcome.lease.id)
                self._heartbeat.drop([verdict.outcome.lease])
                self._applied(verdict)
        _log.warning("a batch of %d outcomes failed (%s) and was written one by one", len(batch), error)

    async def _write(self, batch: Sequence[Verdict]) -> None:
        for queue, (what, time) in dict.fromkeys(
            (verdict.outcome.lease.queue, verdict.pause) for verdict in batch if verdict.pause is not None
        ):
            await self._store.pause(queue, what, time)
        settled = await self._store.settle([verdict.outcome for verdict in batch])
        self._heartbeat.drop(verdict.outcome.lease for verdict in batch)
        late = [v.outcome for v in batch if v.outcome.lease not in settled.applied]
        if late:
            _log.warning(
                "%d outcome(s) came too late: the lease was lost, and another run decides: %s",
                len(late),
                shown(f"{outcome.lease.id} ({outcome.state})" for outcome in late),
            )
        for verdict in batch:
            self._applied(verdict)
        self._announcer.tell(events_of(batch, settled, self._clock.now()))
        self._written(batch, settled)


def events_of(batch: Sequence[Verdict], settled: Settled, at: datetime) -> list[Event]:
    """What to tell of verdicts that were written."""
    events = [e for v in batch if v.outcome.lease in settled.applied for e in v.events]
    events.extend(JobWaiting(queue_name=key.queue, job_id=key.id, at=at) for key in settled.released)
    events.extend(told(found, at) for found in settled.spawned if found.created)
    created = {found.key for found in settled.spawned if found.created}
    events.extend(
        JobWaiting(queue_name=v.outcome.lease.queue, job_id=v.outcome.lease.id, at=at)
        for v in batch
        # It added children, all of which stood in for by others: it waits for none.
        if v.outcome.state is JobState.WAITING_CHILDREN and not created.intersection(_keys(v.outcome.spawn))
    )
    return events


def _keys(records: Sequence[JobRecord]) -> set[JobKey]:
    return {record.key for record in records}


def shown(names: Iterable[str]) -> str:
    """The first few of them, for one line of the log: after an outage there are hundreds."""
    known = list(names)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return ", ".join(known[:_SHOWN]) + more


def told(found: Inserted, at: datetime) -> Event:
    """The event of a job that was added."""
    kind = {JobState.DELAYED: JobDelayed, JobState.WAITING_CHILDREN: JobWaitingChildren}.get(
        found.state, JobWaiting
    )
    return kind(queue_name=found.key.queue, job_id=found.key.id, at=at)
