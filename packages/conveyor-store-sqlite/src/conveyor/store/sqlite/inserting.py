"""Adding jobs: which of them are created, and what they wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import repeat
from sqlite3 import Connection
from typing import Final

from conveyor.core.errors import GroupFullError
from conveyor.core.jobs import JobKey, JobRecord, JobState
from conveyor.core.store import Inserted
from conveyor.store.sqlite.rows import known_state, new_row, read_or, written
from conveyor.store.sqlite.statements import ask, fetch, run, text, write

#: A job that was created, and the state that it began in.
_Created = tuple[JobRecord, JobState]
_NO_TIME: Final = timedelta(0)
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
        run(db, "lapse_keys", jobs=_identities(jobs, range(len(jobs))), now=written(now))
    if new_only or any(job.parent is not None for job in jobs):
        created, answers = _insert_planned(db, now, jobs, new_only=new_only)
    else:
        created, answers = _insert_apart(db, now, jobs)
    if group_limits and any(job.group_max_size is not None for job, _ in created):
        _check_groups(db, created)
    return answers


# ------------------------------------------------------------------ jobs that stand apart


def _insert_apart(
    db: Connection, now: datetime, jobs: Sequence[JobRecord]
) -> tuple[list[_Created], list[Inserted]]:
    """Write all of them; the unique indexes decide which are created: the first of each id and key."""
    states = [initial_state(job, now) for job in jobs]
    last = _last_seq(db)
    moment = written(now)
    rows = [
        new_row(job, last + n, state, now, moment)
        for n, (job, state) in enumerate(zip(jobs, states, strict=True), 1)
    ]
    answers = [
        Inserted(key=JobKey(job.queue, job.id), created=True, state=state, created_at=now)
        for job, state in zip(jobs, states, strict=True)
    ]
    if write(db, "insert", rows) == len(jobs):
        return list(zip(jobs, states, strict=True)), answers
    there = {seq - last - 1 for seq in ask(db, "created", after=last)}
    left = [n for n in range(len(jobs)) if n not in there]
    # Each is judged by what was there when its turn came, though the whole call is written by now.
    before = [last + n + 1 for n in left]
    for n, standing in _standing(db, now, [jobs[n] for n in left], before).items():
        answers[left[n]] = standing.told()
    return [(jobs[n], states[n]) for n in sorted(there)], answers


def initial_state(job: JobRecord, now: datetime, children: int = 0) -> JobState:
    """The state that the job begins in."""
    if children:
        return JobState.WAITING_CHILDREN
    later = job.delay > _NO_TIME if job.delay is not None else job.run_at is not None and job.run_at > now
    return JobState.DELAYED if later else JobState.WAITING


# ------------------------------------------------------------------ jobs that depend on each other


@dataclass(slots=True)
class _Standing:
    """A job in the store that stands for one that was given."""

    by_id: bool
    key: JobKey
    state: JobState
    created_at: datetime

    def told(self) -> Inserted:
        return Inserted(key=self.key, created=False, state=self.state, created_at=self.created_at)


@dataclass(slots=True)
class _Plan:
    """What is to become of the jobs of one call, by their place in it."""

    #: The jobs to create.
    created: dict[JobKey, int] = field(default_factory=dict)
    #: The one of them that each holder of a unique key is.
    holders: dict[tuple[str, str], int] = field(default_factory=dict)
    #: For each other job the one that stands for it, in the store or in the call, if one does.
    standing: dict[int, _Standing | int] = field(default_factory=dict)
    #: How many children in the call each job waits for.
    children: Counter[JobKey] = field(default_factory=Counter)


def _insert_planned(
    db: Connection, now: datetime, jobs: Sequence[JobRecord], *, new_only: bool
) -> tuple[list[_Created], list[Inserted]]:
    """Decide about each of them before any is written."""
    keys = [JobKey(job.queue, job.id) for job in jobs]
    stored = _standing(db, now, jobs, repeat(_LATER, len(jobs)))
    if new_only and (len(set(keys)) < len(keys) or any(found.by_id for found in stored.values())):
        plan = _Plan(standing={n: found for n, found in stored.items() if found.by_id})
    else:
        plan = _plan(jobs, keys, stored)
    states = [initial_state(job, now, plan.children[key]) for job, key in zip(jobs, keys, strict=True)]
    _write_planned(db, now, jobs, states, plan)
    answers = []
    for n, key in enumerate(keys):
        standing = plan.standing.get(n)
        if isinstance(standing, _Standing):
            answers.append(standing.told())
            continue
        stands = n if standing is None else standing
        answers.append(
            Inserted(
                key=keys[stands], created=plan.created.get(key) == n, state=states[stands], created_at=now
            )
        )
    return [(jobs[n], states[n]) for n in plan.created.values()], answers


def _plan(jobs: Sequence[JobRecord], keys: Sequence[JobKey], stored: Mapping[int, _Standing]) -> _Plan:
    """Decide which jobs are created.

    A job that turns out to be left out for its parent's sake makes room for others of its id or
    key, so the decision is made again without it until none is left out.
    """
    parents = {job.parent for job in jobs if job.parent is not None} & set(keys)
    left_out: set[int] = set()
    while True:
        plan = _Plan()
        for n, job in enumerate(jobs):
            if n not in left_out:
                _decide(plan, n, job, keys[n], stored.get(n))
        orphans = {
            n
            for n in plan.created.values()
            if jobs[n].parent in parents and jobs[n].parent not in plan.created
        }
        if not orphans:
            for n in plan.created.values():
                parent = jobs[n].parent
                if parent in parents and parent is not None:
                    plan.children[parent] += 1
            return plan
        left_out |= orphans


def _decide(plan: _Plan, n: int, job: JobRecord, key: JobKey, stored: _Standing | None) -> None:
    standing: _Standing | int | None = (
        stored if stored is not None and stored.by_id else plan.created.get(key)
    )
    if standing is None and job.unique_key is not None:
        standing = stored if stored is not None else plan.holders.get((job.queue, job.unique_key))
        if standing is None:
            plan.holders[job.queue, job.unique_key] = n
    if standing is None:
        plan.created[key] = n
    else:
        plan.standing[n] = standing


def _write_planned(
    db: Connection, now: datetime, jobs: Sequence[JobRecord], states: Sequence[JobState], plan: _Plan
) -> None:
    outside = {
        parent
        for n in plan.created.values()
        if (parent := jobs[n].parent) is not None and parent not in plan.created
    }
    waiting: set[JobKey] = set()
    if outside:
        waiting = {JobKey(*key) for key in ask(db, "waiting_parents", jobs=text(list(outside)))}
    moment = written(now)
    seq = _last_seq(db)
    rows = []
    adopted: Counter[JobKey] = Counter()
    for key, n in plan.created.items():
        job = jobs[n]
        seq += 1
        if job.parent in waiting and job.parent is not None:
            adopted[job.parent] += 1
        released = job.parent is not None and job.parent not in plan.created and job.parent not in waiting
        rows.append(new_row(job, seq, states[n], now, moment, pending=plan.children[key], released=released))
    write(db, "insert", rows)
    if adopted:
        run(db, "adopt", parents=text([(*key, count) for key, count in adopted.items()]))


# ------------------------------------------------------------------ both


def _last_seq(db: Connection) -> int:
    found: int = fetch(db, "last_seq")[0]
    return found


def _identities(jobs: Sequence[JobRecord], before: Iterable[int]) -> str:
    return text([(job.queue, job.id, job.unique_key, seq) for job, seq in zip(jobs, before, strict=True)])


def _standing(
    db: Connection, now: datetime, jobs: Sequence[JobRecord], before: Iterable[int]
) -> dict[int, _Standing]:
    """The jobs in the store that stand for some of these, as far as they were there before those numbers."""
    return {
        n: _Standing(bool(by_id), JobKey(queue, id), known_state(state), read_or(created_at, now))
        for n, by_id, queue, id, state, created_at in ask(db, "standing", jobs=_identities(jobs, before))
    }


def _check_groups(db: Connection, created: Sequence[_Created]) -> None:
    """Refuse the call if one of the jobs that it has just written is one too many in its group."""
    in_line = [
        (job, (job.queue, job.group))
        for job, state in created
        if job.group is not None and state is not JobState.WAITING_CHILDREN
    ]
    sizes: Counter[tuple[str, str | None]] = Counter()
    for queue, group, size in ask(db, "group_sizes", groups=text([group for _, group in in_line])):
        sizes[queue, group] = size
    sizes.subtract(group for _, group in in_line)
    for job, group in in_line:
        sizes[group] += 1
        if job.group is not None and job.group_max_size is not None and sizes[group] > job.group_max_size:
            raise GroupFullError(job.queue, job.group, job.group_max_size)
