"""What a claim returns: the jobs leased, and how long to wait where there were too few."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from conveyor.core.store import Claim, Claimed, JobRecord, Lease, Undecodable
from conveyor.store.sql.limits import StartTable, capacity, rate_name, rate_of
from conveyor.store.sql.records import ATTEMPT, ID
from conveyor.store.sql.values import FOREVER, NO_TIME

#: One look at what is to come; see `time_until_more`.
Look = Callable[[str], Awaitable[tuple[bool, datetime | None]]]


@dataclass(slots=True)
class Taken:
    """What a claim has leased, by its token: `jobs`, and those whose rows cannot be read.

    `now` is the moment of the claim.
    """

    now: datetime
    token: str
    jobs: list[JobRecord] = field(default_factory=list)
    undecodable: list[Undecodable] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many jobs it has leased."""
        return len(self.jobs) + len(self.undecodable)

    def add(self, row: Sequence[Any], found: JobRecord | Exception) -> None:
        """Add a job that was leased, by its row and its record, or why there is no record."""
        if isinstance(found, JobRecord):
            self.jobs.append(found)
        else:
            lease, reason = Lease(row[0], row[ID], self.token), f"{type(found).__name__}: {found}"
            self.undecodable.append(Undecodable(lease=lease, attempt=row[ATTEMPT], reason=reason))

    def claimed(self, wait: timedelta | None = None, *, cut_short: bool = False) -> Claimed:
        """What the claim returns."""
        return Claimed(
            jobs=self.jobs, now=self.now, wait=wait, undecodable=self.undecodable, cut_short=cut_short
        )


async def time_until_more(
    table: StartTable,
    request: Claim,
    now: datetime,
    look: Look,
    *,
    paused_until: datetime | None,
    limited: bool,
) -> timedelta | None:
    """How long until a claim that got too few jobs may get more; None: time alone does not bring that about.

    `paused_until` None: the queue is not paused. `limited`: it took all that the queue's limit let start.
    `look` is asked once at most, with the name of the claim's group rate ("": it has none). It answers with
    whether a job is waiting that may be claimed as far as its name, its pauses and its own group go, and with
    the moment at which time alone brings another: the least of when a job is due, when the pause of a name or
    a group ends, and when the window of a group has room again; None if none of these is to come. That is
    returned, unless a job is waiting that the queue's own pause or limit keeps: then it is when that ends.
    """
    free_at = paused_until
    if free_at is None:
        left = await capacity(table, request, 1, now)
        free_at = now if left.starts > 0 else left.free_at
    if free_at is None or free_at == FOREVER:
        return None
    rate = rate_of(request.group_limit)
    waiting, soonest = await look("" if rate is None else rate_name(rate))
    if waiting and (limited or paused_until is not None):
        return max(free_at - now, NO_TIME)
    return None if soonest is None else max(soonest - now, free_at - now, NO_TIME)
