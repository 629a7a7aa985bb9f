"""Find what a claim may choose from: its preconditions, and the most urgent jobs of each sub-queue.

A job is known here by its sort key and a number that decides between equal ones: `(sort_key, tie_break)`
oldest first, `(sort_key, -seq)` newest first. The lesser goes first, and the number without its sign is the
job's `seq`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import Any, Final

from conveyor.core.store import Claim, Rate
from conveyor.store.pg.rows import instant, known_instant
from conveyor.store.pg.statements import Row, Session
from conveyor.store.sql import FOREVER, Picks, SubQueue, microseconds, rate_name

#: A group, and a name within it.
SubqueueKey = tuple[str | None, str]

#: How many more sub-queues are read than jobs are asked for: the last ones only show where the others begin.
_SPARE: Final = 10


@dataclass(frozen=True, slots=True)
class Preconditions:
    """What a claim has to know of its queue before it chooses, as of one moment.

    `paused_until` None: the queue is not paused. `picks` None: it has nothing to do with groups.
    `serialized`: its claims go one after another. `resumable`: groups may resume, and do not yet (see
    `housekeeping.py`).
    """

    now: datetime
    paused_until: datetime | None
    picks: Picks | None
    serialized: bool
    resumable: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sub-queue, how many jobs of its group were active at that moment, and when that was served last."""

    subqueue: SubQueue
    active: int
    last_served: int


@dataclass(frozen=True, slots=True)
class Reach:
    """How much to read for a number of jobs: so many sub-queues, and `times` as many jobs as asked for.

    The jobs are spread evenly over the sub-queues; of those in `deep` as many are read as are asked for.
    """

    subqueues: int
    times: int = 1
    deep: frozenset[SubqueueKey] = frozenset()

    @classmethod
    def of(cls, count: int) -> Reach:
        """What is mostly enough to choose `count` jobs."""
        return cls(count + _SPARE)

    def further(self, needed: SubQueue | None) -> Reach:
        """More of a sub-queue of which too little was read, and some more of all; else more sub-queues."""
        if needed is None:
            return replace(self, subqueues=self.subqueues * 4)
        return replace(self, times=self.times * 2, deep=self.deep | {(needed.group, needed.name)})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a claim sees, all as of one moment.

    `soonest` is when time alone may bring more. `beyond` is the most urgent that a sub-queue which was not
    read can be, by sort key, last pick of its group and what decides within them; None: there is none.
    """

    preconditions: Preconditions
    soonest: datetime | None
    candidates: Sequence[Candidate]
    beyond: tuple[float, int, int] | None


async def find_preconditions(
    session: Session, queue: str, now: datetime | None, group_rate: Rate | None = None
) -> Preconditions:
    """Find what a claim of the queue has to know before it chooses."""
    rate, window = _named(group_rate)
    [row] = await session.ask("claim_preconditions", queue=queue, now=now, rate=rate, window=window)
    return _preconditions(row)


async def find_candidates(
    session: Session, request: Claim, now: datetime, count: int, reach: Reach | None = None
) -> Snapshot:
    """Find what a claim may choose `count` jobs from; with a `reach`, the jobs of groups as well."""
    group = request.group_limit
    rate, window = _named(group.rate if group is not None else None)
    order = "newest" if request.newest_first else "oldest"
    wanted = {} if reach is None else _wanted(request, reach)
    rows = await session.ask(
        f"find_candidates:{order}" if reach is None else f"find_candidates_in_groups:{order}",
        queue=request.queue,
        now=now,
        rate=rate,
        window=window,
        names=None if request.names is None else sorted(request.names),
        count=count,
        **wanted,
    )
    soonest = rows[0][_PRECONDITIONS]
    found = sorted(row[_PRECONDITIONS + 1 :] for row in rows if row[-1] is not None)
    return Snapshot(
        preconditions=_preconditions(rows[0][:_PRECONDITIONS]),
        soonest=None if soonest is None else known_instant(soonest),
        candidates=[_candidate(list(of)) for _, of in groupby(found, key=lambda row: row[:3])],
        beyond=None if reach is None else _beyond(found, reach.subqueues),
    )


_BEFORE: Final = -(1 << 63)
#: How many columns of what is seen are those of claim_preconditions.sql.
_PRECONDITIONS: Final = 10
_NEVER_SERVED: Final = 1
_SERVED: Final = 2


def _named(rate: Rate | None) -> tuple[str, int]:
    return ("", 0) if rate is None else (rate_name(rate), microseconds(rate.per) or 0)


def _most(request: Claim) -> int | None:
    """How many jobs of a group may be active before this claim takes one; None: any number."""
    limit = request.group_limit
    if limit is None:
        return None
    return 0 if limit.rate is not None and limit.rate.max < 1 else limit.active


def _wanted(request: Claim, reach: Reach) -> dict[str, Any]:
    """How much is read of the sub-queues of groups."""
    return {
        "most": _most(request),
        "page": reach.subqueues,
        "times": reach.times,
        "deep_groups": [group for group, _ in reach.deep],
        "deep_names": [name for _, name in reach.deep],
    }


def _preconditions(row: Row) -> Preconditions:
    at, paused, until, _, latest, ungrouped, counted, grouped, serialized, resumable = row
    return Preconditions(
        now=known_instant(at),
        paused_until=(instant(until) or FOREVER) if paused else None,
        picks=Picks(latest, ungrouped, counted=counted) if counted or grouped else None,
        serialized=serialized,
        resumable=resumable,
    )


def _candidate(rows: Sequence[Row]) -> Candidate:
    """One sub-queue of what was found: a row for each of its jobs, the most urgent first."""
    _, group, name, active, last_served, *_, depth, _, _ = rows[0]
    jobs = deque((row[-2], row[-1]) for row in rows)
    ended = len(jobs) < depth or group is None
    return Candidate(SubQueue(group, name, jobs, jobs[-1], ended=ended), active, last_served)


def _beyond(found: Sequence[Row], most: int) -> tuple[float, int, int] | None:
    """Where the sub-queues that were not read begin, if not all were."""
    ends: list[tuple[float, int, int]] = []
    for stream in (_NEVER_SERVED, _SERVED):
        places = {row[1:3]: row[5:7] for row in found if row[0] == stream}
        if len(places) >= most:
            sort_key, second = max(places.values())
            ends.append((sort_key, 0, second) if stream == _NEVER_SERVED else (sort_key, second, _BEFORE))
    return min(ends, default=None)
