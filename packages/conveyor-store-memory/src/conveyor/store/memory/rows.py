"""A job as this store keeps it: a record that can be written to, and one column of its own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Final

from conveyor.core.store import JobKey, JobRecord, JobState, record_of, replaced

# An attribute of an enum costs more than a look-up in a dictionary, and these are asked for all the time.
WAITING: Final = JobState.WAITING
WAITING_CHILDREN: Final = JobState.WAITING_CHILDREN
DELAYED: Final = JobState.DELAYED
ACTIVE: Final = JobState.ACTIVE
#: Instants that are to be in falling order are written as their distance from here.
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: The end of what does not end by itself.
FOREVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """The columns of a `JobRecord`, under the same names, and what was settled last."""

    queue: str
    id: str
    name: str
    payload: str
    options: str
    report: str
    priority: int
    lifo: bool
    ageing: timedelta | None
    delay: timedelta | None
    run_at: datetime | None
    group: str | None
    group_max_size: int | None
    unique_key: str | None
    unique_for: timedelta | None
    parent: JobKey | None
    state: JobState
    seq: int
    sort_key: float
    holds_key: bool
    unique_until: datetime | None
    pending: int
    released: bool
    created_at: datetime
    token: str | None = None
    lease_until: datetime | None = None
    locked_by: str | None = None
    attempt: int = 0
    stalled: int = 0
    started: bool = False
    cancel_requested: bool = False
    processed_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    keep_count: int | None = None
    #: The last outcome that was applied: its token, the state it asked for, and when.
    settled: tuple[str, JobState, datetime] | None = None

    @property
    def key(self) -> JobKey:
        """The job's identity."""
        return JobKey(self.queue, self.id)

    @property
    def unretained(self) -> bool:
        """Whether the job has finished, and nothing says how long it is kept."""
        return self.finished_at is not None and self.expires_at is None and self.keep_count is None

    def holds(self, now: datetime) -> bool:
        """Whether the job is the holder of its unique key at that moment."""
        return self.holds_key and (self.unique_until is None or self.unique_until > now)


def record(row: Row, now: datetime) -> JobRecord:
    """The row as others may see it: a value of its own, as of now."""
    made = record_of(*_values(row))
    return replaced(made, holds_key=False) if row.holds_key and not row.holds(now) else made


def tie_break(job: Row | JobRecord) -> int:
    """Where the job stands among those of its sort key: `lifo` ones first, newest first."""
    return -job.seq if job.lifo else job.seq


_values: Final = attrgetter(*(field.name for field in fields(JobRecord)))
