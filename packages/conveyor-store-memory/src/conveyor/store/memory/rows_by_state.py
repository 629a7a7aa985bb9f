"""The rows of a queue by state, in the orders in which sets of them are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from heapq import merge
from typing import Final

from conveyor.core.store import TERMINAL, JobRecord, JobState
from conveyor.store.memory.rows import Row
from conveyor.store.memory.rows_by_instant import Timeline
from conveyor.store.memory.rows_by_seq import Numbered


class States:
    """The rows of each state; a row is added and removed as it enters and leaves its state."""

    def __init__(self) -> None:
        self._rows: Final = {state: Numbered() for state in JobState}
        #: By when they finished: those that have no retention, those that have one, and those kept by count.
        self._unretained: Final = {state: Timeline() for state in TERMINAL}
        self._retained: Final = {state: Timeline() for state in TERMINAL}
        self._counted: Final = {state: Timeline() for state in TERMINAL}
        self._expiring: Final = Timeline()

    def add(self, row: Row) -> None:
        """Put the row where its state says."""
        self._rows[row.state].add(row)
        if row.state not in self._retained:
            return
        if row.unretained:
            self._unretained[row.state].add(row.finished_at, row)
            return
        self._retained[row.state].add(row.finished_at, row)
        if row.keep_count is not None:
            self._counted[row.state].add(row.finished_at, row)
        if row.expires_at is not None:
            self._expiring.add(row.expires_at, row)

    def remove(self, row: Row) -> None:
        """Take the row from where its state said."""
        self._rows[row.state].remove(row)
        if row.state not in self._retained:
            return
        if row.unretained:
            self._unretained[row.state].remove(row.finished_at, row)
            return
        self._retained[row.state].remove(row.finished_at, row)
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
        if after is not None and finished is None:
            return iter(())
        before = None if after is None or finished is None else (finished, after.seq)
        both = (self._unretained[state].backwards(before), self._retained[state].backwards(before))
        return merge(*both, key=_instant, reverse=True)

    def earliest(self, state: JobState, after: JobRecord | None) -> Iterator[Row]:
        """The rows of the state as they finished, earliest first; if they have not, oldest first."""
        finished = None if after is None else after.finished_at
        if state not in TERMINAL:
            return self.added(state, None if finished is not None else after)
        if after is not None and finished is None:
            return iter(())
        both = (self.unretained(state, after), self._retained[state].forwards(_behind(after)))
        return merge(*both, key=_instant)

    def unretained(self, state: JobState, after: JobRecord | None) -> Iterator[Row]:
        """Those of a terminal state that have no retention, as they finished, earliest first."""
        if after is not None and after.finished_at is None:
            return iter(())
        return self._unretained[state].forwards(_behind(after))

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


def _instant(row: Row) -> tuple[datetime | None, int]:
    return row.finished_at, row.seq


def _behind(after: JobRecord | None) -> tuple[datetime, int] | None:
    return None if after is None or after.finished_at is None else (after.finished_at, after.seq)
