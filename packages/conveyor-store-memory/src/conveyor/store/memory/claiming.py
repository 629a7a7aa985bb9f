"""Leasing jobs: by urgency within fair share, pauses and limits, or by id regardless of them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from conveyor.core.store import Claim, Claimed, Stalled, transitions
from conveyor.store.memory.queues import StoredQueue
from conveyor.store.memory.rows import DELAYED, FOREVER, WAITING, WAITING_CHILDREN, Row, record, tie_break


def take(queue: StoredQueue, ids: Collection[str], request: Claim, now: datetime) -> Claimed:
    """Lease those of the jobs with these ids that wait for anything."""
    found = (queue.rows.get(key) for key in set(ids))
    rows = sorted(
        (row for row in found if row is not None and row.state in _CLAIMABLE),
        key=lambda row: (row.sort_key, tie_break(row)),
    )
    for row in rows:
        queue.steps += 1
        _lease(queue, row, request, now)
    return Claimed(jobs=tuple(record(row, now) for row in rows), now=now)


def claim(queue: StoredQueue, request: Claim, now: datetime) -> Claimed:
    """Lease the most urgent jobs that may be given now."""
    limit, group_limit = request.limit, request.group_limit
    rate = limit.rate if limit is not None else None
    group_rate = group_limit.rate if group_limit is not None else None
    if rate is not None:
        queue.starts.register_window(rate, now)
    if group_rate is not None:
        queue.group_starts.register_window(group_rate, now)
    view = queue.view(request, now)
    rows: list[Row] = []
    cut_short = False
    while len(rows) < request.count and _free_at(queue, request, now) <= now:
        row = view.first(now)
        if row is None:
            break
        cut_short = bool(row.stalled) and request.stalled is not Stalled.ALIKE
        if cut_short and (rows or request.stalled is Stalled.LEFT):
            break
        queue.steps += 1
        _lease(queue, row, request, now)
        queue.note_pick(row.group)
        if rate is not None:
            queue.starts.add(None, now)
        if group_rate is not None and row.group is not None:
            queue.group_starts.add(row.group, now)
        rows.append(row)
        if cut_short:
            break
    jobs = tuple(record(row, now) for row in rows)
    if len(jobs) >= request.count or cut_short:
        return Claimed(jobs=jobs, now=now, cut_short=cut_short)
    first, free = view.next_at(now), _free_at(queue, request, now)
    wait = None if first is None or free == FOREVER else max(first, free) - now
    return Claimed(jobs=jobs, now=now, wait=wait)


def _lease(queue: StoredQueue, row: Row, request: Claim, now: datetime) -> None:
    queue.leave(row)
    fields = transitions.leased(
        row,
        token=request.token,
        lease=request.lease,
        worker=request.worker,
        started=request.started,
        now=now,
    )
    for name, value in fields.items():
        setattr(row, name, value)
    queue.enter(row)


def _free_at(queue: StoredQueue, request: Claim, now: datetime) -> datetime:
    """When the queue's pause and limit let a job be given: now, if they do."""
    at = max(now, queue.pauses.get((None, None), now))
    if request.limit is None:
        return at
    if request.limit.active is not None and len(queue.leases) >= request.limit.active:
        return FOREVER
    if request.limit.rate is not None:
        at = max(at, queue.starts.free_at(None, request.limit.rate, now))
    return at


_CLAIMABLE = frozenset({WAITING, DELAYED, WAITING_CHILDREN})
