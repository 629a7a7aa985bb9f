"""Find what a claim may choose from: its preconditions, and the most urgent jobs of a sub-queue.

A job is known here by its sort key and a number that decides between equal ones: `(sort_key, tie_break)`
oldest first, `(sort_key, -seq)` newest first. The lesser goes first, and the number without its sign is the
job's `seq`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice
from sqlite3 import Connection
from typing import Any, Final

from conveyor.core.store import Claim, Stalled
from conveyor.store.sql import FOREVER, Picks, Position
from conveyor.store.sqlite.rows import read, written
from conveyor.store.sqlite.statements import ask, execute, fetch, text
from conveyor.store.sqlite.where import in_subqueue

_BEFORE: Final = -(1 << 63)
_BEYOND: Final = (1 << 63) - 1

#: The names that may be claimed; None: all.
Names = Collection[str] | None
#: The first position of all: what comes after it is everything.
START: Final = (_BEFORE, _BEFORE)


@dataclass(frozen=True, slots=True)
class Preconditions:
    """What a claim has to know of its queue before it chooses.

    `paused_until` None: the queue is not paused. `picks` None: it has nothing to do with groups.
    """

    paused_until: datetime | None
    paused_names: frozenset[str]
    picks: Picks | None


def find_preconditions(db: Connection, queue: str, now: datetime) -> Preconditions:
    """Find whether the queue is paused, which names are, and its picks so far."""
    row = fetch(db, "claim_preconditions", queue=queue, now=written(now))
    until, names, latest, ungrouped, grouped = row
    picks: Picks | None = None
    if latest is not None:
        picks = Picks(latest, ungrouped, counted=True)
    elif grouped:
        picks = Picks(0, 0, counted=False)
    return Preconditions(
        paused_until=None if until is None else read(until) if until else FOREVER,
        paused_names=frozenset(json.loads(names)),
        picks=picks,
    )


def allowed_names(db: Connection, request: Claim, preconditions: Preconditions) -> Names:
    """The names that a claim may take; None if that is all there are."""
    if request.names is None and not preconditions.paused_names:
        return None
    there = set(ask(db, "ungrouped_names", queue=request.queue))
    if preconditions.picks is not None:
        there.update(ask(db, "subqueue_names", queue=request.queue))
    allowed = there - preconditions.paused_names
    if request.names is not None:
        allowed &= request.names
    return None if allowed == there else allowed


def most_urgent(db: Connection, request: Claim, names: Names, count: int) -> list[int]:
    """The jobs to claim of a queue that has nothing to do with groups."""
    return [abs(second) for _, second in ungrouped(db, request, names, count)]


def before_stalled(db: Connection, request: Claim, seqs: Sequence[int]) -> int | None:
    """How many of these jobs a claim may return because one has stalled before; None: all of them."""
    if request.stalled is Stalled.ALIKE:
        return None
    (first,) = fetch(db, "first_stalled", seqs=text(seqs))
    return None if first is None else max(first, 1 if request.stalled is Stalled.ALONE else 0)


def ungrouped(db: Connection, request: Claim, names: Names, count: int) -> list[Position]:
    """The most urgent jobs without a group."""
    if names is None:
        return jobs_after(
            db, "ungrouped", {"queue": request.queue}, START, count, newest=request.newest_first
        )
    each = (
        jobs_after(
            db, "named", {"queue": request.queue, "name": name}, START, count, newest=request.newest_first
        )
        for name in names
    )
    return list(islice(merge(*each), count))


def jobs_after(
    db: Connection, kind: str, of: Mapping[str, Any], after: Position, count: int, *, newest: bool
) -> list[Position]:
    """The most urgent jobs of a sub-queue behind a position."""
    if newest:
        return _newest(db, kind, of, after, count)
    sort_key, tie_break = after
    row = execute(
        db,
        in_subqueue("jobs_oldest", kind),
        {**of, "sort_key": sort_key, "tie_break": tie_break, "count": count},
    ).fetchone()
    return [(sort_key, tie_break) for sort_key, tie_break in json.loads(row[0])]


def _newest(db: Connection, kind: str, of: Mapping[str, Any], after: Position, count: int) -> list[Position]:
    """The same, newest first within a sort key: one after another, because no index has that order."""
    found: list[Position] = []
    sort_key, second = after
    before = _BEYOND if second == _BEFORE else -second
    while len(found) < count:
        limits = {**of, "sort_key": sort_key, "before": before, "count": count - len(found)}
        row = execute(db, in_subqueue("jobs_newest", kind), limits).fetchone()
        newest = sorted((-abs(tie_break) for _, tie_break in json.loads(row[0])))
        found += [(sort_key, seq) for seq in newest[: count - len(found)]]
        if len(found) >= count:
            break
        (sort_key,) = execute(db, in_subqueue("next_sort_key", kind), {**of, "sort_key": sort_key}).fetchone()
        if sort_key is None:
            break
        before = _BEYOND
    return found
