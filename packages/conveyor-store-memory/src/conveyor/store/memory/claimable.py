"""Which lanes the claims of one shape may take from, most urgent first.

Looking through all lanes for each claim would cost more with each paused name and each group that
has reached its limit. So the queue keeps a view for each shape of claim it has seen (its order, its
names, its group limit), from which the lanes that such a claim must pass over are absent. What
changes about a lane is only noted, and looked at by the next claim: each change costs one look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from sortedcontainers import SortedList

from conveyor.store.memory.rows import FOREVER, Row, tie_break
from conveyor.store.memory.subqueues import Slots

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from conveyor.core.store import Limit
    from conveyor.store.memory.fair_share import Turns
    from conveyor.store.memory.subqueues import Lane


class Shape(NamedTuple):
    """What of a claim decides which lanes it may take from, and in which order."""

    newest_first: bool
    names: frozenset[str] | None
    group_limit: Limit | None


class Lanes(Protocol):
    """A queue, as far as a view looks at it."""

    turns: Turns
    #: How many lanes and jobs claims have looked at so far.
    steps: int

    @property
    def lanes(self) -> Iterable[Lane]:
        """Every lane of the queue."""
        ...

    def free_at(self, lane: Lane, limit: Limit | None, now: datetime) -> datetime:
        """When a lane may give a job, as far as limits and pauses go."""
        ...


class View:
    """The lanes that the claims of one shape may take from, now or later."""

    def __init__(self, queue: Lanes, shape: Shape, now: datetime) -> None:
        self._queue = queue
        self._shape = shape
        self._now = now
        self._slots: Slots[Lane] = Slots()
        #: Lanes with a job to give, by sort key, turn and tie break, and that job.
        self._open: SortedList[tuple[float, int, int, int, Row]] = SortedList()
        #: Lanes with a job to give from an instant on: a rate or a timed pause is in its way.
        self._barred: SortedList[tuple[datetime, int, Lane]] = SortedList()
        #: Lanes that have only delayed jobs, and when the first may be given.
        self._later: SortedList[tuple[datetime, int, Lane]] = SortedList()
        #: Lanes to look at before the next answer.
        self.changed: set[Lane] = set(queue.lanes)

    @property
    def outdated(self) -> bool:
        """Whether so much has changed since the last claim that a new view costs no more."""
        return len(self.changed) > len(self._slots) + 1_000

    def first(self, now: datetime) -> Row | None:
        """The job to give next."""
        self._look(now)
        return self._open[0][-1] if self._open else None

    def next_at(self, now: datetime) -> datetime | None:
        """When the next job may be given, if time alone brings that about."""
        self._look(now)
        if self._open:
            return now
        return min((lanes[0][0] for lanes in (self._barred, self._later) if lanes), default=None)

    def _look(self, now: datetime) -> None:
        if now < self._now:  # a clock that was set back: bars that ended may hold again
            self.changed.update(self._queue.lanes)
        self._now = now
        while self.changed:
            self._arrange(self.changed.pop(), now)
        while self._barred and self._barred[0][0] <= now:
            self._arrange(self._barred[0][-1], now)

    def _arrange(self, lane: Lane, now: datetime) -> None:
        self._queue.steps += 1
        shape = self._shape
        wanted = shape.names is None or lane.name in shape.names
        free_at = self._queue.free_at(lane, shape.group_limit, now) if wanted else FOREVER
        later = lane.delayed.first()
        if free_at == FOREVER:
            self._slots.put(lane, None)
        elif lane.waiting and free_at > now:
            self._slots.put(lane, self._barred, (free_at, lane.number, lane))
        elif lane.waiting:
            head = lane.head(newest_first=shape.newest_first)
            order = -head.seq if shape.newest_first else tie_break(head)
            served = self._queue.turns.served(lane.group.name)
            self._slots.put(lane, self._open, (head.sort_key, served, order, lane.number, head))
        elif later is not None:
            self._slots.put(lane, self._later, (max(free_at, later), lane.number, lane))
        else:
            self._slots.put(lane, None)
