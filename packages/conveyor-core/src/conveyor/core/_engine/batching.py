"""Which of the jobs that are claimed start together, and when; and what fills up their batches.

One job alone is a batch of one.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final, Literal

from conveyor.core._jobs.ids import new_token
from conveyor.core.store import JobState, Order, Pause, Where

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from conveyor.core._engine.run import Run
    from conveyor.core.batch import Batch
    from conveyor.core.store import Claim, Claimed, JobRecord, Store

_log: Final = logging.getLogger("conveyor.worker")

_WAITING: Final = frozenset({JobState.WAITING})
#: How many waiting jobs are looked at for each one without a group that is wanted: they cannot be asked for.
_LOOKED_AT: Final = 4


@dataclass(slots=True)
class Batcher:
    """Makes batches of the jobs that are ready, the oldest claim first; by default each is of one job."""

    size: int = 1
    by: Literal["name", "group"] | None = None
    #: Seconds that the first job of a batch may wait until it is full.
    linger: float = 0.0
    #: Whether an ordinary claim brings one job for each slot, the head of a batch that is filled after it.
    #: Taking jobs by their ids passes over limits: with one, a batch of a group takes what claims bring.
    fills: bool = False

    @classmethod
    def of(cls, batch: Batch | None, *, limited: bool = False) -> Batcher:
        """What makes the batches that a worker's options ask for."""
        if batch is None:
            return cls()
        fills = batch.by is not None and not (batch.by == "group" and limited)
        return cls(batch.size, batch.by, batch.linger.total_seconds(), fills)

    def capacity(self, free: int, ready: deque[Run]) -> int:
        """How many more jobs an ordinary claim may bring for that many free slots."""
        if self.fills:
            return free - len(self._batches(ready))
        return free * self.size - len(ready)

    def take(self, ready: deque[Run], now: float) -> list[Run]:
        """Remove from `ready`, and return, the jobs that start together now; none while all linger."""
        if not ready:
            return []
        if self.size == 1 or ready[0].record.stalled:
            return [ready.popleft()]
        stopped = next((run for run in ready if run.stop is not None), None)
        if stopped is not None:  # it will not run, and needs no batch
            ready.remove(stopped)
            return [stopped]
        for batch in self._batches(ready):
            # Behind a job that runs isolated nothing is claimed: the batch will not be filled.
            if ready[-1].record.stalled or self._due(batch, now) <= 0:
                chosen = batch[: self.size]
                if self.by is None:
                    for _ in chosen:
                        ready.popleft()
                else:
                    leaving = set(chosen)
                    kept = [run for run in ready if run not in leaving]
                    ready.clear()
                    ready.extend(kept)
                return chosen
        return []

    def wait(self, ready: deque[Run], now: float) -> float:
        """Seconds until one of the batches has lingered long enough; infinite without any."""
        return min((self._due(batch, now) for batch in self._batches(ready)), default=math.inf)

    def unfilled(self, ready: deque[Run]) -> list[tuple[Run, int]]:
        """The batches that are to be filled: the head of each, and how many more jobs it takes."""
        if not self.fills:
            return []
        return [
            (batch[0], self.size - len(batch)) for batch in self._batches(ready) if len(batch) < self.size
        ]

    def _due(self, batch: list[Run], now: float) -> float:
        if self.linger <= 0 or len(batch) >= self.size:
            return 0.0
        return batch[0].claimed_at + self.linger - now

    def _batches(self, ready: Iterable[Run]) -> list[list[Run]]:
        # One that has stalled before is in none: it runs alone, and is the last of those that are ready.
        others = takewhile(lambda run: not run.record.stalled, ready)
        if self.by is None:
            first = list(islice(others, self.size))
            return [first] if first else []
        found: dict[str | None, list[Run]] = {}
        for run in others:
            found.setdefault(run.record.name if self.by == "name" else run.record.group, []).append(run)
        return list(found.values())


async def fill_by_name(store: Store, claim: Claim, head: JobRecord, count: int) -> Claimed:
    """Claim up to `count` jobs of the name of a batch's head: an ordinary claim, under every limit."""
    return await store.claim(replace(claim, count=count, token=new_token(), names=frozenset({head.name})))


async def fill_by_group(store: Store, claim: Claim, head: JobRecord, count: int) -> Claimed | None:
    """Claim up to `count` waiting jobs of the group of a batch's head, most urgent first.

    Returns None if there are none. Taking jobs passes over pauses and due times: see `not_runnable`. It is
    for workers without limits, over which it passes as well.
    """
    where = Where(queue=claim.queue, group=head.group, states=_WAITING)
    limit = count if head.group is not None else count * _LOOKED_AT
    found = await store.find(where, limit=limit, order=Order.CLAIM)
    ids = [record.id for record in found if record.group == head.group][:count]
    if not ids:
        return None
    return await store.take(
        claim.queue,
        ids,
        token=new_token(),
        lease=claim.lease,
        worker=claim.worker,
        started=claim.started,
    )


async def not_runnable(store: Store, runs: Sequence[Run], now: datetime) -> list[Run]:
    """Say which of these, just taken by their ids, should not have been.

    They were waiting when they were found; they may have been paused, delayed or given children since.
    """
    if not runs:
        return []
    try:
        # Read after the claim: a pause that had returned before it binds it, as it does any other.
        paused = await store.paused(runs[0].record.queue)
    except Exception as error:  # noqa: BLE001 - it cannot be known: then all go back, whatever it is
        _log.debug("what is paused cannot be read: %s", error)
        return list(runs)
    return [run for run in runs if not _runnable(run.record, now, paused)]


def _runnable(record: JobRecord, now: datetime, paused: Mapping[Pause, datetime | None]) -> bool:
    waits = record.pending > 0 or (record.run_at is not None and record.run_at > now)
    return not waits and paused.keys().isdisjoint(
        {Pause(), Pause(name=record.name), Pause(group=record.group)}
    )
