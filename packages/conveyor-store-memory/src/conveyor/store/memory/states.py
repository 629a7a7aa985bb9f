"""The rows of a queue by state, in the orders in which sets of them are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from conveyor.core.jobs import TERMINAL, JobRecord, JobState
from conveyor.store.memory.numbered import Numbered
from conveyor.store.memory.rows import Row
from conveyor.store.memory.timeline import Timeline


class States:
    """The rows of each state; a row is added and removed as it enters and leaves its state."""

    def __init__(self) -> None:
        self._rows: Final = {state: Numbered() for state in JobState}
        #: By when they finished: all of them, and those that are kept by count.
        self._finished: Final = {state: Timeline() for state in TERMINAL}
        self._counted: Final = {state: Timeline() for state in TERMINAL}
        self._expiring: Final = Timeline()

    def add(self, row: Row) -> None:
        """Put the row where its state says."""
        self._rows[row.state].add(row)
        finished = self._finished.get(row.state)
        if finished is not None:
            finished.add(row.finished_at, row)
            if row.keep_count is not None:
                self._counted[row.state].add(row.finished_at, row)
            if row.expires_at is not None:
                self._expiring.add(row.expires_at, row)

    def remove(self, row: Row) -> None:
        """Take the row from where its state said."""
        self._rows[row.state].remove(row)
        finished = self._finished.get(row.state)
        if finished is not None:
            finished.remove(row.finished_at, row)
            if row.keep_count is not None:
                self._counted[row.state].remove(row.finished_at, row)
            if row.expires_at is not None:
                self._expiring.remove(row.expires_at, row)

    def count(self, state: JobState) -> int:
        """How many rows are in the state."""
        return len(self._rows[state])

    def added(self, state: JobState, after: JobRecord | None) -> Iterator[Row]:
        """The rows of the state as they were added, behind a job."""
        return self._rows[state].upwards(None if after is None else after.seq)

    def newest(self, state: JobState, after: JobRecord | None) -> Iterator[Row]:
        """The same backwards."""
        return self._rows[state].downwards(None if after is None else after.seq)

    def latest(self, state: JobState, after: JobRecord | None) -> Iterator[Row]:
        """The rows of the state as they finished, latest first; if they have not, newest first."""
        finished = None if after is None else after.finished_at
        if state not in TERMINAL:
            return self.newest(state, None if finished is not None else after)
        if after is None or finished is None:
            return self._finished[state].backwards() if after is None else iter(())
        return self._finished[state].backwards((finished, after.seq))

    def over(self, now: datetime) -> set[Row]:
        """The rows whose retention, by age or by count, is over."""
        return {row for _, _, row in self._expiring.until(now)} | self.beyond_count(now)

    def beyond_count(self, now: datetime) -> set[Row]:
        """The rows whose retention by count is over."""
        return {
            row
            for counted in self._counted.values()
            for later, row in enumerate(counted.backwards())
            if later >= (row.keep_count or 0) and not row.holds(now)
        }
