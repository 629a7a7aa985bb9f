"""What waits in a queue: what stands in a claim's way, and the most urgent jobs of a lane.

A job is known here by its rank and a number that decides within the rank: `(rank, place)` oldest first,
`(rank, -seq)` newest first. The lesser goes first, and the number without its sign is the job's `seq`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Any, Final

from conveyor.core.store import Claim, Rate
from conveyor.store.pg.limits import rate_name
from conveyor.store.pg.rows import FOREVER, instant, known_instant, microseconds
from conveyor.store.pg.statements import Session

_BEFORE: Final = -(1 << 63)
_BEYOND: Final = (1 << 63) - 1

#: Rank, and what decides within it.
Place = tuple[float, int]
#: The names that may be claimed; None: all.
Names = Collection[str] | None
#: The first place of all: what comes after it is everything.
START: Final[Place] = (float("-inf"), _BEFORE)


@dataclass(frozen=True, slots=True)
class Turns:
    """The turns of a queue: the number of the latest, and of the latest without a group.

    `counted` is false while the queue knows no group, though it has jobs of groups that it knew once.
    """

    latest: int
    ungrouped: int
    counted: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """What stands in the way of a claim at that moment.

    `paused_until` None: the queue is not paused. `turns` None: it has nothing to do with groups. `in_line`:
    its claims go one after another. `over`: groups may go on, and that has not been noted (see `tidying`).
    """

    now: datetime
    paused_until: datetime | None
    paused_names: frozenset[str]
    turns: Turns | None
    in_line: bool
    over: bool


async def gate(session: Session, queue: str, now: datetime | None, group_rate: Rate | None = None) -> Gate:
    """What a claim of the queue has to know before it chooses."""
    rate, window = ("", 0) if group_rate is None else (rate_name(group_rate), microseconds(group_rate.per))
    [row] = await session.ask("gate", queue=queue, now=now, rate=rate, window=window)
    at, paused, until, names, latest, ungrouped, counted, grouped, in_line, over = row
    return Gate(
        now=known_instant(at),
        paused_until=(instant(until) or FOREVER) if paused else None,
        paused_names=frozenset(names),
        turns=Turns(latest, ungrouped, counted=counted) if counted or grouped else None,
        in_line=in_line,
        over=over,
    )


async def allowed_names(session: Session, request: Claim, state: Gate) -> Names:
    """The names that a claim may take; None if that is all there are."""
    if request.names is None and not state.paused_names:
        return None
    there = {name for (name,) in await session.ask("names", queue=request.queue)}
    if state.turns is not None:
        there.update(name for (name,) in await session.ask("lane_names", queue=request.queue))
    allowed = there - state.paused_names
    if request.names is not None:
        allowed &= request.names
    return None if allowed == there else allowed


async def ungrouped(session: Session, request: Claim, names: Names, count: int) -> list[Place]:
    """The most urgent jobs without a group."""
    if names is None:
        return await following(
            session, "ungrouped", {"queue": request.queue}, START, count, newest=request.newest_first
        )
    if not request.newest_first:
        found = await session.ask("first_named", queue=request.queue, names=sorted(names), count=count)
        return [(rank, place) for rank, place in found]
    each = [
        await following(session, "named", {"queue": request.queue, "name": name}, START, count, newest=True)
        for name in names
    ]
    return list(islice(merge(*each), count))


async def following(
    session: Session, lane: str, of: Mapping[str, Any], after: Place, count: int, *, newest: bool
) -> list[Place]:
    """The most urgent jobs of a lane behind a place."""
    if newest:
        return await _newest(session, lane, of, after, count)
    rank, place = after
    found = await session.ask(f"first:{lane}", **of, rank=rank, place=place, count=count)
    return [(rank, place) for rank, place in found]


async def _newest(
    session: Session, lane: str, of: Mapping[str, Any], after: Place, count: int
) -> list[Place]:
    """The same, newest first within a rank: rank by rank, because no index has that order."""
    found: list[Place] = []
    rank, second = after
    before = _BEYOND if second == _BEFORE else -second
    while len(found) < count:
        limits = {"rank": rank, "before": before, "count": count - len(found)}
        newest = sorted(-abs(place) for _, place in await session.ask(f"newest:{lane}", **of, **limits))
        found += [(rank, seq) for seq in newest[: count - len(found)]]
        if len(found) >= count:
            break
        [(following_rank,)] = await session.ask(f"next_rank:{lane}", **of, rank=rank)
        if following_rank is None:
            break
        rank, before = following_rank, _BEYOND
    return found
