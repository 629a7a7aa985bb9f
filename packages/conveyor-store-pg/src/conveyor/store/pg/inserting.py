"""Adding jobs: which of them are created, and what they wait for.

The unique indexes decide, never a look beforehand. Where it must be known beforehand (a job whose parent is
not created is not created either), a plan is made from what is there, and if the indexes then disagree,
somebody was faster: the step is rolled back and made again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import repeat
from typing import Final

from conveyor.core.store import Inserted, JobKey, JobRecord, JobState, Plan, check_groups, in_line, planned
from conveyor.store.pg.groups import Move, moved
from conveyor.store.pg.rows import jsonb, known_instant, moment
from conveyor.store.pg.statements import Again, Session
from conveyor.store.sql import known_state, microseconds

#: A job that was created, and the state that it began in.
Created = tuple[JobRecord, JobState]
log: Final = logging.getLogger("conveyor.store.pg")

#: The first of two keys by which those who mend the sequence of jobs stand in line; the other is its own.
_MENDING: Final = 0x6D656E64
#: A number that no job has reached.
_LATER: Final = (1 << 63) - 1


def is_plain(jobs: Sequence[JobRecord], *, new_only: bool) -> bool:
    """Whether one statement adds these, if none of them is there already."""
    return not new_only and all(
        job.unique_key is None and job.parent is None and job.group is None for job in jobs
    )


async def insert(
    session: Session,
    now: datetime | None,
    jobs: Sequence[JobRecord],
    *,
    new_only: bool = False,
) -> list[Inserted]:
    """Add jobs by the rules of `Store.insert`.

    Raises Again, with nothing to keep of this step, if another one got in between.
    """
    created, answers = await write(session, now, jobs, new_only=new_only)
    moves = moves_of(created)
    if moves:
        await moved(session, moves)
    if any(job.group_max_size is not None for job, _ in created):
        await _check_groups(session, created)
    return answers


async def write(
    session: Session, now: datetime | None, jobs: Sequence[JobRecord], *, new_only: bool = False
) -> tuple[list[Created], list[Inserted]]:
    """Add jobs, whatever the sizes of their groups; the groups are still to be told of those created.

    Raises Again, with nothing to keep of this step, if another one got in between.
    """
    keyed = [job for job in jobs if job.unique_key is not None]
    if keyed:
        await session.run(
            "release_expired_keys",
            queues=[job.queue for job in keyed],
            keys=[job.unique_key for job in keyed],
            now=now,
        )
    if new_only or any(job.parent is not None for job in jobs):
        now = await moment(session, now)
        stored = await _existing_jobs(session, jobs, repeat(_LATER, len(jobs)), [])
        plan = planned(jobs, stored, now, new_only=new_only)
        await _write_planned(session, now, plan)
        return [(job, begins.state) for job, begins in plan.created], list(plan.answers)
    return await _insert_apart(session, now, jobs)


def moves_of(created: Iterable[Created]) -> list[Move]:
    """What the groups are to be told of jobs that were created."""
    return [
        Move(job.queue, job.group, job.name, None, state.value)
        for job, state in created
        if job.group is not None
    ]


# ------------------------------------------------------------------ jobs that stand apart


async def _insert_apart(
    session: Session, now: datetime | None, jobs: Sequence[JobRecord]
) -> tuple[list[Created], list[Inserted]]:
    """Write all of them; the unique indexes decide which are created: the first of each id and key."""
    created: list[Created] = []
    answers: dict[int, Inserted] = {}
    left = list(range(len(jobs)))
    while left:
        written = await _write(session, now, [jobs[n] for n in left], repeat(0), repeat(None))
        own: list[int] = []
        met: list[tuple[int, int]] = []
        for n, (seq, there, state, at) in zip(left, written, strict=True):
            if there:
                own.append(seq)
                created.append((jobs[n], known_state(state)))
                answers[n] = Inserted(
                    key=JobKey(jobs[n].queue, jobs[n].id),
                    created=True,
                    state=known_state(state),
                    created_at=known_instant(at),
                )
            else:
                met.append((n, seq))
        if not met:
            break
        existing = await _existing_jobs(session, [jobs[n] for n, _ in met], [seq for _, seq in met], own)
        answers |= {met[place][0]: found for place, found in existing.items()}
        freed = [(n, seq) for place, (n, seq) in enumerate(met) if place not in existing]
        await _mend_sequence(session, [seq for _, seq in freed])
        left = [n for n, _ in freed]  # whoever was in the way is gone by now
    return created, [answers[n] for n in range(len(jobs))]


async def _mend_sequence(session: Session, numbers: Sequence[int]) -> None:
    """Have numbers given that no job has, if one of these new ones was taken: rows came from elsewhere."""
    if numbers and await session.ask("mend_sequence", numbers=list(numbers), family=_MENDING):
        log.warning(
            "the sequence conveyor_jobs_seq was behind the rows of conveyor_jobs, and goes on behind them now"
        )


async def _write(
    session: Session,
    now: datetime | None,
    jobs: Sequence[JobRecord],
    pending: Iterable[int],
    released: Iterable[bool | None],
) -> list[tuple[int, bool, str, datetime]]:
    """Write jobs, and return for each its number, whether it is there, its first state, and the moment."""
    return await session.ask(
        "insert",
        now=now,
        queues=[job.queue for job in jobs],
        ids=[job.id for job in jobs],
        names=[job.name for job in jobs],
        payloads=[jsonb(job.payload) for job in jobs],
        options=[job.options for job in jobs],
        reports=[job.report for job in jobs],
        priorities=[job.priority for job in jobs],
        lifo=[job.lifo for job in jobs],
        ageing=[microseconds(job.ageing) for job in jobs],
        delays=[microseconds(job.delay) for job in jobs],
        run_at=[job.run_at for job in jobs],
        groups=[job.group for job in jobs],
        sizes=[job.group_max_size for job in jobs],
        keys=[job.unique_key for job in jobs],
        key_times=[microseconds(job.unique_for) for job in jobs],
        parent_queues=[None if job.parent is None else job.parent.queue for job in jobs],
        parents=[None if job.parent is None else job.parent.id for job in jobs],
        pending=[children for children, _ in zip(pending, jobs, strict=False)],
        released=[bool(over) for over, _ in zip(released, jobs, strict=False)],
        write_order=_write_order(jobs),
    )


def _write_order(jobs: Sequence[JobRecord]) -> list[int]:
    """In which order to write jobs, so that two calls that add the same ones do not deadlock.

    Where two in one call are the same job, the first goes first.
    """
    keys = [(job.queue, job.unique_key) for job in jobs if job.unique_key is not None]
    if len(set(keys)) < len(keys) or len({(job.queue, job.id) for job in jobs}) < len(jobs):
        return list(range(len(jobs)))
    order = sorted(range(len(jobs)), key=lambda n: (jobs[n].queue, jobs[n].unique_key or "", jobs[n].id))
    places = [0] * len(jobs)
    for place, n in enumerate(order):
        places[n] = place
    return places


# ------------------------------------------------------------------ jobs that depend on each other


async def _write_planned(session: Session, now: datetime, plan: Plan) -> None:
    if not plan.created:
        return
    waiting: set[JobKey | None] = set()
    if plan.parents:
        found = await session.ask(
            "find_waiting_parents",
            queues=[key.queue for key in plan.parents],
            ids=[key.id for key in plan.parents],
        )
        waiting = {JobKey(*key) for key in found}
    jobs = [job for job, _ in plan.created]
    over = plan.parents - waiting
    released = [job.parent in over for job in jobs]
    written = await _write(session, now, jobs, [begins.pending for _, begins in plan.created], released)
    missing = [seq for seq, there, _, _ in written if not there]
    if missing:
        await _mend_sequence(session, missing)
        raise Again
    added = Counter(job.parent for job in jobs if job.parent is not None and job.parent in waiting)
    if added:
        await session.run(
            "add_children",
            queues=[key.queue for key in added],
            ids=[key.id for key in added],
            children=list(added.values()),
        )


# ------------------------------------------------------------------ both


async def _existing_jobs(
    session: Session, jobs: Sequence[JobRecord], before: Iterable[int], own: Sequence[int]
) -> dict[int, Inserted]:
    """The jobs in the store that stand for some of these.

    Of the jobs that this call itself has written (`own`), those do that were there before those numbers.
    """
    found = await session.ask(
        "find_existing_jobs",
        numbers=list(range(len(jobs))),
        queues=[job.queue for job in jobs],
        ids=[job.id for job in jobs],
        keys=[job.unique_key for job in jobs],
        before=list(before),
        own=list(own),
    )
    return {
        n: Inserted(
            key=JobKey(queue, id),
            created=False,
            state=known_state(state),
            created_at=known_instant(created_at),
        )
        for n, queue, id, state, created_at in found
    }


async def _check_groups(session: Session, created: Sequence[Created]) -> None:
    """Refuse the call if one of the jobs that it has just written is one too many in its group."""
    added = in_line(created)
    found = await session.ask(
        "group_sizes", queues=[queue for queue, _ in added], groups=[group for _, group in added]
    )
    check_groups(created, {(queue, group): size - added[queue, group] for queue, group, size in found})
