"""What a schedule is, as the user asked for it, and its state; and the document of both.

The document is the `report` of a job in the companion queue: a settle replaces it in one step, together with
the time at which a worker looks at it next.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core import _documents
from conveyor.core._schedules.cron import Cron, checked_zone
from conveyor.core._schedules.timing import Every
from conveyor.core.durations import Duration, duration, instant
from conveyor.core.errors import InvalidOptionError
from conveyor.core.job_options import checked_name, whole
from conveyor.core.schedules import Misfire, Overlap, RunAll
from conveyor.core.store import JobRecord

if TYPE_CHECKING:
    from conveyor.core._schedules.timing import Timing

#: What of a record makes the jobs of a schedule alike; all else is each job's own.
_ALIKE: Final = (
    *("queue", "name", "payload", "options", "priority", "lifo", "ageing", "delay"),
    *("group", "group_max_size", "unique_key", "unique_for"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSpec:
    """What the user asked for. `job` is the pattern of the jobs it makes."""

    key: str
    job: JobRecord
    #: A waiting or delayed holder of the deduplication key takes the new data.
    replaces: bool = False
    interval: timedelta | None = None
    expression: str | None = None
    tz: str = "UTC"
    start: datetime | None = None
    end: datetime | None = None
    limit: int | None = None
    jitter: timedelta | None = None
    misfire: Misfire = "run_once"
    overlap: Overlap = "allow"

    def timing(self, since: datetime) -> Timing:
        """Its times, of a schedule that was added, or got these times, at `since`."""
        if self.interval is not None:
            return Every(self.interval, self.start or since)
        return Cron.of(self.expression, self.tz)

    def same_times(self, other: ScheduleSpec) -> bool:
        """Whether both mean the same times, from the same start."""
        return (self.interval, self.expression, self.tz, self.start) == (
            *(other.interval, other.expression, other.tz, other.start),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleState:
    """What a schedule has done, and when it runs next. `next` None: no run is to come."""

    since: datetime
    next: datetime | None
    last: datetime | None = None
    runs: int = 0
    paused: bool = False
    #: The jobs that may be unfinished, by their ids: all that `overlap` has to look at.
    made: tuple[str, ...] = ()


def checked_spec(
    *,
    key: object,
    job: JobRecord,
    replaces: bool,
    interval: Duration | None = None,
    expression: str | None = None,
    tz: str = "UTC",
    start: datetime | None,
    end: datetime | None,
    limit: int | None,
    jitter: Duration | None,
    misfire: object,
    overlap: object,
) -> ScheduleSpec:
    """The schedule that these arguments ask for.

    Raises InvalidOptionError, naming the option, the value and what is allowed.
    """
    if interval is None:
        expression = Cron.of(expression, tz).expression
    else:
        checked_zone(tz)
    begins = None if start is None else instant(start, "start")
    ends = None if end is None else instant(end, "end")
    if begins is not None and ends is not None and ends <= begins:
        raise InvalidOptionError("end", end, "it comes after start")
    if overlap not in ("allow", "skip"):
        raise InvalidOptionError("overlap", overlap, 'use "allow" or "skip"')
    if not isinstance(misfire, RunAll) and misfire not in ("run_once", "skip"):
        raise InvalidOptionError("misfire", misfire, 'use "run_once", "skip" or RunAll(most)')
    return ScheduleSpec(
        key=checked_name(key, "key"),
        job=_pattern(job),
        replaces=replaces,
        interval=None if interval is None else duration(interval, "interval", zero=False),
        expression=expression,
        tz=tz,
        start=begins,
        end=ends,
        limit=None if limit is None else whole(limit, "limit", least=1),
        jitter=None if jitter is None else duration(jitter, "jitter"),
        misfire=misfire,
        overlap=overlap,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    spec: ScheduleSpec
    state: ScheduleState | None = None


def encode(spec: ScheduleSpec, state: ScheduleState | None = None) -> str:
    """JSON text of a schedule and its state; without that, it has not begun."""
    return _documents.encode(_Document(spec=spec, state=state))


def decode(text: str) -> tuple[ScheduleSpec, ScheduleState | None]:
    """What was stored by `encode`. Entries of a later release are passed over.

    Raises ValueError for anything else.
    """
    found = _documents.decode(_Document, text)
    return found.spec, found.state


def _pattern(job: JobRecord) -> JobRecord:
    return JobRecord(id="", **{name: getattr(job, name) for name in _ALIKE})
