"""What the file holds, and how it is written as JSON."""

import json
import logging
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from conveyor.core.errors import SchemaTooNewError, StoreUnavailableError
from conveyor.core.store import JobKey, JobRecord, JobState, Lease

VERSION = 1
REMEMBERED = timedelta(minutes=10)
NAMES = tuple(field.name for field in fields(JobRecord))
#: The fields of a record that are instants, and those that are durations.
INSTANTS = (
    "run_at",
    "unique_until",
    "lease_until",
    "created_at",
    "processed_at",
    "finished_at",
    "expires_at",
)
SPANS = ("ageing", "delay", "unique_for")

log = logging.getLogger(__name__)


class Applied(NamedTuple):
    """An outcome that was applied: under which token, what state it asked for, and when."""

    token: str
    state: JobState
    at: datetime


@dataclass
class Data:
    """Everything that the file holds."""

    next_seq: int = 1
    #: In the order they were added.
    jobs: dict[JobKey, JobRecord] = field(default_factory=dict)
    #: The last outcome of each job, and the recent ones of jobs that are gone.
    applied: dict[JobKey, Applied] = field(default_factory=dict)
    gone: dict[Lease, Applied] = field(default_factory=dict)
    #: By queue and name (None: the whole queue); until when, or None for no end.
    pauses: dict[tuple[str, str | None], datetime | None] = field(default_factory=dict)
    #: Jobs that this release cannot read. They stay in the file as they are.
    unreadable: list[Any] = field(default_factory=list)

    def copy(self) -> "Data":
        """The same, to be changed by itself. What it is made of never changes."""
        return replace(
            self,
            jobs=dict(self.jobs),
            applied=dict(self.applied),
            gone=dict(self.gone),
            pauses=dict(self.pauses),
            unreadable=list(self.unreadable),
        )

    def put(self, job: JobRecord, **changes: Any) -> JobRecord:
        """Write a job, with these changes."""
        self.jobs[job.key] = changed = replace(job, **changes)
        return changed

    def remove(self, job: JobRecord, now: datetime) -> None:
        """Let a job go, and remember its last outcome if that is recent."""
        del self.jobs[job.key]
        applied = self.applied.pop(job.key, None)
        if applied is not None and applied.at >= now - REMEMBERED:
            self.gone[Lease(job.queue, job.id, applied.token)] = applied._replace(at=now)

    def holder(self, queue: str, key: str | None) -> JobRecord | None:
        """The job that holds a unique key."""
        held = (job for job in self.jobs.values() if job.holds_key and job.queue == queue)
        return next((job for job in held if job.unique_key == key), None)

    def lapse(self, now: datetime) -> None:
        """Have the jobs whose `unique_for` is over hold their keys no more."""
        for job in list(self.jobs.values()):
            if job.holds_key and job.unique_until is not None and job.unique_until <= now:
                self.put(job, holds_key=False)


def dump(data: Data) -> str:
    """The data as JSON text."""
    rows = [
        {name: getattr(job, name) for name in NAMES} | {"applied": data.applied.get(job.key)}
        for job in data.jobs.values()
    ]
    found = {
        "version": VERSION,
        "next_seq": data.next_seq,
        "jobs": rows + data.unreadable,
        "gone": [[*lease[:2], *applied] for lease, applied in data.gone.items()],
        "pauses": [[*what, until] for what, until in data.pauses.items()],
    }
    return json.dumps(found, default=_plain)


def load(text: str) -> Data:
    """The data of a text that `dump` made; nothing, for no text."""
    if not text:
        return Data()
    try:
        found = json.loads(text)
        if found["version"] > VERSION:
            raise SchemaTooNewError(
                f"the file has version {found['version']}, and this release reads {VERSION}"
            )
        data = Data(found["next_seq"])
        data.gone = {Lease(queue, job_id, of[0]): _applied(of) for queue, job_id, *of in found["gone"]}
        data.pauses = {(queue, name): until and _instant(until) for queue, name, until in found["pauses"]}
        for row in found["jobs"]:
            _load(data, row)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreUnavailableError(f"the file is damaged, or none of this store's: {error}") from error
    return data


def _load(data: Data, row: dict[str, Any]) -> None:
    """Take one job in. A damaged one stops nobody but itself."""
    try:
        values: dict[str, Any] = dict(row)
        applied = values.pop("applied")
        given = {name for name, value in values.items() if value is not None}
        values |= {name: _instant(values[name]) for name in given.intersection(INSTANTS)}
        values |= {name: timedelta(microseconds=values[name]) for name in given.intersection(SPANS)}
        values["state"] = JobState(values["state"])
        job = JobRecord(**values)
        if applied is not None:
            data.applied[job.key] = _applied(applied)
        data.jobs[job.key] = job
    except (ValueError, TypeError, KeyError):
        log.exception("a job of the file cannot be read, and is left as it is")
        data.unreadable.append(row)


def _applied(values: list[str]) -> Applied:
    token, state, at = values
    return Applied(token, JobState(state), _instant(at))


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _plain(value: Any) -> Any:
    """What `json` cannot write by itself."""
    return value.isoformat() if isinstance(value, datetime) else value // timedelta.resolution
