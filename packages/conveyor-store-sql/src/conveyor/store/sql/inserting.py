"""Adding jobs: in which order what is decided, and by whom.

Jobs that depend on no other are written at once, and the unique indexes decide which of them are created.
Where it must be known beforehand (a job whose parent is not created is not created either), a plan is made
from what is there, and is written as it stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from conveyor.core.store import (
    InitialState,
    Inserted,
    InsertPlan,
    JobKey,
    JobRecord,
    JobState,
    check_groups,
    group_growth,
    plan_insert,
)
from conveyor.store.sql.values import known_state

#: See `InsertTable.create`.
Created = tuple[JobRecord, JobState]
#: See `InsertTable.write`.
New = tuple[JobRecord, InitialState, bool]


class InsertTable(Protocol):
    """The jobs as a database keeps them, for one call that adds some."""

    async def moment(self) -> datetime:
        """The time at which they are added."""
        ...

    async def release_keys(self, jobs: Sequence[JobRecord]) -> None:
        """Have no job hold a unique key of these whose time is over."""
        ...

    async def create(self, jobs: Sequence[JobRecord]) -> tuple[Sequence[Created], Sequence[Inserted]]:
        """Write jobs without parents or children, save where a job is in the way; with what `insert` returns.

        Of those in the call with the same id or key the first is created. `Created` is a job that was, and
        the state that it began in.
        """
        ...

    async def find_existing(self, jobs: Sequence[JobRecord]) -> Mapping[int, Inserted]:
        """By place in the call, the job with the same id, or else the one that holds the key."""
        ...

    async def find_waiting(self, parents: Collection[JobKey]) -> Collection[JobKey]:
        """Those of these jobs whose state is `waiting-children`. They keep it until the call is over.

        A parent that is held (by `take`) is active, whatever its `pending` is: it is none of them, so it does
        not wait for the new child.
        """
        ...

    async def write(self, jobs: Sequence[New]) -> None:
        """Write jobs, all of them: if one is in the way, the whole call is undone and made again.

        Each comes with how it begins, and with whether it has released its parent already, which does not
        wait for it then.
        """
        ...

    async def add_children(self, counts: Mapping[JobKey, int]) -> None:
        """Have parents wait for so many more children."""
        ...

    async def group_sizes(self, groups: Collection[tuple[str, str]]) -> Iterable[tuple[str, str, int]]:
        """How many jobs of these groups, by queue and name, are waiting or delayed, the new ones included."""
        ...


async def insert(
    table: InsertTable, jobs: Sequence[JobRecord], *, new_only: bool = False
) -> tuple[Sequence[Created], Sequence[Inserted]]:
    """Add jobs by the rules of `Store.insert`, whatever the sizes of their groups.

    Returns those created, and what `Store.insert` returns.
    """
    keyed = [job for job in jobs if job.unique_key is not None]
    if keyed:
        await table.release_keys(keyed)
    if not new_only and all(job.parent is None for job in jobs):
        return await table.create(jobs)
    now = await table.moment()
    plan = plan_insert(jobs, await table.find_existing(jobs), now, new_only=new_only)
    await _write(table, plan)
    return [(job, initial.state) for job, initial in plan.created], plan.answers


async def _write(table: InsertTable, plan: InsertPlan) -> None:
    if not plan.created:
        return
    waiting = frozenset(await table.find_waiting(plan.parents) if plan.parents else ())
    over = plan.parents - waiting
    await table.write([(job, initial, job.parent in over) for job, initial in plan.created])
    added = Counter(job.parent for job, _ in plan.created if job.parent in waiting)
    if added:
        await table.add_children({parent: count for parent, count in added.items() if parent is not None})


async def refuse_full_groups(table: InsertTable, created: Sequence[Created]) -> None:
    """Raise GroupFullError if one of the jobs that were just created is one too many in its group."""
    if any(job.group_max_size is not None for job, _ in created):
        added = group_growth(created)
        found = await table.group_sizes(added)
        check_groups(created, {(queue, group): size - added[queue, group] for queue, group, size in found})


def existing_jobs(found: Iterable[tuple[int, str, str, str, datetime]]) -> dict[int, Inserted]:
    """What `insert` says of stored jobs: by place in the call their queue, id, state and when they came."""
    return {
        n: Inserted(key=JobKey(queue, id), created=False, state=known_state(state), created_at=created_at)
        for n, queue, id, state, created_at in found
    }
