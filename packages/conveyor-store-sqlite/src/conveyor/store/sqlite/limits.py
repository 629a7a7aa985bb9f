"""Limits: how many jobs may be active, and how many may start in a window.

Exact, because a claim reads and writes within one transaction of the only writer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from sqlite3 import Connection
from typing import Final, Literal, NamedTuple

from conveyor.core.store import Limit, Rate
from conveyor.store.sqlite.rows import MICROSECOND, microseconds, read, written
from conveyor.store.sqlite.statements import ask, fetch, run, text

#: What a queue's own starts are of.
_WHOLE: Final = ""


class Scope(NamedTuple):
    """What a rate binds: a queue, or each of its groups."""

    queue: str
    kind: Literal["queue", "group"]


@dataclass(frozen=True, slots=True)
class Room:
    """How many more jobs may start, and when one more may after those; None: not by time alone.

    Of a window: None if it is empty, for then it is one window from now.
    """

    starts: int
    free_at: datetime | None = None


def room(db: Connection, queue: str, limit: Limit | None, count: int, now: datetime) -> Room:
    """How much of a claim for `count` jobs the queue's limit leaves."""
    if limit is None:
        return Room(count)
    scope = Scope(queue, "queue")
    if limit.rate is not None:
        carry(db, scope, limit.rate, now)
    if limit.active is not None:
        active = fetch(db, "count_active", queue=queue, limit=limit.active)[0]
        count = min(count, limit.active - active)
        if count <= 0:
            return Room(0)
    if limit.rate is None:
        return Room(count)
    found = windows(db, scope, [_WHOLE], limit.rate, now)[_WHOLE]
    return Room(min(count, found.starts), found.free_at)


def carry(db: Connection, scope: Scope, rate: Rate, now: datetime) -> None:
    """Note that a claim asks for this window, and forget the starts that no window needs."""
    run(db, "register_window", **scope._asdict(), longest=microseconds(rate.per))
    _forget(db, scope, now)


def windows(
    db: Connection, scope: Scope, targets: Collection[str], rate: Rate, now: datetime
) -> Mapping[str, Room]:
    """How many more starts the window of each target has room for."""
    if rate.max < 1:
        return dict.fromkeys(targets, Room(0))
    found = dict.fromkeys(targets, Room(rate.max))
    counted = ask(
        db,
        "count_starts",
        **scope._asdict(),
        targets=text(list(targets)),
        since=written(now - rate.per),
        now=written(now),
        max=rate.max,
    )
    for target, starts, leaves in counted:
        found[target] = Room(max(rate.max - starts, 0), None if leaves is None else read(leaves) + rate.per)
    return found


def started(db: Connection, scope: Scope, starts: Mapping[str, int], now: datetime) -> None:
    """Note that so many jobs of each target have started."""
    if starts:
        targets = text(list(starts.items()))
        run(db, "shift_later_starts", **scope._asdict(), targets=targets, now=written(now))
        run(db, "add_starts", **scope._asdict(), targets=targets, now=written(now))


def queue_started(db: Connection, queue: str, starts: int, now: datetime) -> None:
    """Note that so many jobs of the queue have started."""
    if starts:
        started(db, Scope(queue, "queue"), {_WHOLE: starts}, now)


def forget_starts(db: Connection, queue: str, now: datetime) -> None:
    """Forget the starts that no window needs any more."""
    _forget(db, Scope(queue, "queue"), now)
    _forget(db, Scope(queue, "group"), now)


def _forget(db: Connection, scope: Scope, now: datetime) -> None:
    row = fetch(db, "longest_window", **scope._asdict())
    if row is not None:
        horizon = written(now - max(row[0], 0) * MICROSECOND)
        run(db, "forget_starts", **scope._asdict(), horizon=horizon)
