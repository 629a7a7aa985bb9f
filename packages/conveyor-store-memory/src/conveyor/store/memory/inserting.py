"""Adding jobs: which of them are created, and what they wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from conveyor.core.errors import GroupFullError
from conveyor.core.jobs import JobKey, JobRecord, JobState
from conveyor.core.store import Inserted
from conveyor.store.memory.data import Data
from conveyor.store.memory.rows import DELAYED, EPOCH, WAITING, WAITING_CHILDREN, Row


def insert(
    data: Data,
    jobs: Sequence[JobRecord],
    now: datetime,
    *,
    new_only: bool = False,
    group_limits: bool = True,
) -> tuple[Inserted, ...]:
    """Add jobs by the rules of `Store.insert`; nothing is changed if it raises."""
    call = _Call(data, jobs, now)
    if new_only and not call.all_new():
        call.refuse()
    else:
        call.decide()
    call.place()
    if group_limits:
        call.check_groups()
    told = tuple(call.tell(n) for n in range(len(jobs)))
    for n in call.created.values():
        call.add(n)
    return told


class _Call:
    """The jobs of one call, known by their numbers in it, and what is to become of them."""

    def __init__(self, data: Data, jobs: Sequence[JobRecord], now: datetime) -> None:
        self._data = data
        self._jobs = jobs
        self._now = now
        self._keys = [job.key for job in jobs]
        #: The jobs to create.
        self.created: dict[JobKey, int] = {}
        #: For each other one the job that stands for it, in the store or in the call, if one does.
        self._standing: dict[int, Row | int] = {}
        #: How many children in the call each job waits for.
        self._children: dict[JobKey, int] = {}
        #: The state in which each job begins, and when it is due by itself.
        self._states: list[JobState] = []
        self._due: list[datetime | None] = []

    def all_new(self) -> bool:
        """Whether all ids are new, to the store and in the call."""
        keys = set(self._keys)
        return len(keys) == len(self._keys) and all(self._data.row(*key) is None for key in keys)

    def refuse(self) -> None:
        """Create none of the jobs."""
        for n, key in enumerate(self._keys):
            row = self._data.row(*key)
            if row is not None:
                self._standing[n] = row

    def decide(self) -> None:
        """Find which jobs are created.

        A job that is left out for its parent's sake makes room for others of its id or unique key, so
        the decision is made again without it, until no more are left out.
        """
        parents = {job.parent for job in self._jobs if job.parent is not None}.intersection(self._keys)
        left_out = set[int]()
        while True:
            self._decide_without(left_out)
            if not parents:
                return
            orphans = set[int]()
            self._children = {}
            for n in self.created.values():
                parent = self._jobs[n].parent
                if parent is not None and parent in self.created:
                    self._children[parent] = self._children.get(parent, 0) + 1
                elif parent in parents:
                    orphans.add(n)
            if not orphans:
                return
            left_out |= orphans

    def _decide_without(self, left_out: set[int]) -> None:
        self.created, self._standing = {}, {}
        holders: dict[tuple[str, str], int] = {}
        for n, (job, key) in enumerate(zip(self._jobs, self._keys, strict=True)):
            if n in left_out:
                continue
            standing: Row | int | None = self._data.row(*key)
            if standing is None:
                standing = self.created.get(key)
            if standing is None and job.unique_key is not None:
                standing = self._data.queue(job.queue).holder(job.unique_key, self._now)
                if standing is None:
                    standing = holders.setdefault((job.queue, job.unique_key), n)
            if standing is None or standing == n:
                self.created[key] = n
            else:
                self._standing[n] = standing

    def place(self) -> None:
        """Find the state in which each job begins."""
        for job, key in zip(self._jobs, self._keys, strict=True):
            run_at = job.run_at if job.delay is None else self._now + job.delay
            due = run_at if run_at is not None and run_at > self._now else None
            self._due.append(due)
            if key in self._children:
                self._states.append(WAITING_CHILDREN)
            else:
                self._states.append(WAITING if due is None else DELAYED)

    def check_groups(self) -> None:
        """Raise GroupFullError if one of the jobs to create is one too many."""
        added = Counter[tuple[str, str]]()
        for n in self.created.values():
            job = self._jobs[n]
            if job.group is None or self._states[n] is WAITING_CHILDREN:
                continue
            added[job.queue, job.group] += 1
            size = self._data.queue(job.queue).size(job.group) + added[job.queue, job.group]
            if job.group_max_size is not None and size > job.group_max_size:
                raise GroupFullError(job.queue, job.group, job.group_max_size)

    def tell(self, n: int) -> Inserted:
        """Say which job stands for this one."""
        standing = self._standing.get(n, n)
        if isinstance(standing, Row):
            row = standing
            return Inserted(key=row.key, created=False, state=row.state, created_at=row.created_at)
        key = self._keys[standing]
        created = self.created.get(key) == n
        return Inserted(key=key, created=created, state=self._states[standing], created_at=self._now)

    def add(self, n: int) -> None:
        """Create the job."""
        job, state, now = self._jobs[n], self._states[n], self._now
        with_parent = job.parent in self.created
        parent = self._data.row(*job.parent) if job.parent is not None and not with_parent else None
        awaited = parent is not None and parent.state is WAITING_CHILDREN
        if parent is not None and awaited:
            parent.pending += 1
        self._data.add(
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
                delay=job.delay if state is WAITING_CHILDREN else None,
                run_at=job.run_at if state is WAITING_CHILDREN else self._due[n],
                group=job.group,
                group_max_size=job.group_max_size,
                unique_key=job.unique_key,
                unique_for=job.unique_for,
                parent=job.parent,
                state=state,
                seq=next(self._data.next_seq),
                rank=job.priority + (0.0 if job.ageing is None else (now - EPOCH) / job.ageing),
                holds_key=job.unique_key is not None,
                unique_until=None if job.unique_for is None else now + job.unique_for,
                pending=self._children.get(self._keys[n], 0),
                released=job.parent is not None and not with_parent and not awaited,
                created_at=now,
            )
        )
