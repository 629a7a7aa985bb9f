"""Fair share: which jobs a claim picks from a queue that knows groups.

Each pick goes to the job with the least sort key, and among equal ones to the group that was served longest
ago. Picking one by one in SQL would cost several statements for each job, so a store reads the first jobs of
the sub-queues that may be next, `FairShare` makes the picks, and the store writes once what came of them.

That is exact where no other claim of the queue is under way, and because a pick only ever makes its own
group's sub-queues less urgent: those that have not been read stay behind the last one that has.

Sub-queues that must be passed over are best not read at all: those of paused groups, of groups with as many
active jobs as they may have, and of groups that are throttled, for their window is full (`full`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import heappop, heappush

from conveyor.core.store import Claim
from conveyor.store.sql.limits import Capacity, rate_of

#: Where a waiting job stands; see `SubQueue`.
Position = tuple[float, int]


@dataclass(frozen=True, slots=True)
class Picks:
    """The picks of a queue so far: the number of the latest, and of the latest of a job without a group.

    Both are 0 if there was none. `after` says what they are when a claim has picked.
    `counted` is false while the queue knows no group, though it has jobs of groups that it knew once.
    """

    latest: int
    ungrouped: int
    counted: bool

    def after(self, groups: Sequence[str | None]) -> tuple[int, int, dict[str, int]]:
        """What the numbers are after picks from these groups, in order; with that of each group's latest."""
        served: dict[str, int] = {}
        ungrouped = self.ungrouped
        for number, group in enumerate(groups, self.latest + 1):
            if group is None:
                ungrouped = number
            else:
                served[group] = number
        return self.latest + len(groups), ungrouped, served


@dataclass(slots=True, eq=False)
class SubQueue:
    """The waiting jobs of one name in one group, as far as they have been read; group None: of no group.

    `jobs` are those to pick next, most urgent first, and `last` is the last one that was read. `ended`: there
    are no jobs behind that. The name is for whoever reads more of it: one sub-queue may as well be all that
    a claim may take of a group.

    A job is known by its `Position`: its sort key, and what decides between equal ones. Oldest first that is
    its tie break (`-seq` of `lifo` jobs, `seq` of the others), newest first `-seq` of each. The lesser goes
    first, and the number without its sign is the `seq`.
    """

    group: str | None
    name: str
    jobs: deque[Position]
    last: Position
    ended: bool


@dataclass(frozen=True, slots=True)
class More:
    """What must be read before the next pick: more of a sub-queue; None: more sub-queues."""

    of: SubQueue | None


class FairShare:
    """The picks of one claim, made from what has been read so far.

    You set, before you add sub-queues: `windows`, what the window of each of their groups leaves, if the
    claim has a group rate (the function `windows` says); and `beyond`, the most urgent that a sub-queue can
    be that you have not read, by sort key, last pick of its group (0: none) and tie break; None: you have
    read all that may be picked from. Then `add` what you have read, and `pick`.

    You read: `picked`, the jobs by their `seq`, in the order of their picks, each with its group; and `full`,
    groups that have had as many starts as their rate allows, and until when. `count` is how many are wanted.
    """

    def __init__(self, request: Claim, now: datetime, *, count: int, picks: Picks) -> None:
        """Begin with no sub-queues; up to `count` jobs are picked."""
        self._now = now
        self._active_limit = None if request.group_limit is None else request.group_limit.active
        self._rate = rate_of(request.group_limit)
        self._number = picks.latest
        self._counted = picks.counted
        self._served: dict[str | None, int] = {None: picks.ungrouped}
        self._active: Counter[str] = Counter()
        self._starts: Counter[str] = Counter()
        self._heap: list[tuple[float, int, int, int, SubQueue]] = []
        self._pushed = 0
        self.count = count
        self.beyond: tuple[float, int, int] | None = None
        self.windows: dict[str, Capacity] = {}
        self.picked: list[tuple[int, str | None]] = []
        self.full: dict[str, datetime] = {}

    def add(self, subqueue: SubQueue, *, active: int = 0, last_served: int = 0) -> None:
        """Pick from a sub-queue as well, whose group has so many active jobs and was served last then."""
        group = subqueue.group
        if group is not None and group not in self._served:
            self._active[group], self._served[group] = active, last_served
        self.put(subqueue)

    def put(self, subqueue: SubQueue) -> None:
        """Put a sub-queue in line by its first job; if that is not known, by the least that it can be."""
        if subqueue.jobs:
            sort_key, tie_break = subqueue.jobs[0]
        elif subqueue.ended:
            return
        else:
            sort_key, tie_break = subqueue.last
        self._pushed += 1
        heappush(self._heap, (sort_key, self._served[subqueue.group], tie_break, self._pushed, subqueue))

    def pick(self) -> More | None:
        """Pick until there are enough jobs, or none left (None), or until more must be read.

        More sub-queues are added, and `beyond` is moved. Of a sub-queue more jobs are appended, or it has
        ended, and it is put in line again.
        """
        heap, served = self._heap, self._served
        while len(self.picked) < self.count:
            if self.beyond is not None and (not heap or self.beyond <= heap[0][:3]):
                return More(None)
            if not heap:
                return None
            _, last_served, _, _, subqueue = heappop(heap)
            group = subqueue.group
            if last_served != served[group]:  # another sub-queue of its group was served meanwhile
                self.put(subqueue)
            elif group is None or self._may_start(group):
                if not subqueue.jobs:
                    return More(subqueue)
                self._pick(subqueue)
        return None

    def throttled(self, kept: Sequence[str | None]) -> dict[str, datetime]:
        """The groups to pass over, and until when, if of the jobs picked those of these groups are kept."""
        missed = Counter(group for _, group in self.picked) - Counter(kept)
        return {group: until for group, until in self.full.items() if group not in missed}

    def _pick(self, subqueue: SubQueue) -> None:
        group = subqueue.group
        self.picked.append((abs(subqueue.jobs.popleft()[1]), group))
        if self._counted:
            self._number += 1
            self._served[group] = self._number
        if group is not None:
            self._active[group] += 1
            self._starts[group] += 1
            if self._is_full(group):
                return
        self.put(subqueue)

    def _may_start(self, group: str) -> bool:
        """Whether the group's limit leaves room; if not, its sub-queues are done with."""
        if self._active_limit is not None and self._active[group] >= self._active_limit:
            return False
        return not self._is_full(group)

    def _is_full(self, group: str) -> bool:
        """Whether the group has had as many starts as its rate allows; then claims need not look at it."""
        if self._rate is None:
            return False
        left = self.windows[group]
        if self._starts[group] < left.starts:
            return False
        self.full[group] = left.free_at if left.free_at is not None else self._now + self._rate.per
        return True
