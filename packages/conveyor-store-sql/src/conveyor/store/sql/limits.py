"""Limits: how many jobs may be active, and how many may start in a window.

Exact where a claim counts, and notes what it starts, within one transaction, and no other claim of the queue
does so meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple, Protocol

from conveyor.core.store import Claim, Limit, Rate
from conveyor.store.sql.values import microseconds

#: The target of a queue's own starts.
_WHOLE: Final = ""


class Scope(NamedTuple):
    """What a rate binds: a queue, or each of its groups."""

    queue: str
    kind: Literal["queue", "group"]


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many more jobs may start, and when one more may after those; None: not by time alone.

    Of a window: None if it is empty, for then it is one window from now.
    """

    starts: int
    free_at: datetime | None = None


class StartTable(Protocol):
    """The starts of jobs as a database keeps them, each with its scope and target.

    The target is the group that a job is of, or "" where all of a queue is one. Each method is asked under
    the lock that keeps other claims of the queue apart, and its statement begins after that is held.
    """

    async def count_active(self, queue: str, most: int) -> int:
        """How many jobs of a queue are active; counting may stop at `most`."""
        ...

    async def register_window(self, scope: Scope, rate: Rate, now: datetime) -> None:
        """Note that a claim asks for this window, and forget the starts that no window so far needs."""
        ...

    async def count_starts(
        self, scope: Scope, targets: Collection[str], rate: Rate, now: datetime
    ) -> Iterable[tuple[str, int, datetime | None]]:
        """How many starts of each target are in the window that ends now; without targets that have none.

        With each the start that must leave the window before one more may be there when it is full: with `n`
        starts in it, the one numbered `max(1, n - rate.max + 1)`, oldest first.
        """
        ...

    async def add_starts(self, scope: Scope, starts: Mapping[str, int], now: datetime) -> None:
        """Note that so many jobs of each target have started."""
        ...


def rate_of(limit: Limit | None) -> Rate | None:
    """The rate of a limit, if there is one."""
    return None if limit is None else limit.rate


def rate_name(rate: Rate) -> str:
    """What tells one rate from another."""
    return f"{rate.max}/{microseconds(rate.per)}"


async def register_windows(table: StartTable, request: Claim, now: datetime) -> None:
    """Note the windows that a claim asks for, and forget the starts that no window needs."""
    if (rate := rate_of(request.limit)) is not None:
        await table.register_window(Scope(request.queue, "queue"), rate, now)
    if (rate := rate_of(request.group_limit)) is not None:
        await table.register_window(Scope(request.queue, "group"), rate, now)


async def capacity(table: StartTable, request: Claim, count: int, now: datetime) -> Capacity:
    """How many of `count` jobs the queue's limit lets start."""
    limit = request.limit
    if limit is None:
        return Capacity(count)
    if limit.active is not None:
        count = min(count, limit.active - await table.count_active(request.queue, limit.active))
        if count <= 0:
            return Capacity(0)
    if limit.rate is None:
        return Capacity(count)
    found = (await windows(table, Scope(request.queue, "queue"), [_WHOLE], limit.rate, now))[_WHOLE]
    return Capacity(min(count, found.starts), found.free_at)


async def windows(
    table: StartTable, scope: Scope, targets: Collection[str], rate: Rate, now: datetime
) -> Mapping[str, Capacity]:
    """How many more starts the window of each target has room for."""
    if rate.max < 1:
        return dict.fromkeys(targets, Capacity(0))
    found = dict.fromkeys(targets, Capacity(rate.max))
    for target, starts, leaves in await table.count_starts(scope, targets, rate, now):
        found[target] = Capacity(max(rate.max - starts, 0), None if leaves is None else leaves + rate.per)
    return found


async def note_starts(table: StartTable, request: Claim, groups: Sequence[str | None], now: datetime) -> None:
    """Note for the windows of a claim that it has started jobs of these groups."""
    if groups and rate_of(request.limit) is not None:
        await table.add_starts(Scope(request.queue, "queue"), {_WHOLE: len(groups)}, now)
    starts = Counter(group for group in groups if group is not None)
    if starts and rate_of(request.group_limit) is not None:
        await table.add_starts(Scope(request.queue, "group"), starts, now)
