"""Adding jobs: which of them are created, and what they wait for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from conveyor.core.store import InitialState, Inserted, JobRecord, check_groups, group_growth, plan_insert
from conveyor.store.memory.data import Data
from conveyor.store.memory.rows import WAITING_CHILDREN, Row


def insert(
    data: Data,
    jobs: Sequence[JobRecord],
    now: datetime,
    *,
    new_only: bool = False,
    group_limits: bool = True,
) -> tuple[Inserted, ...]:
    """Add jobs by the rules of `Store.insert`; nothing is changed if it raises."""
    stored = {n: found for n, job in enumerate(jobs) if (found := _existing(data, job, now)) is not None}
    plan = plan_insert(jobs, stored, now, new_only=new_only)
    if group_limits and any(job.group_max_size is not None for job, _ in plan.created):
        created = [(job, initial.state) for job, initial in plan.created]
        check_groups(created, {(q, group): data.queue(q).size(group) for q, group in group_growth(created)})
    for job, initial in plan.created:
        _add(data, job, initial, now, with_parent=job.parent not in plan.parents)
    return tuple(plan.answers)


def _existing(data: Data, job: JobRecord, now: datetime) -> Inserted | None:
    """The job that stands for this one: the one with its id, or the holder of its key."""
    row = data.row(job.queue, job.id)
    if row is None and job.unique_key is not None:
        row = data.queue(job.queue).holder(job.unique_key, now)
    if row is None:
        return None
    return Inserted(key=row.key, created=False, state=row.state, created_at=row.created_at)


def _add(data: Data, job: JobRecord, initial: InitialState, now: datetime, *, with_parent: bool) -> None:
    parent = None if with_parent or job.parent is None else data.row(*job.parent)
    awaited = parent is not None and parent.state is WAITING_CHILDREN
    if parent is not None and awaited:
        parent.pending += 1
    data.add(
        Row(
            queue=job.queue,
            id=job.id,
            name=job.name,
            payload=job.payload,
            options=job.options,
            report=job.report,
            priority=job.priority,
            lifo=job.lifo,
            ageing=job.ageing,
            delay=initial.delay,
            run_at=initial.run_at,
            group=job.group,
            group_max_size=job.group_max_size,
            unique_key=job.unique_key,
            unique_for=job.unique_for,
            parent=job.parent,
            state=initial.state,
            seq=next(data.next_seq),
            sort_key=initial.sort_key,
            holds_key=job.unique_key is not None,
            unique_until=initial.unique_until,
            pending=initial.pending,
            released=not with_parent and not awaited,
            created_at=now,
        )
    )
