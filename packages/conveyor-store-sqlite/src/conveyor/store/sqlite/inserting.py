"""Adding jobs: which of them are created, and what they wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import repeat
from sqlite3 import Connection
from typing import Final

from conveyor.core.store import (
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Plan,
    beginning,
    check_groups,
    in_line,
    planned,
)
from conveyor.store.sql import known_state
from conveyor.store.sqlite.rows import new_row, read_or, written
from conveyor.store.sqlite.statements import ask, fetch, run, text, write

#: A job that was created, and the state that it began in.
_Created = tuple[JobRecord, JobState]
#: A number that no job has reached.
_LATER: Final = (1 << 63) - 1


def insert(
    db: Connection,
    now: datetime,
    jobs: Sequence[JobRecord],
    *,
    new_only: bool = False,
    group_limits: bool = True,
) -> list[Inserted]:
    """Add jobs by the rules of `Store.insert`, within the caller's savepoint."""
    if any(job.unique_key is not None for job in jobs):
        run(db, "release_expired_keys", jobs=_identities(jobs, range(len(jobs))), now=written(now))
    if new_only or any(job.parent is not None for job in jobs):
        plan = planned(jobs, _existing_jobs(db, now, jobs, repeat(_LATER, len(jobs))), now, new_only=new_only)
        _write_planned(db, now, plan)
        created, answers = [(job, begins.state) for job, begins in plan.created], plan.answers
    else:
        created, answers = _insert_apart(db, now, jobs)
    if group_limits and any(job.group_max_size is not None for job, _ in created):
        _check_groups(db, created)
    return list(answers)


# ------------------------------------------------------------------ jobs that stand apart


def _insert_apart(
    db: Connection, now: datetime, jobs: Sequence[JobRecord]
) -> tuple[list[_Created], list[Inserted]]:
    """Write all of them; the unique indexes decide which are created: the first of each id and key."""
    begins = [beginning(job, now) for job in jobs]
    last = _last_seq(db)
    moment = written(now)
    rows = [
        new_row(job, last + n, begun, moment)
        for n, (job, begun) in enumerate(zip(jobs, begins, strict=True), 1)
    ]
    created = [(job, begun.state) for job, begun in zip(jobs, begins, strict=True)]
    answers = [
        Inserted(key=JobKey(job.queue, job.id), created=True, state=state, created_at=now)
        for job, state in created
    ]
    if write(db, "insert", rows) == len(jobs):
        return created, answers
    there = {seq - last - 1 for seq in ask(db, "find_created", after=last)}
    left = [n for n in range(len(jobs)) if n not in there]
    # Each is judged by what was there when its turn came, though the whole call is written by now.
    before = [last + n + 1 for n in left]
    for n, existing in _existing_jobs(db, now, [jobs[n] for n in left], before).items():
        answers[left[n]] = existing
    return [created[n] for n in sorted(there)], answers


# ------------------------------------------------------------------ jobs that depend on each other


def _write_planned(db: Connection, now: datetime, plan: Plan) -> None:
    waiting: set[JobKey | None] = set()
    if plan.parents:
        waiting = {JobKey(*key) for key in ask(db, "find_waiting_parents", jobs=text(list(plan.parents)))}
    moment = written(now)
    over = plan.parents - waiting
    rows = [
        new_row(job, seq, begins, moment, released=job.parent in over)
        for seq, (job, begins) in enumerate(plan.created, _last_seq(db) + 1)
    ]
    write(db, "insert", rows)
    added = Counter(job.parent for job, _ in plan.created if job.parent in waiting)
    if added:
        run(
            db,
            "add_children",
            parents=text([(*key, count) for key, count in added.items() if key is not None]),
        )


# ------------------------------------------------------------------ both


def _last_seq(db: Connection) -> int:
    found: int = fetch(db, "last_seq")[0]
    return found


def _identities(jobs: Sequence[JobRecord], before: Iterable[int]) -> str:
    return text([(job.queue, job.id, job.unique_key, seq) for job, seq in zip(jobs, before, strict=True)])


def _existing_jobs(
    db: Connection, now: datetime, jobs: Sequence[JobRecord], before: Iterable[int]
) -> dict[int, Inserted]:
    """The jobs in the store that stand for some of these, as far as they were there before those numbers."""
    return {
        n: Inserted(
            key=JobKey(queue, id),
            created=False,
            state=known_state(state),
            created_at=read_or(created_at, now),
        )
        for n, queue, id, state, created_at in ask(db, "find_existing_jobs", jobs=_identities(jobs, before))
    }


def _check_groups(db: Connection, created: Sequence[_Created]) -> None:
    """Refuse the call if one of the jobs that it has just written is one too many in its group."""
    added = in_line(created)
    found = ask(db, "group_sizes", groups=text(list(added)))
    check_groups(created, {(queue, group): size - added[queue, group] for queue, group, size in found})
