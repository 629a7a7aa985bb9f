"""Which sub-queues the claims of one shape may take from, most urgent first.

Looking through all sub-queues for each claim would cost more with each paused name and each group that
has reached its limit. So the queue keeps a view for each shape of claim there was (its order, its
names, its group limit), from which the sub-queues that such a claim must pass over are absent. What
changes about a sub-queue is only noted, and looked at by the next claim: each change costs one look.
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
    from conveyor.store.memory.fair_share import FairShare
    from conveyor.store.memory.subqueues import SubQueue


class Shape(NamedTuple):
    """What of a claim decides which sub-queues it may take from, and in which order."""

    newest_first: bool
    names: frozenset[str] | None
    group_limit: Limit | None


class SubQueues(Protocol):
    """A queue, as far as a view looks at it."""

    fair_share: FairShare
    #: How many sub-queues and jobs claims have looked at so far.
    steps: int

    @property
    def sub_queues(self) -> Iterable[SubQueue]:
        """Every sub-queue of the queue."""
        ...

    def free_at(self, sub_queue: SubQueue, limit: Limit | None, now: datetime) -> datetime:
        """When a sub-queue may give a job, as far as limits and pauses go."""
        ...


class ClaimableView:
    """The sub-queues that the claims of one shape may take from, now or later."""

    def __init__(self, queue: SubQueues, shape: Shape, now: datetime) -> None:
        self._queue = queue
        self._shape = shape
        self._now = now
        self._slots: Slots[SubQueue] = Slots()
        #: Sub-queues with a job to give, by sort key, latest pick of the group and tie break, and that job.
        self._open: SortedList[tuple[float, int, int, int, Row]] = SortedList()
        #: Sub-queues with a job to give from an instant on: a rate or a timed pause is in its way.
        self._barred: SortedList[tuple[datetime, int, SubQueue]] = SortedList()
        #: Sub-queues that have only delayed jobs, and when the first may be given.
        self._later: SortedList[tuple[datetime, int, SubQueue]] = SortedList()
        #: Sub-queues to look at before the next answer.
        self.changed: set[SubQueue] = set(queue.sub_queues)

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
        return min(
            (sub_queues[0][0] for sub_queues in (self._barred, self._later) if sub_queues), default=None
        )

    def _look(self, now: datetime) -> None:
        if now < self._now:  # a clock that was set back: bars that ended may hold again
            self.changed.update(self._queue.sub_queues)
        self._now = now
        while self.changed:
            self._arrange(self.changed.pop(), now)
        while self._barred and self._barred[0][0] <= now:
            self._arrange(self._barred[0][-1], now)

    def _arrange(self, sub_queue: SubQueue, now: datetime) -> None:
        self._queue.steps += 1
        shape = self._shape
        wanted = shape.names is None or sub_queue.name in shape.names
        free_at = self._queue.free_at(sub_queue, shape.group_limit, now) if wanted else FOREVER
        later = sub_queue.delayed.first()
        if free_at == FOREVER:
            self._slots.put(sub_queue, None)
        elif sub_queue.waiting and free_at > now:
            self._slots.put(sub_queue, self._barred, (free_at, sub_queue.number, sub_queue))
        elif sub_queue.waiting:
            head = sub_queue.head(newest_first=shape.newest_first)
            order = -head.seq if shape.newest_first else tie_break(head)
            last_served = self._queue.fair_share.last_served(sub_queue.group.name)
            self._slots.put(
                sub_queue, self._open, (head.sort_key, last_served, order, sub_queue.number, head)
            )
        elif later is not None:
            self._slots.put(sub_queue, self._later, (max(free_at, later), sub_queue.number, sub_queue))
        else:
            self._slots.put(sub_queue, None)
