"""What `Store.insert` makes of the jobs of a call: rules for stores that decide before they write.

Functions of what they are given, without I/O; no store has to use them. A store says what it has, is told
what to write, and writes it in the same step. Where others may write between the look and the write, its
unique indexes have the last word: if they disagree with a plan, the step is undone and made again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from conveyor.core.errors import GroupFullError
from conveyor.core.store.records import JobKey, JobRecord, JobState
from conveyor.core.store.values import Inserted

__all__ = [
    "InitialState",
    "InsertPlan",
    "check_groups",
    "group_growth",
    "initial_state",
    "new_row",
    "plan_insert",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NO_TIME: Final = timedelta(0)


class InitialState(NamedTuple):
    """How a new job begins: those of its fields that the caller of `insert` does not decide."""

    state: JobState
    run_at: datetime | None
    delay: timedelta | None
    sort_key: float
    unique_until: datetime | None
    pending: int


def initial_state(job: JobRecord, now: datetime, *, children: int = 0) -> InitialState:
    """How a job begins that is created now, together with so many children.

    With children it waits for them, and keeps `delay` and `run_at` for their end. Else it is delayed if its
    time is still to come, and waiting if not. Ageing counts from 1970-01-01T00:00Z.
    """
    delay = run_at = None
    if children:
        state, run_at, delay = JobState.WAITING_CHILDREN, job.run_at, job.delay
    else:
        due = job.run_at if job.delay is None else now + job.delay if job.delay > _NO_TIME else None
        state = JobState.WAITING
        if due is not None and due > now:
            state, run_at = JobState.DELAYED, due
    return InitialState(
        state=state,
        run_at=run_at,
        delay=delay,
        sort_key=float(job.priority) if job.ageing is None else job.priority + (now - _EPOCH) / job.ageing,
        unique_until=None if job.unique_for is None else now + job.unique_for,
        pending=children,
    )


def new_row(
    job: JobRecord, initial: InitialState, now: datetime, *, released: bool = False
) -> dict[str, Any]:
    """The fields of a new job, by the names of `JobRecord`: all but its `seq`, and what is at its default.

    `released` is for a child whose parent waits for no children, or is not there: it never will release it.
    """
    given = {name: getattr(job, name) for name in _GIVEN}
    return {
        **given,
        **initial._asdict(),
        "holds_key": job.unique_key is not None,
        "released": released,
        "created_at": now,
    }


#: What the caller of `insert` decides of a record, and stays as it is.
_GIVEN: Final = (
    "queue",
    "id",
    "name",
    "payload",
    "options",
    "report",
    "priority",
    "lifo",
    "ageing",
    "group",
    "group_max_size",
    "unique_key",
    "unique_for",
    "parent",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InsertPlan:
    """What is to become of the jobs of one call.

    `created` are to be written, in this order, and `answers` is what `insert` returns then. `parents` are the
    parents of created jobs that are not among these. Of them, one that waits for its children has one more
    for each; a child of any other counts as having released it.
    """

    created: Sequence[tuple[JobRecord, InitialState]]
    answers: Sequence[Inserted]
    parents: frozenset[JobKey]


def plan_insert(
    jobs: Sequence[JobRecord], stored: Mapping[int, Inserted], now: datetime, *, new_only: bool = False
) -> InsertPlan:
    """Decide what is to become of the jobs of one call, by the rules of `Store.insert`.

    `stored` has, by place in the call, the stored job that stands for that one: the one with its id, else the
    one that holds its unique key now. A job whose parent is of this call and is not created is not created
    either, and makes room for others of its id or key.
    """
    keys = [job.key for job in jobs]
    by_id = {n: found for n, found in stored.items() if found.key == keys[n]}
    created: dict[JobKey, int] = {}
    existing: Mapping[int, Inserted | int] = by_id
    if not new_only or (not by_id and len(set(keys)) == len(keys)):
        created, existing = _chosen(jobs, keys, stored)
    children = Counter(jobs[n].parent for n in created.values())
    initial = [initial_state(job, now, children=children[key]) for job, key in zip(jobs, keys, strict=True)]
    answers = []
    for n, key in enumerate(keys):
        found = existing.get(n, n)
        if isinstance(found, int):
            state = initial[found].state
            found = Inserted(key=keys[found], created=created.get(key) == n, state=state, created_at=now)
        answers.append(found)
    return InsertPlan(
        created=[(jobs[n], initial[n]) for n in created.values()],
        answers=answers,
        parents=frozenset(parent for parent in children if parent is not None and parent not in created),
    )


def _chosen(
    jobs: Sequence[JobRecord], keys: Sequence[JobKey], stored: Mapping[int, Inserted]
) -> tuple[dict[JobKey, int], dict[int, Inserted | int]]:
    """Which jobs are created, and which job, of the store or of the call, stands for each other one."""
    parents = {job.parent for job in jobs if job.parent is not None}.intersection(keys)
    left_out: set[int] = set()
    while True:
        created, existing = _chosen_without(left_out, jobs, keys, stored)
        orphans = {n for n in created.values() if jobs[n].parent in parents and jobs[n].parent not in created}
        if not orphans:
            return created, existing
        left_out |= orphans


def _chosen_without(
    left_out: Collection[int],
    jobs: Sequence[JobRecord],
    keys: Sequence[JobKey],
    stored: Mapping[int, Inserted],
) -> tuple[dict[JobKey, int], dict[int, Inserted | int]]:
    created: dict[JobKey, int] = {}
    holders: dict[tuple[str, str], int] = {}
    existing: dict[int, Inserted | int] = {}
    for n, (job, key) in enumerate(zip(jobs, keys, strict=True)):
        if n in left_out:
            continue
        found = stored.get(n)
        stands: Inserted | int | None = created.get(key) if found is None or found.key != key else found
        if stands is None and job.unique_key is not None:
            stands = holders.setdefault((job.queue, job.unique_key), n) if found is None else found
        if stands is None or stands == n:
            created[key] = n
        else:
            existing[n] = stands
    return created, existing


def group_growth(created: Iterable[tuple[JobRecord, JobState]]) -> Counter[tuple[str, str]]:
    """By how many waiting and delayed jobs these new ones make each group longer, by queue and group."""
    return Counter(
        (job.queue, job.group)
        for job, state in created
        if job.group is not None and state is not JobState.WAITING_CHILDREN
    )


def check_groups(
    created: Iterable[tuple[JobRecord, JobState]], before: Mapping[tuple[str, str], int]
) -> None:
    """Raise GroupFullError if one of these new jobs, taken in order, is one too many in its group.

    `before` is how many waiting and delayed jobs each group has without them; a group that is not in it has
    none.
    """
    sizes = Counter(before)
    for job, state in created:
        if job.group is None or state is JobState.WAITING_CHILDREN:
            continue
        sizes[job.queue, job.group] += 1
        if job.group_max_size is not None and sizes[job.queue, job.group] > job.group_max_size:
            raise GroupFullError(job.queue, job.group, job.group_max_size)
