"""Adding jobs: which of them are created, and what they wait for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from sqlite3 import Connection
from typing import Final

from conveyor.core.store import Inserted, JobKey, JobRecord, initial_state
from conveyor.store import sql
from conveyor.store.sql import Created, New, existing_jobs, refuse_full_groups, run_now
from conveyor.store.sqlite.rows import new_row, read_or, written
from conveyor.store.sqlite.statements import ask, fetch, run, text, write

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
    table = _Jobs(db, now)
    created, answers = run_now(sql.insert(table, jobs, new_only=new_only))
    # Mostly there is nothing to refuse, and a step costs a lone add two hundredths of its time.
    if group_limits and any(job.group_max_size is not None for job in jobs):
        run_now(refuse_full_groups(table, created))
    return list(answers)


class _Jobs:
    """The table of jobs, for one call that adds some."""

    def __init__(self, db: Connection, now: datetime) -> None:
        self._db = db
        self._now = now

    async def moment(self) -> datetime:
        """The time at which they are added."""
        return self._now

    async def release_keys(self, jobs: Sequence[JobRecord]) -> None:
        """Have no job hold a key of these whose time is over."""
        run(
            self._db, "release_expired_keys", jobs=_identities(jobs, range(len(jobs))), now=written(self._now)
        )

    async def create(self, jobs: Sequence[JobRecord]) -> tuple[Sequence[Created], Sequence[Inserted]]:
        """Write all of them; the unique indexes decide which are created: the first of each id and key."""
        now = self._now
        initial = [initial_state(job, now) for job in jobs]
        last = self._last_seq()
        moment = written(now)
        rows = [
            new_row(job, last + n, begun, moment)
            for n, (job, begun) in enumerate(zip(jobs, initial, strict=True), 1)
        ]
        created = [(job, begun.state) for job, begun in zip(jobs, initial, strict=True)]
        answers = [
            Inserted(key=JobKey(job.queue, job.id), created=True, state=state, created_at=now)
            for job, state in created
        ]
        if write(self._db, "insert", rows) == len(jobs):
            return created, answers
        there = {seq - last - 1 for seq in ask(self._db, "find_created", after=last)}
        left = [n for n in range(len(jobs)) if n not in there]
        # Each is judged by what was there when its turn came, though the whole call is written by now.
        before = [last + n + 1 for n in left]
        for n, found in self._existing([jobs[n] for n in left], before).items():
            answers[left[n]] = found
        return [created[n] for n in sorted(there)], answers

    async def find_existing(self, jobs: Sequence[JobRecord]) -> dict[int, Inserted]:
        """The jobs in the store that stand for some of these."""
        return self._existing(jobs, repeat(_LATER, len(jobs)))

    async def find_waiting(self, parents: Collection[JobKey]) -> frozenset[JobKey]:
        """Those of these jobs that wait for their children."""
        return frozenset(
            JobKey(*key) for key in ask(self._db, "find_waiting_parents", jobs=text(list(parents)))
        )

    async def write(self, jobs: Sequence[New]) -> None:
        """Write jobs of which none is in the way of another or of one that is there."""
        moment = written(self._now)
        first = self._last_seq() + 1
        rows = [
            new_row(job, seq, initial, moment, released=released)
            for seq, (job, initial, released) in enumerate(jobs, first)
        ]
        write(self._db, "insert", rows)

    async def add_children(self, counts: Mapping[JobKey, int]) -> None:
        """Have parents wait for so many more children."""
        run(self._db, "add_children", parents=text([(*key, count) for key, count in counts.items()]))

    async def group_sizes(self, groups: Collection[tuple[str, str]]) -> list[tuple[str, str, int]]:
        """How many jobs of these groups are waiting or delayed."""
        found: list[tuple[str, str, int]] = ask(self._db, "group_sizes", groups=text(list(groups)))
        return found

    def _last_seq(self) -> int:
        found: int = fetch(self._db, "last_seq")[0]
        return found

    def _existing(self, jobs: Sequence[JobRecord], before: Iterable[int]) -> dict[int, Inserted]:
        """The jobs in the store that stand for some of these, if they were there before those numbers."""
        return existing_jobs(
            (n, queue, id, state, read_or(created_at, self._now))
            for n, queue, id, state, created_at in ask(
                self._db, "find_existing_jobs", jobs=_identities(jobs, before)
            )
        )


def _identities(jobs: Sequence[JobRecord], before: Iterable[int]) -> str:
    return text([(job.queue, job.id, job.unique_key, seq) for job, seq in zip(jobs, before, strict=True)])
