"""Rows by an instant: when they are due, or when their leases run out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import takewhile
from typing import Any

from sortedcontainers import SortedList

from conveyor.store.memory.rows import Row


class Timeline:
    """Rows, the one with the earliest instant first, and of equal ones the oldest."""

    def __init__(self) -> None:
        self._rows: SortedList[Any] = SortedList()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, at: datetime | None, row: Row) -> None:
        """Put the row where its instant says."""
        self._rows.add((at, row.seq, row))

    def remove(self, at: datetime | None, row: Row) -> None:
        """Take the row from where its instant said."""
        self._rows.remove((at, row.seq, row))

    def first(self) -> datetime | None:
        """The earliest instant."""
        at: datetime | None = self._rows[0][0] if self._rows else None
        return at

    def until(self, now: datetime) -> Iterator[tuple[datetime, int, Row]]:
        """Those whose instant is not after now, with the instant and a number to sort equal ones by."""
        return takewhile(lambda entry: entry[0] <= now, self._rows)
