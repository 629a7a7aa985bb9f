"""Fair share on this store: the sub-queues that a claim of a queue with groups may pick from next.

All that the picks of a claim are made from was read by one statement (see `conveyor.store.sql.FairShare`).
Where too little was read, all of it is read again, and more of what was too little: what a second statement
added would be of a later moment.
"""

from __future__ import annotations

from datetime import datetime

from conveyor.core.store import Claim
from conveyor.store.pg.candidates import Reach, Snapshot, find_candidates
from conveyor.store.pg.limits import Starts
from conveyor.store.pg.statements import Session
from conveyor.store.sql import Capacity, FairShare, Scope, rate_of, windows


async def pick_by_fair_share(
    session: Session, now: datetime, request: Claim, count: int
) -> tuple[FairShare | None, Snapshot]:
    """Pick up to `count` jobs by fair share, unless there is no more to choose; with what was looked at."""
    reach = Reach.of(count)
    known: dict[str, Capacity] = {}
    while True:
        snapshot = await find_candidates(session, request, now, count, reach)
        if snapshot.preconditions.picks is None or snapshot.preconditions.paused_until is not None:
            return None, snapshot
        share = FairShare(request, now, count=count, picks=snapshot.preconditions.picks)
        share.beyond = snapshot.beyond
        await _read_windows(session, now, request, snapshot, known)
        share.windows.update(known)
        for candidate in snapshot.candidates:
            share.add(candidate.subqueue, active=candidate.active, last_served=candidate.last_served)
        more = share.pick()
        if more is None:
            return share, snapshot
        reach = reach.further(more.of)


async def _read_windows(
    session: Session, now: datetime, request: Claim, snapshot: Snapshot, known: dict[str, Capacity]
) -> None:
    """Learn how many jobs of each group may start; only a claim of the queue could change that."""
    rate = rate_of(request.group_limit)
    groups = {candidate.subqueue.group for candidate in snapshot.candidates}
    unknown = {group for group in groups if group is not None} - known.keys()
    if rate is not None and unknown:
        known.update(await windows(Starts(session), Scope(request.queue, "group"), unknown, rate, now))
