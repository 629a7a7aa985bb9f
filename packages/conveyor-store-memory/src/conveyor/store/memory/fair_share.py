"""Whose turn it is among the groups of a queue, and which groups need not be remembered."""

from __future__ import annotations

from collections.abc import Mapping

from sortedcontainers import SortedList

from conveyor.store.memory.subqueues import Group, Slots


class Turns:
    """The turns of one queue: remembered while it knows a group.

    `groups` are the groups that have live jobs. What changed about a group is only noted, and put
    in order by the next `forget`.
    """

    def __init__(self, groups: Mapping[str | None, Group]) -> None:
        self._groups = groups
        self._served: dict[str | None, int] = {}
        self._last = 0
        self._changed: set[str | None] = set()
        self._slots: Slots[str | None] = Slots()
        #: Groups with waiting jobs, and groups with no live job; the one served longest ago first.
        self._in_line: SortedList[tuple[int, bool, str]] = SortedList()
        self._idle: SortedList[tuple[int, str]] = SortedList()

    @property
    def known(self) -> bool:
        """Whether the queue knows a group."""
        return len(self._served) > (None in self._served)

    def served(self, group: str | None) -> int:
        """When the group was served last: 0, or the number of that turn."""
        return self._served.get(group, 0)

    def meet(self, group: str) -> None:
        """Know the group from now on."""
        if not self.known:
            self._changed.update(self._groups)
        self._served.setdefault(group, 0)
        self._changed.add(group)

    def serve(self, group: str | None) -> None:
        """Give the group its turn."""
        self._last += 1
        self._served[group] = self._last
        self._changed.add(group)

    def change(self, group: str | None) -> None:
        """Note that the group's live jobs have changed."""
        if self._served:
            self._changed.add(group)

    def forget(self) -> bool:
        """Forget the groups that have no live job and were served before all that have waiting ones.

        Returns whether the last group was forgotten, so that there are no turns any more.
        """
        knew = self.known
        for group in self._changed:
            self._arrange(group)
        self._changed.clear()
        while self._idle and (not self._in_line or self._idle[0][0] < self._in_line[0][0]):
            group = self._idle[0][1]
            self._slots.put(group, None)
            del self._served[group]
        return knew and not self.known

    def _arrange(self, name: str | None) -> None:
        group = self._groups.get(name)
        served = self.served(name)
        if group is not None and group.waiting:
            self._slots.put(name, self._in_line, (served, name is not None, name or ""))
        elif group is None and name is not None and name in self._served:
            self._slots.put(name, self._idle, (served, name))
        else:
            self._slots.put(name, None)
