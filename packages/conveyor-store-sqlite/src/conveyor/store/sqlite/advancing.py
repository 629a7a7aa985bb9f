"""Move jobs as time passes: those that are due, and those whose lease has run out; remove what is over."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from heapq import merge
from itertools import islice
from sqlite3 import Connection
from typing import Any, Final

from conveyor.core.store import Advanced, JobKey
from conveyor.store.sql import FOREVER, REMEMBERED, Scope
from conveyor.store.sqlite.limits import forget_starts
from conveyor.store.sqlite.rows import read_or, written
from conveyor.store.sqlite.statements import ask, fetch, run, text

#: Sorts behind every instant, and is none.
_NEVER: Final = "~"


def advance(db: Connection, now: datetime, queues: Collection[str], limit: int) -> Advanced:
    """Move jobs that are due and jobs whose lease has run out, and remove what is over."""
    due = _first(db, "find_due", queues, now, limit)
    lapsed = _first(db, "find_expired_leases", queues, now, limit)
    if due:
        run(db, "make_waiting", seqs=text([seq for _, seq, *_ in due]))
    if lapsed:
        run(db, "reclaim_expired_leases", seqs=text([seq for _, seq, *_ in lapsed]), now=written(now))
    for queue in queues:
        _forget_ended(db, queue, now)
    return Advanced(
        now=now,
        due=[key for _, _, key, *_ in due],
        stalled=[key for _, _, key, started in lapsed if started],
        unstarted=[key for _, _, key, started in lapsed if not started],
        wait=timedelta(0) if limit in {len(due), len(lapsed)} else _wait(db, queues, now),
    )


def _first(
    db: Connection, name: str, queues: Collection[str], now: datetime, limit: int
) -> list[tuple[Any, ...]]:
    """The most overdue jobs of all queues: since when, number, key, and what else the query gives."""
    each = (
        [
            (at, seq, JobKey(queue, id), *rest)
            for at, seq, id, *rest in ask(db, name, queue=queue, now=written(now), limit=limit)
        ]
        for queue in queues
    )
    return list(islice(merge(*each), limit))


def _wait(db: Connection, queues: Collection[str], now: datetime) -> timedelta | None:
    next_at = min((fetch(db, "next_deadline", queue=queue)[0] for queue in queues), default=_NEVER)
    at = read_or(next_at, FOREVER)
    return None if at == FOREVER else max(at - now, timedelta(0))


def _forget_ended(db: Connection, queue: str, now: datetime) -> None:
    moment = written(now)
    run(db, "forget_pauses", queue=queue, now=moment)
    run(db, "forget_tombstones", queue=queue, horizon=written(now - REMEMBERED))
    forget_starts(db, Scope(queue, "queue"), now)
    forget_starts(db, Scope(queue, "group"), now)
    run(db, "forget_groups", queue=queue)
    run(db, "forget_picks", queue=queue)
