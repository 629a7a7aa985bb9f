"""A worker's registration at its queue: made, kept by the heartbeat, removed at the end.

Nothing depends on it: whatever becomes of it, the worker goes on as it would without.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core import clock as time
from conveyor.core._jobs.ids import new_token
from conveyor.core._queue_names import workers_of
from conveyor.core.errors import StoreError
from conveyor.core.store import Beat, JobRecord, Outcome, Retention

if TYPE_CHECKING:
    from collections.abc import Callable

    from conveyor.core._engine.worker_context import WorkerContext
    from conveyor.core.store import Lease, Renewed

_log: Final = logging.getLogger("conveyor.worker")
_REMOVED: Final = Retention(age=timedelta(0))
#: A registration that failed is tried again this many times per lease.
_PER_LEASE: Final = 3


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Registration:
    """Keeps the worker in its queue's registry, as a job that it has leased itself.

    `payload` makes what it says of itself.
    """

    context: WorkerContext
    id: str
    payload: Callable[[], str]
    _record: JobRecord | None = field(init=False, default=None)
    _failing: bool = field(init=False, default=False)
    _absent: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _leaving: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def beat(self) -> Beat | None:
        """What goes with the next renewal of leases; None if the worker is not registered."""
        if self._record is None:
            return None
        return Beat(lease=self._record.lease, payload=self.payload())

    @property
    def lease(self) -> Lease | None:
        """The lease on the registration."""
        return None if self._record is None else self._record.lease

    def renewed(self, renewed: Renewed) -> None:
        """Register anew if this renewal says that the registration was lost."""
        if self.lease in renewed.lost:
            self._record = None
            self._absent.set()

    async def loop(self) -> None:
        """Register, do so anew whenever the registration is lost, and remove it after `leave`."""
        pause = self.context.lease.total_seconds() / _PER_LEASE
        while not self._leaving.is_set():
            self._absent.clear()
            try:
                there = await self._register()
            except Exception as error:  # noqa: BLE001 - nothing may end this in silence: logged, and tried again
                there = False
                # Not louder: a store in trouble is logged by the parts that cannot do without it.
                level = logging.DEBUG if isinstance(error, StoreError) or self._failing else logging.ERROR
                text = "%s could not be registered, which is tried again: %s"
                _log.log(level, text, self.context.worker, error, exc_info=level == logging.ERROR)
            self._failing = not there
            if not there:
                await time.wait(self.context.clock, self._leaving, pause)
            elif not self._leaving.is_set():
                await self._absent.wait()
        await self._remove()

    def leave(self) -> None:
        """Let `loop` end."""
        self._leaving.set()
        self._absent.set()

    async def _remove(self) -> None:
        record, self._record = self._record, None
        if record is None:
            return
        try:
            await self.context.store.settle([Outcome.completed(record, "{}", retention=_REMOVED)])
        except Exception as error:  # noqa: BLE001 - a worker that closes is not held up by this
            _log.info(
                "%s: still listed as a worker until its heartbeat is over: %s", self.context.worker, error
            )

    async def _register(self) -> bool:
        queue, context = workers_of(self.context.queue), self.context
        await context.store.insert(
            [JobRecord(queue=queue, id=self.id, name="worker", payload=self.payload())]
        )
        claimed = await context.store.take(
            queue, [self.id], token=new_token(), lease=context.lease, worker=context.worker, started=False
        )
        for record in claimed.jobs:
            self._record = record
        return self._record is not None
