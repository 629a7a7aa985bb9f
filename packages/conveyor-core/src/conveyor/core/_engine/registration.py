"""A worker's entry among those seen at its queue: made, kept by the heartbeat, removed at the end.

Nothing depends on it: whatever becomes of the entry, the worker goes on as it would without.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core import clock as time
from conveyor.core._jobs.ids import new_token
from conveyor.core._queue_names import workers_of
from conveyor.core.errors import StoreError
from conveyor.core.store import Beat, JobRecord, Outcome, Retention

if TYPE_CHECKING:
    from collections.abc import Callable

    from conveyor.core.clock import Clock
    from conveyor.core.store import Lease, Renewed, Store

_log: Final = logging.getLogger("conveyor.worker")
_REMOVED: Final = Retention(age=timedelta(0))
#: An entry that could not be had is tried again this many times per lease.
_PER_LEASE: Final = 3


class Presence:
    """Tells, as long as it holds its entry, that the worker is there. `payload` makes what it says."""

    def __init__(
        self,
        *,
        store: Store,
        queue: str,
        id: str,
        worker: str,
        payload: Callable[[], str],
        lease: timedelta,
        clock: Clock,
    ) -> None:
        self._store = store
        self._queue = workers_of(queue)
        self._id = id
        self._worker = worker
        self._payload = payload
        self._lease = lease
        self._clock = clock
        self._entry: JobRecord | None = None
        self._failing = False
        self._absent = asyncio.Event()
        self._leaving = asyncio.Event()

    def beat(self) -> Beat | None:
        """What goes with the next renewal of leases; None without an entry."""
        if self._entry is None:
            return None
        return Beat(lease=self._entry.lease, payload=self._payload())

    @property
    def lease(self) -> Lease | None:
        """The hold on the entry."""
        return None if self._entry is None else self._entry.lease

    def heard(self, renewed: Renewed) -> None:
        """Make a new entry if this renewal tells that the old one was lost."""
        if self.lease in renewed.lost:
            self._entry = None
            self._absent.set()

    async def loop(self) -> None:
        """Make the entry, make it anew whenever it is lost, and remove it after `leave`."""
        pause = self._lease.total_seconds() / _PER_LEASE
        while not self._leaving.is_set():
            self._absent.clear()
            try:
                there = await self._announce()
            except Exception as error:  # noqa: BLE001 - nothing may end this in silence: told, and tried again
                there = False
                # Not louder: a store in trouble is told of by those who cannot do without it.
                level = logging.DEBUG if isinstance(error, StoreError) or self._failing else logging.ERROR
                text = "%s could not be announced, which is tried again: %s"
                _log.log(level, text, self._worker, error, exc_info=level == logging.ERROR)
            self._failing = not there
            if not there:
                await time.wait(self._clock, self._leaving, pause)
            elif not self._leaving.is_set():
                await self._absent.wait()
        await self._remove()

    def leave(self) -> None:
        """Let `loop` end."""
        self._leaving.set()
        self._absent.set()

    async def _remove(self) -> None:
        entry, self._entry = self._entry, None
        if entry is None:
            return
        try:
            await self._store.settle([Outcome.completed(entry, "{}", retention=_REMOVED)])
        except Exception as error:  # noqa: BLE001 - a worker that closes is not held up by this
            _log.info("%s: still listed as a worker until its heartbeat is over: %s", self._worker, error)

    async def _announce(self) -> bool:
        await self._store.insert(
            [JobRecord(queue=self._queue, id=self._id, name="worker", payload=self._payload())]
        )
        claimed = await self._store.take(
            self._queue, [self._id], token=new_token(), lease=self._lease, worker=self._worker, started=False
        )
        for entry in claimed.jobs:
            self._entry = entry
        return self._entry is not None
