"""Leasing jobs: choose them, lease them, read them.

A queue that has nothing to do with groups, limits or pauses is claimed from by one statement, and any number
of claims run side by side. A claim with a limit, and every claim of a queue that has groups or has known a
limit, locks the queue's row first, and only then looks: what it counts is true until it commits.
Where the limit is one of active jobs only, and nothing else is in the way, that statement counts as well.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from conveyor.core.store import Claim, Claimed, JobState, Stalled
from conveyor.store.pg.candidates import Preconditions, Snapshot, find_candidates, find_preconditions
from conveyor.store.pg.fair_share import pick_by_fair_share
from conveyor.store.pg.groups import Throttle, Transition, record_transitions
from conveyor.store.pg.limits import Starts
from conveyor.store.pg.rows import instant, known_instant, moment, record_or_reason
from conveyor.store.pg.statements import RetryStep, Row, Session
from conveyor.store.sql import (
    GROUP,
    MICROSECOND,
    NAME,
    NO_TIME,
    SEQ,
    FairShare,
    Taken,
    capacity,
    note_starts,
    rate_name,
    rate_of,
    register_windows,
    time_until_more,
)

#: After this a claim may find the job free that it has passed over, because another call was at it.
_A_MOMENT: Final = timedelta(milliseconds=20)
#: How often a claim looks again when other claims were faster.
_LOOKS: Final = 5


class GroupsMayResume(Exception):  # noqa: N818 - not an error: nothing is wrong
    """Pauses of groups are over, or their throttling is: resume them, and claim again."""


# ------------------------------------------------------------------ the fast path


def fits_fast_path(request: Claim) -> bool:
    """Whether one statement may be enough; where there is a limit, once the queue is locked."""
    return (
        request.names is None
        and request.group_limit is None
        and (request.limit is None or request.limit.rate is None)
        and not request.newest_first
    )


async def claim_fast(
    session: Session, now: datetime | None, request: Claim, *, locked: bool = False
) -> Claimed | None:
    """Lease the most urgent jobs by one statement; None, with nothing leased, if it needs the slow path.

    `locked`: the queue's row is locked, and no other claim of it is under way.
    """
    rows = await session.ask(
        "claim",
        **_lease_of(request),
        queue=request.queue,
        count=request.count,
        now=now,
        locked=locked,
        active=None if request.limit is None else request.limit.active,
        **_stalled(request),
    )
    at, needs_slow_path, left, due, passed_over, cut_short, *_ = rows[0]
    if needs_slow_path:
        return None
    taken = Taken(known_instant(at), request.token)
    leased = [row[6:] for row in rows if row[6] is not None]
    for row in sorted(leased, key=_urgency):
        _add(taken, row)
    if taken.count >= left or cut_short:
        # As many as were asked for; or as the limit allows, or as may come together, and no time brings more.
        return taken.claimed(cut_short=cut_short)
    wait = None if due is None else max(known_instant(due) - taken.now, NO_TIME)
    return taken.claimed(_soon(wait) if passed_over else wait)


def _add(taken: Taken, row: Row) -> None:
    taken.add(row, record_or_reason(row, taken.now))


def _soon(wait: timedelta | None) -> timedelta:
    """A wait after which a job may be free that another call had locked: no event says so."""
    return _A_MOMENT if wait is None else min(wait, _A_MOMENT)


def _urgency(row: Row) -> tuple[float, int]:
    sort_key, seq, lifo = row[SEQ + 1], row[SEQ], row[7]
    return sort_key, -seq if lifo else seq


# ------------------------------------------------------------------ the slow path


async def claim(session: Session, now: datetime | None, request: Claim, *, resumed: bool = False) -> Claimed:
    """Lease the most urgent jobs that may be claimed.

    Raises GroupsMayResume, with nothing leased, if groups are to be resumed first; unless that was done
    (`resumed`): then such groups wait for the next claim, which `Claimed.wait` asks for at once.
    """
    limited = request.limit is not None or request.group_limit is not None
    preconditions = None if limited else await find_preconditions(session, request.queue, now)
    if preconditions is None or preconditions.picks is not None or preconditions.serialized:
        await session.run("lock_queue", queue=request.queue, limited=limited)
        if fits_fast_path(request):
            claimed = await claim_fast(session, now, request, locked=True)
            if claimed is not None:
                return claimed
        # Looked at when it is this claim's turn: what was true before need not be now.
        preconditions = await find_preconditions(session, request.queue, now, rate_of(request.group_limit))
        if preconditions.resumable and not resumed:
            raise GroupsMayResume
        return await _claim_serialized(session, request, preconditions)
    return await _claim_concurrently(session, request, preconditions.now)


async def take(session: Session, now: datetime | None, ids: Collection[str], request: Claim) -> Claimed:
    """Lease those of the jobs with these ids that wait for anything."""
    # Claims that count must not count while this one adds.
    await session.ask("lock_queue_if_any", queue=request.queue)
    taken = Taken(await moment(session, now), request.token)
    rows = await session.ask(
        "lease_by_id",
        **_lease_of(request),
        queue=request.queue,
        ids=sorted(ids),
        now=taken.now,
    )
    for row in sorted((row[1:] for row in rows), key=_urgency):
        _add(taken, row)
    await record_transitions(session, _transitions(rows))
    return taken.claimed()


async def _claim_concurrently(session: Session, request: Claim, now: datetime) -> Claimed:
    """Lease jobs that others may be about to lease as well; what they take is looked for elsewhere."""
    taken = Taken(now, request.token)
    looks = 0
    while True:
        looks += 1
        wanted = request.count - taken.count
        snapshot = await find_candidates(session, request, now, wanted)
        if snapshot.preconditions.picks is not None or snapshot.preconditions.serialized:
            raise RetryStep  # what this queue needs has changed since it was asked
        seqs = _first(snapshot)
        rows, cut_short = await _lease(session, request, seqs, now, alone=not taken.count)
        for row in rows:
            _add(taken, row[1:])
        if taken.count >= request.count or cut_short:
            return taken.claimed(cut_short=cut_short)
        if len(seqs) < wanted or looks == _LOOKS:
            wait = await _wait(session, request, snapshot, limited=False)
            return taken.claimed(_soon(wait) if len(rows) < len(seqs) else wait)


async def _claim_serialized(session: Session, request: Claim, preconditions: Preconditions) -> Claimed:
    """Lease jobs while no other claim of the queue does."""
    now = preconditions.now
    taken = Taken(now, request.token)
    starts = Starts(session)
    await register_windows(starts, request, now)
    left = await capacity(starts, request, request.count, now)
    count = max(left.starts, 0)
    share: FairShare | None = None
    if preconditions.picks is None:
        snapshot = await find_candidates(session, request, now, count)
        if snapshot.preconditions.picks is not None:
            raise RetryStep  # the first job of a group came just now
        seqs = _first(snapshot)
    else:
        share, snapshot = await pick_by_fair_share(session, now, request, count)
        seqs = [] if share is None else [seq for seq, _ in share.picked]
    rows, cut_short = await _lease(session, request, seqs, now)
    for row in rows:
        _add(taken, row[1:])
    await _note(session, request, snapshot.preconditions, share, rows)
    if taken.count >= request.count or cut_short:
        return taken.claimed(cut_short=cut_short)
    missed = len(rows) < len(seqs)
    wait = await _wait(session, request, snapshot, limited=len(seqs) >= left.starts and not missed)
    return taken.claimed(_soon(wait) if missed else wait)


def _first(snapshot: Snapshot) -> list[int]:
    """The jobs without a group, most urgent first."""
    subqueues = [candidate.subqueue for candidate in snapshot.candidates]
    return [abs(second) for each in subqueues if each.group is None for _, second in each.jobs]


async def _note(
    session: Session,
    request: Claim,
    preconditions: Preconditions,
    share: FairShare | None,
    rows: Sequence[Row],
) -> None:
    """Note from which groups jobs were taken, what has started, and which groups to pass over for a while."""
    queue, now = request.queue, preconditions.now
    groups = [row[1 + GROUP] for row in rows]
    served: dict[str, int] = {}
    if preconditions.picks is not None and preconditions.picks.counted and rows:
        latest, ungrouped_at, served = preconditions.picks.after(groups)
        await session.run("save_picks", queue=queue, picks=latest, ungrouped_last_served=ungrouped_at)
    group_rate = rate_of(request.group_limit)
    rate = "" if group_rate is None else rate_name(group_rate)
    # What was picked and is not had, for it went meanwhile, is no start: its group may not be full.
    full = {} if share is None else share.throttled(groups)
    await record_transitions(
        session,
        _transitions(rows),
        last_served={(queue, group): pick for group, pick in served.items()},
        throttled={(queue, group): Throttle(rate, until) for group, until in full.items()},
    )
    await note_starts(Starts(session), request, groups, now)


# ------------------------------------------------------------------ all


async def _lease(
    session: Session, request: Claim, seqs: Sequence[int], now: datetime, *, alone: bool = True
) -> tuple[list[Row], bool]:
    """Lease those of these jobs that still wait; in that order, each with the state that it was in.

    Says, too, whether one that has stalled before ended them. Unless it would be `alone`, it is not leased.
    """
    if not seqs:
        return [], False
    rows = await session.ask(
        "lease",
        **_lease_of(request),
        seqs=list(seqs),
        now=now,
        **_stalled(request, alone=alone),
    )
    order = {seq: place for place, seq in enumerate(seqs)}
    leased = [row[1:] for row in rows if row[1] is not None]
    return sorted(leased, key=lambda row: order[row[1 + SEQ]]), rows[0][0]


def _lease_of(request: Claim) -> dict[str, Any]:
    return {
        "token": request.token,
        "lease": request.lease // MICROSECOND,
        "worker": request.worker,
        "started": request.started,
    }


def _stalled(request: Claim, *, alone: bool = True) -> dict[str, bool]:
    return {
        "isolate": request.stalled is not Stalled.ALIKE,
        "alone": alone and request.stalled is Stalled.ALONE,
    }


def _transitions(rows: Sequence[Row]) -> list[Transition]:
    return [
        Transition(row[1], row[1 + GROUP], row[1 + NAME], row[0], JobState.ACTIVE.value)
        for row in rows
        if row[1 + GROUP] is not None
    ]


async def _wait(session: Session, request: Claim, snapshot: Snapshot, *, limited: bool) -> timedelta | None:
    """How long until there may be more, if time alone brings that about."""
    now, paused_until = snapshot.preconditions.now, snapshot.preconditions.paused_until

    async def look(rate: str) -> tuple[bool, datetime | None]:
        [(waiting, soonest)] = await session.ask("claim_wait", queue=request.queue, now=now, rate=rate)
        # What was in the way when this claim looked may be gone by now, and have left no time to wait for.
        times = [time for time in (snapshot.soonest, instant(soonest)) if time is not None]
        return waiting, min(times, default=None)

    starts = Starts(session)
    return await time_until_more(starts, request, now, look, paused_until=paused_until, limited=limited)
