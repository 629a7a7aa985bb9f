"""Leasing jobs: choose them, lease them, read them.

Choosing reads only what it needs of the indexes (`waiting.py`, and `turns.py` where a queue knows groups);
leasing is one statement for all of them; reading is one for every two hundred.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from sqlite3 import Connection

from conveyor.core.store import Claim, Claimed, JobRecord, Lease, Undecodable
from conveyor.store.sql import (
    FOREVER,
    NO_TIME,
    capacity,
    note_starts,
    rate_name,
    rate_of,
    register_windows,
    run_now,
)
from conveyor.store.sqlite.limits import Starts
from conveyor.store.sqlite.rows import ATTEMPT, ID, read_or, records, written
from conveyor.store.sqlite.statements import ask, run, text
from conveyor.store.sqlite.turns import take_turns
from conveyor.store.sqlite.waiting import Gate, allowed_names, before_stalled, gate, most_urgent


def claim(db: Connection, now: datetime, request: Claim) -> Claimed:
    """Lease the most urgent jobs that may be claimed."""
    state = gate(db, request.queue, now)
    starts = Starts(db)
    run_now(register_windows(starts, request, now))
    left = run_now(capacity(starts, request, request.count, now))
    seqs: Sequence[int] = ()
    groups: Sequence[str | None] = ()
    cut_short = False
    if state.paused_until is None and left.starts > 0:
        names = allowed_names(db, request, state)
        if state.turns is None:
            seqs = most_urgent(db, request, names, left.starts)
            most = before_stalled(db, request, seqs)
            if most is not None:
                seqs, cut_short = seqs[:most], True
        else:
            picked, cut_short = take_turns(db, now, request, names, count=left.starts, picks=state.turns)
            seqs, groups = [seq for seq, _ in picked], [group for _, group in picked]
    run_now(note_starts(starts, request, groups or [None] * len(seqs), now))
    claimed = _leased(db, now, request, seqs)
    if len(seqs) >= request.count or cut_short:
        return replace(claimed, cut_short=cut_short)
    return replace(claimed, wait=_wait(db, request, state, now, cut_short=len(seqs) >= left.starts))


def take(db: Connection, now: datetime, ids: Collection[str], request: Claim) -> Claimed:
    """Lease those of the jobs with these ids that wait for anything."""
    found = sorted(ask(db, "find_by_id", queue=request.queue, ids=text(list(ids))))
    return _leased(db, now, request, [abs(tie_break) for _, tie_break in found])


def _leased(db: Connection, now: datetime, request: Claim, seqs: Sequence[int]) -> Claimed:
    jobs: list[JobRecord] = []
    undecodable: list[Undecodable] = []
    if seqs:
        run(
            db,
            "lease",
            seqs=text(seqs),
            token=request.token,
            lease_until=written(now + request.lease),
            worker=request.worker,
            started=request.started,
            now=written(now),
        )
        for row, found in records(db, seqs, written(now)):
            if isinstance(found, JobRecord):
                jobs.append(found)
            else:
                lease = Lease(request.queue, row[ID], request.token)
                reason = f"{type(found).__name__}: {found}"
                undecodable.append(Undecodable(lease=lease, attempt=row[ATTEMPT], reason=reason))
    return Claimed(jobs=jobs, now=now, undecodable=undecodable)


def _wait(db: Connection, request: Claim, state: Gate, now: datetime, *, cut_short: bool) -> timedelta | None:
    """How long until there may be more, if time alone brings that about."""
    free_at = state.paused_until
    if free_at is None:
        after = run_now(capacity(Starts(db), request, 1, now))
        free_at = now if after.starts > 0 else after.free_at
    if free_at is None or free_at == FOREVER:
        return None
    group_rate = rate_of(request.group_limit)
    rate = "" if group_rate is None else rate_name(group_rate)
    waiting, *instants = ask(db, "claim_wait", queue=request.queue, now=written(now), rate=rate)
    if waiting and (cut_short or state.paused_until is not None):
        return max(free_at - now, NO_TIME)
    first = min(read_or(instant, FOREVER) for instant in instants)
    return None if first == FOREVER else max(first - now, free_at - now, NO_TIME)
