"""Rows by their number, which is the order in which jobs were added."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from heapq import merge
from itertools import islice

from sortedcontainers import SortedDict

from conveyor.store.memory.rows import Row

#: Numbers of rows that are gone, beyond as many as there are rows, before they are forgotten.
_SPARE = 1_000


class Numbered:
    """Rows of one state, oldest first.

    Most rows come in order: then they stand in a dictionary, and nothing is sorted. The others stand apart.
    """

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._late: SortedDict[int, Row] = SortedDict()
        #: The numbers of `_rows`, in order, and of rows that are gone.
        self._numbers: list[int] = []
        self._last = 0

    def __len__(self) -> int:
        return len(self._rows) + len(self._late)

    def add(self, row: Row) -> None:
        """Take a row in."""
        if row.seq <= self._last:
            self._late[row.seq] = row
            return
        self._last = row.seq
        self._rows[row.seq] = row
        self._numbers.append(row.seq)
        self._forget()

    def remove(self, row: Row) -> None:
        """Let a row go."""
        if self._rows.pop(row.seq, None) is None:
            del self._late[row.seq]

    def _forget(self) -> None:
        if len(self._numbers) > 2 * len(self._rows) + _SPARE:
            self._numbers = list(self._rows)

    def upwards(self, after: int | None) -> Iterator[Row]:
        """Oldest first, behind a number."""
        late = map(self._late.__getitem__, self._late.irange(after, inclusive=(False, True)))
        if after is None:
            return _merged(iter(self._rows.values()), late)
        self._forget()
        start = bisect_right(self._numbers, after)
        return _merged(self._present(islice(self._numbers, start, None)), late)

    def downwards(self, before: int | None) -> Iterator[Row]:
        """Newest first, before a number."""
        irange = self._late.irange(maximum=before, inclusive=(True, False), reverse=True)
        late = map(self._late.__getitem__, irange)
        if before is None:
            return _merged(reversed(self._rows.values()), late, backwards=True)
        self._forget()
        end = bisect_left(self._numbers, before)
        found = (self._numbers[place] for place in range(end - 1, -1, -1))
        return _merged(self._present(found), late, backwards=True)

    def _present(self, numbers: Iterator[int]) -> Iterator[Row]:
        return (row for number in numbers if (row := self._rows.get(number)) is not None)


def _merged(rows: Iterator[Row], late: Iterator[Row], *, backwards: bool = False) -> Iterator[Row]:
    return merge(rows, late, key=lambda row: row.seq, reverse=backwards)
