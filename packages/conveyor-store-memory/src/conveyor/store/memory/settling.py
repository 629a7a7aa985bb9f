"""Applying what the holders of leases decided, and what they want changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from conveyor.core.store import Change, Inserted, JobKey, Lease, Outcome, Settled, transitions
from conveyor.store.memory.data import Data
from conveyor.store.memory.inserting import insert
from conveyor.store.memory.rows import ACTIVE, WAITING_CHILDREN, Row


@dataclass(slots=True)
class _Effects:
    applied: set[Lease] = field(default_factory=set)
    released: list[JobKey] = field(default_factory=list)
    spawned: list[Inserted] = field(default_factory=list)
    removed: list[JobKey] = field(default_factory=list)


def settle(data: Data, outcomes: Sequence[Outcome], now: datetime) -> Settled:
    """Apply the outcomes whose leases are held, in order."""
    effects = _Effects()
    for outcome in outcomes:
        row = held(data, outcome.lease)
        if row is not None:
            effects.applied.add(outcome.lease)
            _apply(data, row, outcome, effects, now)
        elif _applied_before(data, outcome):
            effects.applied.add(outcome.lease)
    return Settled(
        applied=frozenset(effects.applied),
        released=tuple(effects.released),
        spawned=tuple(effects.spawned),
        removed=tuple(effects.removed),
    )


def held(data: Data, lease: Lease) -> Row | None:
    """The job that is active under this lease."""
    row = data.row(lease.queue, lease.id)
    active = row is not None and row.state is ACTIVE and row.token == lease.token
    return row if active else None


def _applied_before(data: Data, outcome: Outcome) -> bool:
    queue, job_id, token = outcome.lease
    row = data.row(queue, job_id)
    if row is not None and row.settled is not None and row.settled[:2] == (token, outcome.state):
        return True
    if queue not in data.queues:
        return False
    state, _ = data.queues[queue].tombstones.get((job_id, token), (None, None))
    return state is outcome.state


def _apply(data: Data, row: Row, outcome: Outcome, effects: _Effects, now: datetime) -> None:
    row.settled = (outcome.lease.token, outcome.state, now)
    parent = data.settle(row, outcome, now)
    if parent is not None:
        effects.released.append(parent)
    if data.row(*row.key) is None:
        effects.removed.append(row.key)
    if outcome.spawn:
        effects.spawned += insert(data, outcome.spawn, now, group_limits=False)
    if row.state is WAITING_CHILDREN and not row.pending:
        data.put(row, transitions.waiting(now))


def change(data: Data, row: Row, change: Change, now: datetime) -> bool:
    """Do to a job what applies to it, and say whether anything did."""
    applied = change.retry and data.retry(row, now)
    fields = transitions.changed(row, change, now)
    applies = bool(fields)
    data.put(row, fields)
    return applied or applies
