"""Turns: which jobs a claim takes from a queue that knows groups.

Each pick goes to the most urgent job of the lane whose group was served longest ago. Picking one by one
in SQL would cost several statements for each job, so a claim reads the heads of the lanes that may be
next, in pages, makes all of its picks here, and writes once what came of them. That is exact because no other
claim of the queue is under way, and because a pick only ever makes its own group's lanes less urgent: lanes
that have not been read yet stay behind the last one that has.

Lanes that must be passed over are not read at all: those of paused groups are in no index, those of
groups with too many active jobs are of other kinds than the ones asked for, and a group whose window is
full is parked until it is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heappush
from typing import Any

from conveyor.core.store import Claim
from conveyor.store.pg.groups import Parking
from conveyor.store.pg.limits import Room, Scope, rate_name, windows
from conveyor.store.pg.statements import Session
from conveyor.store.pg.waiting import START, Names, Place, Turns, following, ungrouped


@dataclass(slots=True)
class Picked:
    """What a round picked, in order: jobs by their numbers, and the group of each."""

    jobs: list[tuple[int, str | None]] = field(default_factory=list)
    #: Groups that have had as many starts as their rate allows.
    full: dict[str, Parking] = field(default_factory=dict)


async def take_turns(
    session: Session, now: datetime, request: Claim, names: Names, *, count: int, turns: Turns
) -> Picked:
    """Pick up to `count` jobs by turns."""
    round_ = _Round(session, now, request, names, count=count, turns=turns)
    await round_.play()
    return round_.picked


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


@dataclass(slots=True, eq=False)
class _Lane:
    """The waiting jobs of one name in one group, as far as they have been read; group None: of no group."""

    group: str | None
    name: str
    #: The jobs to give next, most urgent first, and the last one read.
    jobs: deque[Place]
    last: Place
    #: Whether there are no jobs behind the last one read.
    ended: bool


@dataclass(slots=True, eq=False)
class _Stream:
    """Lanes in order, read by pages: those whose group has had a turn, or those whose group has not."""

    statement: str
    kinds: list[Sequence[Any]]
    #: All lanes before this have been read; None: all lanes.
    read_to: Place | None = START
    seen: set[tuple[str, str]] = field(default_factory=set)

    @property
    def bound(self) -> tuple[float, int, int] | None:
        """The most urgent that a lane which has not been read can be; None: there is none."""
        if self.read_to is None or not self.kinds:
            return None
        rank, second = self.read_to
        return (rank, second, START[1]) if self.statement == "lanes_served" else (rank, 0, second)


class _Round:
    """The picks of one claim."""

    def __init__(
        self, session: Session, now: datetime, request: Claim, names: Names, *, count: int, turns: Turns
    ) -> None:
        self._session = session
        self._request = request
        self._queue = request.queue
        self._names = names
        self._count = count
        self._now = now
        self._limit = request.group_limit
        self._rate = self._limit.rate if self._limit is not None else None
        self._turn = turns.latest
        self._counted = turns.counted
        self._served: dict[str | None, int] = {None: turns.ungrouped}
        self._active: dict[str, int] = {}
        self._windows: dict[str, Room] = {}
        self._starts: dict[str, int] = {}
        self._heap: list[tuple[float, int, int, int, _Lane]] = []
        self._pushed = 0
        self._streams: list[_Stream] = []
        self.picked = Picked()

    # ---------------------------------------------------------------- picking

    async def play(self) -> None:
        """Pick until there are enough jobs, or none left."""
        await self._open_streams()
        jobs = await ungrouped(self._session, self._request, self._names, self._count)
        if jobs:
            self._push(_Lane(None, "", deque(jobs), jobs[-1], ended=True))
        while len(self.picked.jobs) < self._count:
            await self._read_ahead()
            if not self._heap:
                return
            _, served, _, _, lane = heappop(self._heap)
            if served != self._served[lane.group]:  # another lane of its group has had the turn meanwhile
                self._push(lane)
            elif not lane.jobs:
                await self._read_jobs(lane)
            elif lane.group is None or self._may_start(lane.group):
                self._pick(lane)

    def _pick(self, lane: _Lane) -> None:
        _, second = lane.jobs.popleft()
        self.picked.jobs.append((abs(second), lane.group))
        if self._counted:
            self._turn += 1
            self._served[lane.group] = self._turn
        if lane.group is not None:
            self._active[lane.group] += 1
            self._starts[lane.group] = self._starts.get(lane.group, 0) + 1
            if self._is_full(lane.group):
                return
        if lane.jobs or not lane.ended:
            self._push(lane)

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
        room = self._windows[group]
        if self._starts.get(group, 0) < room.starts:
            return False
        until = room.free_at if room.free_at is not None else self._now + self._rate.per
        self.picked.full[group] = Parking(rate_name(self._rate), until)
        return True

    def _push(self, lane: _Lane) -> None:
        """Put a lane in line by its first job; if that is not known, by the least that it can be."""
        rank, second = lane.jobs[0] if lane.jobs else lane.last
        self._pushed += 1
        heappush(self._heap, (rank, self._served[lane.group], second, self._pushed, lane))

    # ---------------------------------------------------------------- reading

    async def _open_streams(self) -> None:
        if self._rate is not None and self._rate.max < 1:
            return
        fresh = "lanes_fresh_newest" if self._request.newest_first else "lanes_fresh"
        self._streams = [
            _Stream(fresh, await self._kinds("kinds_fresh")),
            _Stream("lanes_served", await self._kinds("kinds_served")),
        ]

    async def _kinds(self, name: str) -> list[Sequence[Any]]:
        """The kinds of lanes that this claim may take from."""
        most = None if self._limit is None else self._limit.active
        parked = None if self._rate is None else rate_name(self._rate)
        return [
            (lane, parked_for, active)
            for lane, parked_for, active in await self._session.ask(name, queue=self._queue)
            if (self._names is None or lane in self._names)
            and parked_for != parked
            and (most is None or active < most)
        ]

    async def _read_ahead(self) -> None:
        """Read lanes until none that has not been read can be before the first in line."""
        for stream in self._streams:
            while stream.bound is not None and (not self._heap or stream.bound <= self._heap[0][:3]):
                await self._read_page(stream)

    async def _read_page(self, stream: _Stream) -> None:
        """Read the next lanes of a stream, their groups' windows with them."""
        rank, second = stream.read_to or START
        # The lanes of one group share their turn, so a page may end between them: it begins again there,
        # and is larger than they can be.
        count = self._count + len(stream.kinds)
        names, parked, active = zip(*stream.kinds, strict=True)
        rows = await self._session.ask(
            stream.statement,
            queue=self._queue,
            names=list(names),
            parked=list(parked),
            active=list(active),
            rank=rank,
            second=second,
            count=count,
        )
        stream.read_to = None if len(rows) < count else (rows[-1][0], rows[-1][1])
        new = [row for row in rows if (row[2], row[3]) not in stream.seen]
        stream.seen.update((row[2], row[3]) for row in new)
        if self._rate is not None:
            groups = {row[2] for row in new} - self._windows.keys()
            scope = Scope(self._queue, "group")
            self._windows.update(await windows(self._session, scope, groups, self._rate, self._now))
        for rank, _, group, name, running, place, newest, served in new:
            self._active.setdefault(group, running)
            self._served.setdefault(group, served)
            head = (rank, newest if self._request.newest_first else place)
            self._push(_Lane(group, name, deque([head]), head, ended=False))

    async def _read_jobs(self, lane: _Lane) -> None:
        """Read what comes next in a lane, which has been given out as far as it was read."""
        wanted = self._count - len(self.picked.jobs)
        jobs = await following(
            self._session,
            "grouped",
            {"queue": self._queue, "group": lane.group, "name": lane.name},
            lane.last,
            wanted,
            newest=self._request.newest_first,
        )
        lane.ended = len(jobs) < wanted
        if jobs:
            lane.jobs.extend(jobs)
            lane.last = jobs[-1]
            self._push(lane)
