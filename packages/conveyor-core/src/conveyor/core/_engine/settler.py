"""Writing outcomes, in batches, and publishing what was applied."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.refusals import concerns_store, reason, write_in_parts
from conveyor.core._jobs.run_log import log_runs
from conveyor.core._jobs.settlements import events_of
from conveyor.core.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from conveyor.core._engine.error_backoff import ErrorBackoff
    from conveyor.core._engine.heartbeat import Heartbeat
    from conveyor.core._engine.outcome_policy import OutcomePolicy
    from conveyor.core._engine.worker_context import WorkerContext
    from conveyor.core._jobs.settlements import Settlement
    from conveyor.core.store import Lease, Settled

_log: Final = logging.getLogger("conveyor.worker")

#: The most outcomes in one step, so that no step holds up the others for long.
_MOST: Final = 500
#: The most jobs that one line of the log names.
_SHOWN: Final = 10


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Settler:
    """Writes settlements as they come: a lone one at once, the rest as soon as the previous batch is done."""

    context: WorkerContext
    heartbeat: Heartbeat
    policy: OutcomePolicy
    backoff: ErrorBackoff
    #: Called for each settlement that is not to be written any more.
    applied: Callable[[Settlement], None]
    #: Called for each batch that was written.
    written: Callable[[Sequence[Settlement], Settled], None]
    _waiting: dict[Lease, Settlement] = field(init=False, default_factory=dict)
    _task: asyncio.Task[None] | None = field(init=False, default=None)
    _abandoned: bool = field(init=False, default=False)

    @property
    def backlog(self) -> int:
        """How many settlements are not written yet."""
        return len(self._waiting)

    def put(self, settlement: Settlement) -> None:
        """Write this soon; after `abandon`, and when the event loop ends, never."""
        if self._abandoned:
            return
        self._waiting[settlement.outcome.lease] = settlement
        if (self._task is None or self._task.done()) and not self.context.state.loop_ends:
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
            try:
                await write_in_parts(list(islice(self._waiting.values(), _MOST)), self._write, self._refused)
            except Exception as error:  # noqa: BLE001 - nothing may end this in silence: logged, and tried again
                await self.backoff.wait(error)
            else:
                self.backoff.succeeded()

    async def _refused(self, settlement: Settlement, error: Exception) -> None:
        """The store takes the others, and not this one: its job has failed, or is left to its lease's end."""
        lease = settlement.outcome.lease
        if not isinstance(error, StoreError) or settlement.outcome.report is None:
            # A bug, which need not meet the next run; or a job that goes back as it was, and need not fail.
            _log.error("the outcome of job %s could not be written", lease.id, exc_info=error)
            self._forget(settlement)
            return
        _log.error("the store refuses the outcome of job %s (%s); it fails: %s", lease.id, lease.queue, error)
        held = self.heartbeat.held_by(lease)
        instead = self.policy.refused(
            settlement, None if held is None else held.record, error, self.context.clock.now()
        )
        try:
            await self._write([instead])
        except Exception as again:
            if concerns_store(again):
                raise
            _log.error(
                "job %s (%s) could not be failed either, and is left to its lease's end: %s",
                lease.id,
                lease.queue,
                reason(again),
            )
            self._forget(settlement)

    def _forget(self, settlement: Settlement) -> None:
        lease = settlement.outcome.lease
        self._waiting.pop(lease, None)
        self.heartbeat.drop([lease])
        self.applied(settlement)

    async def _write(self, batch: Sequence[Settlement]) -> None:
        for queue, (what, time) in dict.fromkeys(
            (settlement.outcome.lease.queue, settlement.pause)
            for settlement in batch
            if settlement.pause is not None
        ):
            await self.context.store.pause(queue, what, time)
        settled = await self.context.store.settle([settlement.outcome for settlement in batch])
        for settlement in batch:
            self._waiting.pop(settlement.outcome.lease, None)
        self.heartbeat.drop(settlement.outcome.lease for settlement in batch)
        late = [one.outcome for one in batch if one.outcome.lease not in settled.applied]
        if late:
            _log.warning(
                "%d outcome(s) came too late: the lease was lost, and another run decides: %s",
                len(late),
                shown(f"{outcome.lease.id} ({outcome.state})" for outcome in late),
            )
        log_runs((one for one in batch if one.outcome.lease in settled.applied), self.policy.worker)
        for settlement in batch:
            self.applied(settlement)
        self.context.publisher.publish(events_of(batch, settled, self.context.clock.now()))
        self.written(batch, settled)


def shown(names: Iterable[str]) -> str:
    """The first few of them, for one line of the log: after an outage there are hundreds."""
    known = list(names)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return ", ".join(known[:_SHOWN]) + more
