"""Leasing jobs: choose them, lease them, read them.

Choosing reads only what it needs of the indexes (`candidates.py`, and `fair_share.py` where a queue knows
groups); leasing is one statement for all of them; reading is one for every two hundred.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from sqlite3 import Connection

from conveyor.core.store import Claim, Claimed
from conveyor.store.sql import (
    FOREVER,
    Taken,
    capacity,
    note_starts,
    register_windows,
    run_now,
    time_until_more,
)
from conveyor.store.sqlite.candidates import (
    Preconditions,
    allowed_names,
    before_stalled,
    find_preconditions,
    most_urgent,
)
from conveyor.store.sqlite.fair_share import pick_by_fair_share
from conveyor.store.sqlite.limits import Starts
from conveyor.store.sqlite.rows import read_or, records, written
from conveyor.store.sqlite.statements import ask, run, text


def claim(db: Connection, now: datetime, request: Claim) -> Claimed:
    """Lease the most urgent jobs that may be claimed."""
    preconditions = find_preconditions(db, request.queue, now)
    starts = Starts(db)
    run_now(register_windows(starts, request, now))
    left = run_now(capacity(starts, request, request.count, now))
    seqs: Sequence[int] = ()
    groups: Sequence[str | None] = ()
    cut_short = False
    if preconditions.paused_until is None and left.starts > 0:
        names = allowed_names(db, request, preconditions)
        if preconditions.picks is None:
            seqs = most_urgent(db, request, names, left.starts)
            most = before_stalled(db, request, seqs)
            if most is not None:
                seqs, cut_short = seqs[:most], True
        else:
            picked, cut_short = pick_by_fair_share(
                db, now, request, names, count=left.starts, picks=preconditions.picks
            )
            seqs, groups = [seq for seq, _ in picked], [group for _, group in picked]
    run_now(note_starts(starts, request, groups or [None] * len(seqs), now))
    taken = _leased(db, now, request, seqs)
    if len(seqs) >= request.count or cut_short:
        return taken.claimed(cut_short=cut_short)
    return taken.claimed(_wait(db, request, preconditions, now, limited=len(seqs) >= left.starts))


def take(db: Connection, now: datetime, ids: Collection[str], request: Claim) -> Claimed:
    """Lease those of the jobs with these ids that wait for anything."""
    found = sorted(ask(db, "find_by_id", queue=request.queue, ids=text(list(ids))))
    return _leased(db, now, request, [abs(tie_break) for _, tie_break in found]).claimed()


def _leased(db: Connection, now: datetime, request: Claim, seqs: Sequence[int]) -> Taken:
    taken = Taken(now, request.token)
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
            taken.add(row, found)
    return taken


def _wait(
    db: Connection, request: Claim, preconditions: Preconditions, now: datetime, *, limited: bool
) -> timedelta | None:
    """How long until there may be more, if time alone brings that about."""

    async def look(rate: str) -> tuple[bool, datetime | None]:
        waiting, *instants = ask(db, "claim_wait", queue=request.queue, now=written(now), rate=rate)
        first = min(read_or(instant, FOREVER) for instant in instants)
        return waiting, None if first == FOREVER else first

    paused_until = preconditions.paused_until
    return run_now(
        time_until_more(Starts(db), request, now, look, paused_until=paused_until, limited=limited)
    )
