"""Batch inserts that come at the same time: one statement and one commit for all of them.

While as many batches are on their way as is good for them, what else is added waits for the next one. So a
lone add goes out at once, and many make batches by themselves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from conveyor.core.errors import StoreError
from conveyor.core.store import Inserted, JobRecord
from conveyor.store.pg.connections import Connections
from conveyor.store.pg.inserting import insert
from conveyor.store.pg.statements import Session

#: Larger calls go by themselves.
MOST_BATCHED: Final = 100
#: The most jobs of one batch.
_BATCH: Final = 500
#: How many batches may be on their way at once: while one is committed, another is written.
_WRITERS: Final = 2


@dataclass(slots=True, eq=False)
class _Waiting:
    jobs: Sequence[JobRecord]
    answer: asyncio.Future[Sequence[Inserted]]


class InsertBatcher:
    """Batches the inserts of one store; only of jobs that no other job depends on."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._waiting: deque[_Waiting] = deque()
        self._writers: set[asyncio.Task[None]] = set()

    async def insert(self, jobs: Sequence[JobRecord]) -> Sequence[Inserted]:
        """Add jobs as `Store.insert` does, perhaps together with those of other calls."""
        call = _Waiting(jobs, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if len(self._writers) < _WRITERS:
            self._writers.add(asyncio.get_running_loop().create_task(self._write()))
        # Cancelled before its batch is on its way, it is in none; after that, it happens all the same.
        return await call.answer

    async def _write(self) -> None:
        batch: list[_Waiting] = []
        try:
            while batch := self._batch():
                await self._write_batch(batch)
        finally:
            # In the very step that finds nothing more: an add that comes after it starts a writer of its own.
            self._writers.discard(asyncio.current_task())
            for call in batch:
                call.answer.cancel()  # only if this was itself cancelled: nobody is left waiting

    async def _write_batch(self, batch: Sequence[_Waiting]) -> None:
        try:
            answers = await self._insert([job for call in batch for job in call.jobs])
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers must learn of it
            await self._failed(batch, error)
            return
        taken = iter(answers)
        for call in batch:
            _answer(call, [next(taken) for _ in call.jobs])

    def _batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and size < _BATCH:
            call = self._waiting.popleft()
            if not call.answer.done():
                batch.append(call)
                size += len(call.jobs)
        return batch

    async def _insert(self, jobs: Sequence[JobRecord]) -> Sequence[Inserted]:
        async def step(session: Session) -> Sequence[Inserted]:
            return await insert(session, None, jobs)

        return await self._connections.call(step, single=True)

    async def _failed(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """Fail all of these calls, unless it may be the fault of one: then each is tried by itself."""
        if len(batch) == 1 or (isinstance(error, StoreError) and error.retryable):
            for call in batch:
                if not call.answer.done():
                    call.answer.set_exception(error)
            return
        for call in batch:
            try:
                _answer(call, await self._insert(call.jobs))
            except Exception as own:  # noqa: BLE001 - likewise
                if not call.answer.done():
                    call.answer.set_exception(own)


def _answer(call: _Waiting, answers: Sequence[Inserted]) -> None:
    if not call.answer.done():
        call.answer.set_result(answers)
