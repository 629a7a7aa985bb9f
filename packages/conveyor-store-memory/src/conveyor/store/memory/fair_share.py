"""Fair share: which group of a queue was picked from longest ago, and which need not be remembered."""

from __future__ import annotations

from collections.abc import Mapping

from sortedcontainers import SortedList

from conveyor.store.memory.subqueues import LiveGroup, Slots


class FairShare:
    """When each group of a queue was picked from last: remembered while it knows a group.

    `groups` are the groups that have live jobs. What changed about a group is only noted, and put
    in order by the next `forget`.
    """

    def __init__(self, groups: Mapping[str | None, LiveGroup]) -> None:
        self._groups = groups
        self._last_served: dict[str | None, int] = {}
        self._last = 0
        self._changed: set[str | None] = set()
        self._slots: Slots[str | None] = Slots()
        #: Groups with waiting jobs, and groups with no live job; the one picked from longest ago first.
        self._waiting: SortedList[tuple[int, bool, str]] = SortedList()
        self._idle: SortedList[tuple[int, str]] = SortedList()

    @property
    def known(self) -> bool:
        """Whether the queue knows a group."""
        return len(self._last_served) > (None in self._last_served)

    def last_served(self, group: str | None) -> int:
        """The number of the latest pick from the group; 0 if there was none."""
        return self._last_served.get(group, 0)

    def add_group(self, group: str) -> None:
        """Know the group from now on."""
        if not self.known:
            self._changed.update(self._groups)
        self._last_served.setdefault(group, 0)
        self._changed.add(group)

    def note_pick(self, group: str | None) -> None:
        """Note that a job of the group was picked."""
        self._last += 1
        self._last_served[group] = self._last
        self._changed.add(group)

    def change(self, group: str | None) -> None:
        """Note that the group's live jobs have changed."""
        if self._last_served:
            self._changed.add(group)

    def forget(self) -> bool:
        """Forget the groups that have no live job and were picked from before all that have waiting ones.

        Returns whether the last group was forgotten, so that no picks are counted any more.
        """
        knew = self.known
        for group in self._changed:
            self._arrange(group)
        self._changed.clear()
        while self._idle and (not self._waiting or self._idle[0][0] < self._waiting[0][0]):
            group = self._idle[0][1]
            self._slots.put(group, None)
            del self._last_served[group]
        return knew and not self.known

    def _arrange(self, name: str | None) -> None:
        group = self._groups.get(name)
        last_served = self.last_served(name)
        if group is not None and group.waiting:
            self._slots.put(name, self._waiting, (last_served, name is not None, name or ""))
        elif group is None and name is not None and name in self._last_served:
            self._slots.put(name, self._idle, (last_served, name))
        else:
            self._slots.put(name, None)
