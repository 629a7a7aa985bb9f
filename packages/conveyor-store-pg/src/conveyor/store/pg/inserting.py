"""Adding jobs: which of them are created, and what they wait for.

The unique indexes decide, never a look beforehand. Where it must be known beforehand (a job whose parent is
not created is not created either), a plan is made from what is there, and if the indexes then disagree,
somebody was faster: the step is rolled back and made again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from typing import Final

from conveyor.core.store import Inserted, JobKey, JobRecord
from conveyor.store import sql
from conveyor.store.pg.groups import Transition, record_transitions
from conveyor.store.pg.rows import jsonb, known_instant, moment
from conveyor.store.pg.statements import RetryStep, Session
from conveyor.store.sql import Created, New, existing_jobs, known_state, microseconds, refuse_full_groups

log: Final = logging.getLogger("conveyor.store.pg")

#: The first of two keys of the lock under which the sequence of jobs is mended; the other is its own.
_MENDING: Final = 0x6D656E64
#: A number that no job has reached.
_LATER: Final = (1 << 63) - 1


def fits_fast_path(jobs: Sequence[JobRecord], *, new_only: bool) -> bool:
    """Whether one statement adds these, if none of them is there already."""
    return not new_only and all(
        job.unique_key is None and job.parent is None and job.group is None for job in jobs
    )


async def insert(
    session: Session, now: datetime | None, jobs: Sequence[JobRecord], *, new_only: bool = False
) -> Sequence[Inserted]:
    """Add jobs by the rules of `Store.insert`.

    Raises RetryStep, with nothing to keep of this step, if another one got in between.
    """
    created, answers = await write(session, now, jobs, new_only=new_only)
    transitions = transitions_of(created)
    if transitions:
        await record_transitions(session, transitions)
    await refuse_full_groups(_Jobs(session, now), created)
    return answers


async def write(
    session: Session, now: datetime | None, jobs: Sequence[JobRecord], *, new_only: bool = False
) -> tuple[Sequence[Created], Sequence[Inserted]]:
    """Add jobs, whatever the sizes of their groups; those created are still to be counted in their groups.

    Raises RetryStep, with nothing to keep of this step, if another one got in between.
    """
    return await sql.insert(_Jobs(session, now), jobs, new_only=new_only)


def transitions_of(created: Iterable[Created]) -> list[Transition]:
    """The transitions that jobs make within their groups by being created."""
    return [
        Transition(job.queue, job.group, job.name, None, state.value)
        for job, state in created
        if job.group is not None
    ]


class _Jobs:
    """The table of jobs, for one call that adds some."""

    def __init__(self, session: Session, now: datetime | None) -> None:
        self._session = session
        self._now = now

    async def moment(self) -> datetime:
        """The time at which they are added."""
        self._now = await moment(self._session, self._now)
        return self._now

    async def release_keys(self, jobs: Sequence[JobRecord]) -> None:
        """Have no job hold a key of these whose time is over."""
        queues, keys = [job.queue for job in jobs], [job.unique_key for job in jobs]
        await self._session.run("release_expired_keys", queues=queues, keys=keys, now=self._now)

    async def create(self, jobs: Sequence[JobRecord]) -> tuple[Sequence[Created], Sequence[Inserted]]:
        """Write all of them; the unique indexes decide which are created: the first of each id and key."""
        created: list[Created] = []
        answers: dict[int, Inserted] = {}
        left = list(range(len(jobs)))
        while left:
            written = await _write(self._session, self._now, [jobs[n] for n in left], repeat(0), repeat(None))
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
            found = await _existing(self._session, [jobs[n] for n, _ in met], [seq for _, seq in met], own)
            answers |= {met[place][0]: each for place, each in found.items()}
            freed = [(n, seq) for place, (n, seq) in enumerate(met) if place not in found]
            await _mend_sequence(self._session, [seq for _, seq in freed])
            left = [n for n, _ in freed]  # whoever was in the way is gone by now
        return created, [answers[n] for n in range(len(jobs))]

    async def find_existing(self, jobs: Sequence[JobRecord]) -> dict[int, Inserted]:
        """The jobs in the store that stand for some of these."""
        return await _existing(self._session, jobs, repeat(_LATER, len(jobs)), [])

    async def find_waiting(self, parents: Collection[JobKey]) -> frozenset[JobKey]:
        """Those of these jobs that wait for their children; they are locked."""
        queues, ids = [key.queue for key in parents], [key.id for key in parents]
        found = await self._session.ask("find_waiting_parents", queues=queues, ids=ids)
        return frozenset(JobKey(*key) for key in found)

    async def write(self, jobs: Sequence[New]) -> None:
        """Write jobs; raises RetryStep if one is in the way that was not there before."""
        pending = [begins.pending for _, begins, _ in jobs]
        written = await _write(
            self._session, self._now, [job for job, _, _ in jobs], pending, [over for _, _, over in jobs]
        )
        missing = [seq for seq, there, _, _ in written if not there]
        if missing:
            await _mend_sequence(self._session, missing)
            raise RetryStep

    async def add_children(self, counts: Mapping[JobKey, int]) -> None:
        """Have parents wait for so many more children."""
        queues, ids = [key.queue for key in counts], [key.id for key in counts]
        await self._session.run("add_children", queues=queues, ids=ids, children=list(counts.values()))

    async def group_sizes(self, groups: Collection[tuple[str, str]]) -> Sequence[tuple[str, str, int]]:
        """How many jobs of these groups are waiting or delayed."""
        queues, names = [queue for queue, _ in groups], [group for _, group in groups]
        found: Sequence[tuple[str, str, int]] = await self._session.ask(
            "group_sizes", queues=queues, groups=names
        )
        return found


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


async def _existing(
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
    return existing_jobs((n, queue, id, state, known_instant(at)) for n, queue, id, state, at in found)
