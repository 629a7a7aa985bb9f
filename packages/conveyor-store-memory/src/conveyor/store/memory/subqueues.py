"""The sub-queues of a queue: one for each name in each group, with its jobs in order."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import count
from typing import Any, Final, Generic, TypeVar

from sortedcontainers import SortedList

from conveyor.store.memory.rows import Row
from conveyor.store.memory.rows_by_instant import Timeline

Item = TypeVar("Item", bound=Hashable)
_numbers: Final = count()


class LiveGroup:
    """The live jobs of one group, or of no group: what fair share and limits are about."""

    __slots__ = ("active", "name", "size", "sub_queues", "waiting")

    def __init__(self, name: str | None) -> None:
        self.name = name
        #: The sub-queues that have jobs, by name.
        self.sub_queues: dict[str, SubQueue] = {}
        #: How many jobs are active, how many are waiting, and how many are waiting or delayed.
        self.active = 0
        self.waiting = 0
        self.size = 0


class SubQueue:
    """The waiting and the delayed jobs of one name in one group, each in order."""

    __slots__ = ("delayed", "group", "name", "number", "waiting")

    def __init__(self, group: LiveGroup, name: str) -> None:
        self.group = group
        self.name = name
        #: Decides between sub-queues that are equal otherwise.
        self.number = next(_numbers)
        #: By sort key and tie break.
        self.waiting: SortedList[Any] = SortedList()
        self.delayed = Timeline()

    def head(self, *, newest_first: bool) -> Row:
        """The most urgent waiting job."""
        sort_key, _, first = self.waiting[0]
        if not newest_first:
            return first  # type: ignore[no-any-return]
        # Within a sort key the newest job is the first one (`lifo`) or the last one.
        *_, last = self.waiting[self.waiting.bisect_right((sort_key, float("inf"))) - 1]
        return max(first, last, key=lambda row: row.seq)  # type: ignore[no-any-return]


class Slots(Generic[Item]):
    """Items that each stand in at most one of several sorted lists."""

    def __init__(self) -> None:
        self._slots: dict[Item, tuple[SortedList[Any], tuple[Any, ...]]] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, item: Item, where: SortedList[Any] | None, entry: tuple[Any, ...] = ()) -> None:
        """Move the item to that list, from the one that it is in."""
        old = self._slots.pop(item, None)
        if old is not None:
            old[0].remove(old[1])
        if where is not None:
            where.add(entry)
            self._slots[item] = (where, entry)
