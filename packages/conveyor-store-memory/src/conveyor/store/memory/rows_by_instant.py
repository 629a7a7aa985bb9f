"""Rows by an instant: when they are due, when their leases run out, or when they finished."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import takewhile
from typing import Any

from sortedcontainers import SortedList

from conveyor.store.memory.rows import Row


class Timeline:
    """Rows, the one with the earliest instant first, and of equal ones the oldest.

    A row that is added is only noted, and put in order by whoever looks next: most leases end before that.
    """

    def __init__(self) -> None:
        self._noted: dict[int, Any] = {}
        self._sorted: SortedList[Any] = SortedList()

    def __len__(self) -> int:
        return len(self._noted) + len(self._sorted)

    def add(self, at: datetime | None, row: Row) -> None:
        """Put the row where its instant says."""
        self._noted[row.seq] = (at, row.seq, row)

    def remove(self, at: datetime | None, row: Row) -> None:
        """Take the row from where its instant said."""
        if self._noted.pop(row.seq, None) is None:
            self._sorted.remove((at, row.seq, row))

    def first(self) -> datetime | None:
        """The earliest instant."""
        rows = self._in_order()
        at: datetime | None = rows[0][0] if rows else None
        return at

    def until(self, now: datetime) -> Iterator[tuple[datetime, int, Row]]:
        """Those whose instant is not after now, with the instant and a number to sort equal ones by."""
        return takewhile(lambda entry: entry[0] <= now, self._in_order())

    def forwards(self, after: tuple[datetime, int] | None = None) -> Iterator[Row]:
        """The earliest first, from behind an instant and number on."""
        behind = None if after is None else (after[0], after[1] + 1)
        return (row for _, _, row in self._in_order().irange(minimum=behind))

    def backwards(self, before: tuple[datetime, int] | None = None) -> Iterator[Row]:
        """The latest first, from before an instant and number on."""
        return (row for _, _, row in self._in_order().irange(maximum=before, reverse=True))

    def _in_order(self) -> SortedList[Any]:
        if self._noted:
            self._sorted.update(self._noted.values())
            self._noted.clear()
        return self._sorted
