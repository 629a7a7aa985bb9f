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

    `name` and `group` are read by stores that count the jobs of groups in their own statements. The documents
    are not read; what is put there replaces them.
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
    #: The last outcome that was applied: its token, the state it asked for, and when.
    settled_token: str | None
    settled_state: str | None
    settled_at: datetime | None

    report: str | None = None
    payload: str | None = None
    #: Whether the job begins anew, as if it had never run: it has no `processed_at` any more.
    reset: bool = False
    #: Whether it changed otherwise than in its place in life, and `JobTable.rewrite` is to be called.
    rewritten: bool = False
    #: The state that is stored.
    before: JobState | None = None

    # Not read: a job whose state is active keeps them, and any other has none.
    started: bool = False
    lease_until: datetime | None = None
    locked_by: str | None = None
    processed_at: datetime | None = None

    @property
    def key(self) -> JobKey:
        """The job's identity."""
        return JobKey(self.queue, self.id)


class JobTable(Protocol):
    """The jobs as a database keeps them. What was read here, nobody else moves before the step is over."""

    async def read(self, keys: Collection[Key]) -> Collection[Row]:
        """Those of these jobs that there are."""
        ...

    async def save(self, rows: Sequence[Row]) -> None:
        """Write where these jobs are in their lives, and a `report` that is given.

        That is all that `Row` lists from `state` to `settled_at`, save for `priority`, `sort_key`, and what
        never changes. A job that is not active loses its lease. None of the rows takes a key that another of
        them gives up.
        """
        ...

    async def rewrite(self, rows: Sequence[Row]) -> None:
        """Write `priority`, `sort_key`, a `payload` if given, and no `processed_at` of those to `reset`."""
        ...

    async def remove(self, rows: Sequence[Row]) -> None:
        """Remove these jobs."""
        ...

    async def write_tombstones(self, rows: Sequence[Row], now: datetime) -> None:
        """Remember what was settled last of these jobs, which are about to go."""
        ...

    async def find_tombstones(self, leases: Collection[Lease]) -> Collection[tuple[Lease, str]]:
        """What was settled last of jobs that are gone, by these leases: with the state it asked for."""
        ...

    async def holder(self, queue: str, unique_key: str) -> str | None:
        """The id of the job that is stored as the holder of a key, its time being over or not."""
        ...

    async def count_unreleased(self, parent: Key) -> int:
        """How many children of a parent, in whatever queue, have not released it."""
        ...
