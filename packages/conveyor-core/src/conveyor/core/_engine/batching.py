"""Which of the jobs that are claimed start together, and when. One job alone is a batch of one."""

from __future__ import annotations

import math
from collections import deque
from itertools import islice, takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from conveyor.core._engine.run import Run
    from conveyor.core.batch import Batch


class Gatherer:
    """Makes batches of the jobs that are ready; the oldest claim first."""

    def __init__(self, batch: Batch | None, *, limited_by_group: bool = False) -> None:
        self.size = 1 if batch is None else batch.size
        self.by = None if batch is None else batch.by
        self._linger = 0.0 if batch is None else batch.linger.total_seconds()
        #: Whether an ordinary claim brings one job for each slot, and its company comes after it.
        #: A claim by ids passes over limits: with one, a batch of a group takes what claims bring.
        self.leads = self.by is not None and not (self.by == "group" and limited_by_group)
        #: Wait for no company any more.
        self.hasty = False

    def room(self, free: int, ready: deque[Run]) -> int:
        """How many more jobs an ordinary claim may bring for that many free slots."""
        if self.leads:
            return free - len(self._batches(ready))
        return free * self.size - len(ready)

    def take(self, ready: deque[Run], now: float) -> list[Run]:
        """Remove from `ready`, and return, the jobs that start together now; none if all wait for company."""
        if not ready:
            return []
        if self.size == 1 or ready[0].record.stalled:
            return [ready.popleft()]
        stopped = next((run for run in ready if run.stop is not None), None)
        if stopped is not None:  # it will not run, and waits for no company
            ready.remove(stopped)
            return [stopped]
        for batch in self._batches(ready):
            # Behind a job that runs alone nothing is claimed: no company will come.
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
        """Seconds until one of the batches has waited long enough for company; infinite without any."""
        return min((self._due(batch, now) for batch in self._batches(ready)), default=math.inf)

    def lacking(self, ready: deque[Run]) -> list[tuple[Run, int]]:
        """The batches that company is to be looked for: one job of each, and how many more it takes."""
        if not self.leads:
            return []
        return [
            (batch[0], self.size - len(batch)) for batch in self._batches(ready) if len(batch) < self.size
        ]

    def _due(self, batch: list[Run], now: float) -> float:
        if self.hasty or len(batch) >= self.size:
            return 0.0
        return batch[0].claimed_at + self._linger - now

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
