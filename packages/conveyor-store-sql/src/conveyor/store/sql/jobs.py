"""What a unit of work knows of a job, and what it asks of a database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from conveyor.core.store import JobKey, JobState, Lease

#: A job's identity: a `JobKey`, or as much without its name.
Key = tuple[str, str]
#: How long a repeated settle of a job that is gone is known.
REMEMBERED: Final = timedelta(minutes=10)


@dataclass(slots=True, eq=False)
class Row:
    """What a step knows of a job: most attributes of `JobRecord`, and what was settled last.

    Names, types and units are those of `JobRecord`; a `parent` is a pair or a `JobKey`. `name` and `group`
    are read by stores that count the jobs of groups in their own statements. The documents are not read;
    what is put there replaces them. Reading a row never fails: an instant that cannot be read is None, a
    state that is none is `failed`, so that the holder of a damaged job can settle it.

    `settled_token`, `settled_state` and `settled_at` are of the outcome that was applied last: its token, the
    state it asked for, and when. What follows `settled_at` is not read but left as it is made. `report` and
    `payload` are None unless they are to be written. `reset`: the job is as if it had never run, so it has no
    `processed_at` any more. `rewritten`: more than its state has changed, and `JobTable.rewrite` is called.
    `before` is the state that is stored, for `UnitOfWork.on_transition`. The rest belongs to a lease: a job
    that stays active keeps what is stored, and any other has none. Only `transitions.lapsed` asks for one of
    them, `started`: read that where you call it.
    """

    seq: int
    queue: str
    id: str
    name: str
    group: str | None
    state: JobState
    token: str | None
    attempt: int
    stalled: int
    cancel_requested: bool
    priority: int
    sort_key: float
    run_at: datetime | None
    delay: timedelta | None
    pending: int
    released: bool
    parent: Key | None
    unique_key: str | None
    unique_for: object | None
    unique_until: datetime | None
    holds_key: bool
    finished_at: datetime | None
    expires_at: datetime | None
    keep_count: int | None
    settled_token: str | None
    settled_state: str | None
    settled_at: datetime | None

    report: str | None = None
    payload: str | None = None
    reset: bool = False
    rewritten: bool = False
    before: JobState | None = None

    started: bool = False
    lease_until: datetime | None = None
    locked_by: str | None = None
    processed_at: datetime | None = None

    @property
    def key(self) -> JobKey:
        """The job's identity."""
        return JobKey(self.queue, self.id)


class JobTable(Protocol):
    """The jobs as a database keeps them, in the transaction of one step.

    What was read here, nobody else moves before the step is over: it is locked. Each method raises what the
    driver raises, or what the store makes of that; the step ends then, and its transaction is undone.
    """

    async def read(self, keys: Collection[Key]) -> Collection[Row]:
        """Those of these jobs that there are, locked, in any order; a job that does not exist is left out.

        Lock them in the order of queue and id, and steps that move the same jobs rarely wait in a circle.
        """
        ...

    async def save(self, rows: Sequence[Row]) -> None:
        """Write the state of these jobs and what goes with it, and a `report` that is given.

        That is all that `Row` lists from `state` to `settled_at`, save for `priority`, `sort_key`, and what
        never changes. A job that is not active loses `token`, `lease_until`, `locked_by` and `started`.
        None of the rows takes a key that another of them gives up. A key that another step has taken
        meanwhile is a unique violation, upon which the whole step is made again.
        """
        ...

    async def rewrite(self, rows: Sequence[Row]) -> None:
        """Write `priority`, `sort_key`, a `payload` if given, and no `processed_at` of those to `reset`."""
        ...

    async def remove(self, rows: Sequence[Row]) -> None:
        """Remove these jobs."""
        ...

    async def write_tombstones(self, rows: Sequence[Row], now: datetime) -> None:
        """Remember what was settled last of these jobs, which are about to go, for `REMEMBERED` from now.

        That is `queue`, `id`, `settled_token` and `settled_state`. No two are of one job and token.
        """
        ...

    async def find_tombstones(self, leases: Collection[Lease]) -> Collection[tuple[Lease, str]]:
        """What was settled last of jobs that are gone, by these leases: with the state it asked for."""
        ...

    async def holder(self, queue: str, unique_key: str) -> str | None:
        """The id of the job that is stored as the holder of a key, its time being over or not.

        It is read (and locked) next. What was written before in this step is seen.
        """
        ...

    async def count_unreleased(self, parent: Key) -> int:
        """How many children of a parent, in whatever queue and state, have not released it, as of now."""
        ...
