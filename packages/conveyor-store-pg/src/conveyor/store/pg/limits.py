"""Limits: how many jobs may be active, and how many may start in a window.

Exact, because a claim with a limit stands in line (lock_queue.sql) before it counts, and because nothing but
a claim adds to what is counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple

from conveyor.core.store import Limit, Rate
from conveyor.store.pg.rows import known_instant, microseconds
from conveyor.store.pg.statements import Session

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


def rate_name(rate: Rate) -> str:
    """What tells one rate from another."""
    return f"{rate.max}/{microseconds(rate.per)}"


async def room(session: Session, queue: str, limit: Limit | None, count: int, now: datetime) -> Room:
    """How much of a claim for `count` jobs the queue's limit leaves."""
    if limit is None:
        return Room(count)
    scope = Scope(queue, "queue")
    if limit.rate is not None:
        await carry(session, scope, limit.rate, now)
    if limit.active is not None:
        active = (await session.ask("count_active", queue=queue, limit=limit.active))[0][0]
        count = min(count, limit.active - active)
        if count <= 0:
            return Room(0)
    if limit.rate is None:
        return Room(count)
    found = (await windows(session, scope, [_WHOLE], limit.rate, now))[_WHOLE]
    return Room(min(count, found.starts), found.free_at)


async def carry(session: Session, scope: Scope, rate: Rate, now: datetime) -> None:
    """Note that a claim asks for this window, and forget the starts that no window needs."""
    await session.run("register_window", **scope._asdict(), longest=microseconds(rate.per))
    await session.run("forget_starts", queues=[scope.queue], kinds=[scope.kind], now=now)


async def windows(
    session: Session, scope: Scope, targets: Collection[str], rate: Rate, now: datetime
) -> Mapping[str, Room]:
    """How many more starts the window of each target has room for."""
    if rate.max < 1:
        return dict.fromkeys(targets, Room(0))
    found = dict.fromkeys(targets, Room(rate.max))
    counted = await session.ask(
        "count_starts",
        **scope._asdict(),
        targets=list(targets),
        since=now - rate.per,
        now=now,
        max=rate.max,
    )
    for target, starts, leaves in counted:
        found[target] = Room(
            max(rate.max - starts, 0), None if leaves is None else known_instant(leaves) + rate.per
        )
    return found


async def started(session: Session, scope: Scope, starts: Mapping[str, int], now: datetime) -> None:
    """Note that so many jobs of each target have started."""
    if starts:
        counted = {"targets": list(starts), "starts": list(starts.values())}
        await session.run("shift_later_starts", **scope._asdict(), **counted, now=now)
        await session.run("add_starts", **scope._asdict(), **counted, now=now)


async def queue_started(session: Session, queue: str, starts: int, now: datetime) -> None:
    """Note that so many jobs of the queue have started."""
    if starts:
        await started(session, Scope(queue, "queue"), {_WHOLE: starts}, now)
