"""Turns: which jobs a claim takes from a queue that knows groups.

Each pick goes to the most urgent job of the lane whose group was served longest ago. Picking one by one
in SQL would cost several statements for each job, so a claim reads the heads of the lanes that may be
next, in pages, makes all of its picks here, and writes once what came of them. That is exact because
nobody else writes meanwhile, and because a pick only ever makes its own group's lanes less urgent: lanes
that have not been read yet stay behind the last one that has.

Lanes that must be passed over are not read at all: those of paused groups are in no index, those of
groups with too many active jobs are of other kinds than the ones asked for, and a group whose window is
full is throttled until it is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heappush
from sqlite3 import Connection
from typing import Any

from conveyor.core.store import Claim
from conveyor.store.sql import Capacity, Scope, rate_name, rate_of, run_now, windows
from conveyor.store.sqlite.limits import Starts
from conveyor.store.sqlite.rows import written
from conveyor.store.sqlite.statements import ask, run, text
from conveyor.store.sqlite.waiting import START, Names, Position, Turns, before_stalled, following, ungrouped


def take_turns(
    db: Connection, now: datetime, request: Claim, names: Names, *, count: int, turns: Turns
) -> tuple[Sequence[tuple[int, str | None]], bool]:
    """Pick up to `count` jobs by turns, each returned with its group, and note the turns.

    Says, too, whether one that has stalled before ended them.
    """
    run(db, "end_group_pauses", queue=request.queue, now=written(now))
    round_ = _Round(db, now, request, names, count=count, turns=turns)
    round_.play()
    most = before_stalled(db, request, [seq for seq, _ in round_.picked])
    if most is not None:  # the same picks, as far as they go
        round_ = _Round(db, now, request, names, count=most, turns=turns)
        round_.play()
    round_.write()
    return round_.picked, most is not None


@dataclass(slots=True, eq=False)
class _Lane:
    """The waiting jobs of one name in one group, as far as they have been read; group None: of no group."""

    group: str | None
    name: str
    #: The jobs to give next, most urgent first, and the last one read.
    jobs: deque[Position]
    last: Position
    #: Whether there are no jobs behind the last one read.
    ended: bool


@dataclass(slots=True, eq=False)
class _Stream:
    """Lanes in order, read by pages: those whose group has had a turn, or those whose group has not."""

    statement: str
    kinds: list[Sequence[Any]]
    #: All lanes before this have been read; None: all lanes.
    read_to: Position | None = START
    seen: set[tuple[str, str]] = field(default_factory=set)

    @property
    def bound(self) -> tuple[int, int, int] | None:
        """The most urgent that a lane which has not been read can be; None: there is none."""
        if self.read_to is None or not self.kinds:
            return None
        sort_key, second = self.read_to
        return (sort_key, second, START[1]) if self.statement == "lanes_served" else (sort_key, 0, second)


class _Round:
    """The picks of one claim."""

    def __init__(
        self, db: Connection, now: datetime, request: Claim, names: Names, *, count: int, turns: Turns
    ) -> None:
        self._db = db
        self._request = request
        self._queue = request.queue
        self._names = names
        self._count = count
        self._now = now
        self._limit = request.group_limit
        self._rate = rate_of(request.group_limit)
        self._turn = turns.latest
        self._counted = turns.counted
        self._served: dict[str | None, int] = {None: turns.ungrouped}
        self._active: dict[str, int] = {}
        self._windows: dict[str, Capacity] = {}
        self._full: dict[str, datetime] = {}
        self._starts: dict[str, int] = {}
        self._heap: list[tuple[int, int, int, int, _Lane]] = []
        self._pushed = 0
        self._streams = self._open_streams()
        self.picked: list[tuple[int, str | None]] = []

    # ---------------------------------------------------------------- picking

    def play(self) -> None:
        """Pick until there are enough jobs, or none left."""
        jobs = ungrouped(self._db, self._request, self._names, self._count)
        if jobs:
            self._push(_Lane(None, "", deque(jobs), jobs[-1], ended=True))
        while len(self.picked) < self._count:
            self._read_ahead()
            if not self._heap:
                return
            _, served, _, _, lane = heappop(self._heap)
            if served != self._served[lane.group]:  # another lane of its group has had the turn meanwhile
                self._push(lane)
            elif not lane.jobs:
                self._read_jobs(lane)
            elif lane.group is None or self._may_start(lane.group):
                self._pick(lane)

    def _pick(self, lane: _Lane) -> None:
        _, second = lane.jobs.popleft()
        self.picked.append((abs(second), lane.group))
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
        self._full[group] = room.free_at if room.free_at is not None else self._now + self._rate.per
        return True

    def _push(self, lane: _Lane) -> None:
        """Put a lane in line by its first job; if that is not known, by the least that it can be."""
        sort_key, second = lane.jobs[0] if lane.jobs else lane.last
        self._pushed += 1
        heappush(self._heap, (sort_key, self._served[lane.group], second, self._pushed, lane))

    # ---------------------------------------------------------------- reading

    def _open_streams(self) -> list[_Stream]:
        if self._rate is not None:
            if self._rate.max < 1:
                return []
            latest = written(self._now + self._rate.per)
            run(self._db, "unthrottle_groups", queue=self._queue, now=written(self._now), latest=latest)
        fresh = "lanes_fresh_newest" if self._request.newest_first else "lanes_fresh"
        return [
            _Stream(fresh, self._kinds("kinds_fresh")),
            _Stream("lanes_served", self._kinds("kinds_served")),
        ]

    def _kinds(self, name: str) -> list[Sequence[Any]]:
        """The kinds of lanes that this claim may take from."""
        most = None if self._limit is None else self._limit.active
        throttled = None if self._rate is None else rate_name(self._rate)
        return [
            (lane, throttled_for, active)
            for lane, throttled_for, active in ask(self._db, name, queue=self._queue)
            if (self._names is None or lane in self._names)
            and throttled_for != throttled
            and (most is None or active < most)
        ]

    def _read_ahead(self) -> None:
        """Read lanes until none that has not been read can be before the first in line."""
        for stream in self._streams:
            while stream.bound is not None and (not self._heap or stream.bound <= self._heap[0][:3]):
                self._read_page(stream)

    def _read_page(self, stream: _Stream) -> None:
        """Read the next lanes of a stream, their groups' windows with them."""
        sort_key, second = stream.read_to or START
        # The lanes of one group share their turn, so a page may end between them: it begins again there,
        # and is larger than they can be.
        count = self._count + len(stream.kinds)
        rows = ask(
            self._db,
            stream.statement,
            queue=self._queue,
            kinds=text(stream.kinds),
            sort_key=sort_key,
            second=second,
            count=count,
        )
        stream.read_to = None if len(rows) < count else (rows[-1][0], rows[-1][1])
        new = [row for row in rows if (row[2], row[3]) not in stream.seen]
        stream.seen.update((row[2], row[3]) for row in new)
        if self._rate is not None:
            groups = {row[2] for row in new} - self._windows.keys()
            self._windows.update(
                run_now(windows(Starts(self._db), Scope(self._queue, "group"), groups, self._rate, self._now))
            )
        for sort_key, _, group, name, active, tie_break, newest, served in new:
            self._active.setdefault(group, active)
            self._served.setdefault(group, served)
            head = (sort_key, newest if self._request.newest_first else tie_break)
            self._push(_Lane(group, name, deque([head]), head, ended=False))

    def _read_jobs(self, lane: _Lane) -> None:
        """Read what comes next in a lane, which has been given out as far as it was read."""
        wanted = self._count - len(self.picked)
        jobs = following(
            self._db,
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

    # ---------------------------------------------------------------- writing

    def write(self) -> None:
        """Note whose turns they were, and which groups to pass over for a while."""
        if self.picked and self._counted:
            turns = [(group, self._served[group]) for group in self._starts]
            run(self._db, "serve_groups", queue=self._queue, served=text(turns))
            run(self._db, "serve_queue", queue=self._queue, turns=self._turn, served=self._served[None])
        if self._rate is not None and self._full:
            full = [(group, written(until)) for group, until in self._full.items()]
            run(self._db, "throttle_groups", queue=self._queue, rate=rate_name(self._rate), groups=text(full))
