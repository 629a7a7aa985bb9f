"""Turns: which jobs a claim takes from a queue that knows groups.

Each pick goes to the most urgent job of the lane whose group was served longest ago. Picking one by one
in SQL would cost several statements for each job, so a claim reads the heads of the lanes that may be
next, makes all of its picks here, and writes once what came of them. That is exact because no other claim of
the queue is under way, because all that a round picks from was read by one statement, and because a pick only
ever makes its own group's lanes less urgent: lanes that were not read stay behind the last one that was.
Where too little was read, all of it is read again, and more of what was too little: what a second statement
added would be of a later moment.

Lanes that must be passed over are not read at all: those of paused groups are in no index, those of
groups with too many active jobs are of other kinds than the ones asked for, and a group whose window is
full is throttled until it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heappush

from conveyor.core.store import Claim
from conveyor.store.pg.limits import Starts
from conveyor.store.pg.statements import Session
from conveyor.store.pg.waiting import Lane, LaneKey, Reach, Turns, View, look
from conveyor.store.sql import Capacity, Scope, rate_name, rate_of, windows


@dataclass(slots=True)
class Picked:
    """What a round picked, in order: jobs by their numbers, and the group of each."""

    jobs: list[tuple[int, str | None]] = field(default_factory=list)
    #: Groups that have had as many starts as their rate allows.
    full: dict[str, Throttle] = field(default_factory=dict)


async def take_turns(session: Session, now: datetime, request: Claim, count: int) -> tuple[Picked, View]:
    """Pick up to `count` jobs by turns; returned with what they were picked from."""
    reach = Reach.of(count)
    rooms: dict[str, Capacity] = {}
    while True:
        view = await look(session, request, now, count, reach)
        if view.gate.turns is None or view.gate.paused_until is not None:
            return Picked(), view
        await _look_at_windows(session, now, request, view, rooms)
        round_ = _Round(now, request, view, rooms, count=count, turns=view.gate.turns)
        if round_.play():
            return round_.picked, view
        reach = reach.further(round_.needed)


async def _look_at_windows(
    session: Session, now: datetime, request: Claim, view: View, rooms: dict[str, Capacity]
) -> None:
    """Learn how many jobs of each group may start; only a claim of the queue could change that."""
    rate = rate_of(request.group_limit)
    unknown = {lane.key[0] for lane in view.lanes if lane.key[0] is not None} - rooms.keys()
    if rate is not None and unknown:
        rooms.update(await windows(Starts(session), Scope(request.queue, "group"), unknown, rate, now))


def numbered(turns: Turns, groups: Sequence[str | None]) -> tuple[int, int, dict[str, int]]:
    """What turns these picks were: the latest, the latest without a group, the latest of each group."""
    served: dict[str, int] = {}
    ungrouped_at = turns.ungrouped
    for turn, group in enumerate(groups, turns.latest + 1):
        if group is None:
            ungrouped_at = turn
        else:
            served[group] = turn
    return turns.latest + len(groups), ungrouped_at, served


class _Round:
    """The picks of one claim, as far as they can be made from what was read."""

    def __init__(
        self,
        now: datetime,
        request: Claim,
        view: View,
        rooms: Mapping[str, Capacity],
        *,
        count: int,
        turns: Turns,
    ) -> None:
        self._now = now
        self._limit = request.group_limit
        self._rate = rate_of(request.group_limit)
        self._beyond = view.beyond
        self._rooms = rooms
        self._count = count
        self._turn = turns.latest
        self._counted = turns.counted
        self._served: dict[str | None, int] = {None: turns.ungrouped}
        self._active: Counter[str] = Counter()
        self._starts: Counter[str] = Counter()
        self._heap: list[tuple[float, int, int, int, int, Lane]] = []
        self._pushed = 0
        self.picked = Picked()
        #: The lane of which more must be read.
        self.needed: LaneKey | None = None
        for lane in view.lanes:
            group = lane.key[0]
            if group is not None:
                self._served[group], self._active[group] = lane.turn, lane.active
            self._push(lane, 0)

    def play(self) -> bool:
        """Pick until there are enough jobs, or none left; say no if more must be read for that."""
        while len(self.picked.jobs) < self._count:
            if self._beyond is not None and (not self._heap or self._beyond <= self._heap[0][:3]):
                return False
            if not self._heap:
                return True
            _, served, _, _, taken, lane = heappop(self._heap)
            group = lane.key[0]
            if served != self._served[group]:  # another lane of its group has had the turn meanwhile
                self._push(lane, taken)
            elif group is None or self._may_start(group):
                if taken < len(lane.jobs):
                    self._pick(lane, taken)
                else:
                    self.needed = lane.key
                    return False
        return True

    def _pick(self, lane: Lane, taken: int) -> None:
        _, second = lane.jobs[taken]
        group = lane.key[0]
        self.picked.jobs.append((abs(second), group))
        if self._counted:
            self._turn += 1
            self._served[group] = self._turn
        if group is not None:
            self._active[group] += 1
            self._starts[group] += 1
            if self._is_full(group):
                return
        self._push(lane, taken + 1)

    def _may_start(self, group: str) -> bool:
        """Whether the group's limit leaves room; if not, its lanes are done with."""
        if self._limit is None:
            return True
        if self._limit.active is not None and self._active[group] >= self._limit.active:
            return False
        return not self._is_full(group)

    def _is_full(self, group: str) -> bool:
        """Whether the group has had as many starts as its rate allows; then claims need not look at it."""
        if self._rate is None:
            return False
        room = self._rooms[group]
        if self._starts[group] < room.starts:
            return False
        until = room.free_at if room.free_at is not None else self._now + self._rate.per
        self.picked.full[group] = Throttle(rate_name(self._rate), until)
        return True

    def _push(self, lane: Lane, taken: int) -> None:
        """Put a lane in line by its next job; if that was not read, by the least that it can be."""
        if taken >= len(lane.jobs) and lane.ended:
            return
        sort_key, second = lane.jobs[min(taken, len(lane.jobs) - 1)]
        self._pushed += 1
        heappush(self._heap, (sort_key, self._served[lane.key[0]], second, self._pushed, taken, lane))
