"""What a schedule is, as the user asked for it, and where it stands; and the document of both.

The document is the `report` of a job in the companion queue: a settle replaces it in one step, together with
the time at which a worker looks at it next.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic_core import from_json, to_json

from conveyor.core._schedules.timing import Cron, Every, checked_zone
from conveyor.core.durations import Duration, duration, instant
from conveyor.core.errors import InvalidOptionError
from conveyor.core.options import checked_name, whole
from conveyor.core.store import JobRecord

if TYPE_CHECKING:
    from conveyor.core._schedules.timing import Timing

_MOST: Final = 1_000
#: What of a record makes the jobs of a schedule alike; all else is each job's own.
_ALIKE: Final = (
    *("queue", "name", "payload", "options", "priority", "lifo", "ageing", "delay"),
    *("group", "group_max_size", "unique_key", "unique_for"),
)
_SPANS: Final = frozenset({"ageing", "delay", "unique_for"})


@dataclass(frozen=True, slots=True, init=False)
class RunAll:
    """For `misfire=`: of the runs that are due, a job for each of the latest `most`."""

    most: int

    def __init__(self, most: int) -> None:
        object.__setattr__(self, "most", whole(most, "most", least=1, most=_MOST))


Misfire = RunAll | Literal["run_once", "skip"]
Overlap = Literal["allow", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
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

    def same_times(self, other: Plan) -> bool:
        """Whether both mean the same times, from the same start."""
        return (self.interval, self.expression, self.tz, self.start) == (
            *(other.interval, other.expression, other.tz, other.start),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a schedule stands. `next` None: no run is to come."""

    since: datetime
    next: datetime | None
    last: datetime | None = None
    runs: int = 0
    paused: bool = False
    #: The jobs that may be unfinished, by their ids: all that `overlap` has to look at.
    made: tuple[str, ...] = field(default=())


def checked_plan(
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
) -> Plan:
    """The plan that these arguments ask for.

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
    return Plan(
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


def encode(plan: Plan, standing: Standing | None = None) -> str:
    """JSON text of a plan, and of where it stands; without that, it has not begun."""
    found: dict[str, Any] = {
        "key": plan.key,
        "job": _job_to_json(plan.job),
        "replaces": plan.replaces,
        "interval": None if plan.interval is None else plan.interval.total_seconds(),
        "expression": plan.expression,
        "tz": plan.tz,
        "start": _text(plan.start),
        "end": _text(plan.end),
        "limit": plan.limit,
        "jitter": None if plan.jitter is None else plan.jitter.total_seconds(),
        "misfire": {"most": plan.misfire.most} if isinstance(plan.misfire, RunAll) else plan.misfire,
        "overlap": plan.overlap,
    }
    if standing is not None:
        found["standing"] = {
            "since": _text(standing.since),
            "next": _text(standing.next),
            "last": _text(standing.last),
            "runs": standing.runs,
            "paused": standing.paused,
            "made": standing.made,
        }
    return to_json(found).decode()


def decode(text: str) -> tuple[Plan, Standing | None]:
    """What was stored by `encode`. Entries of a later release are passed over.

    Raises ValueError, TypeError or LookupError for anything else.
    """
    found: Any = from_json(text)
    misfire, standing = found["misfire"], found.get("standing")
    plan = Plan(
        key=found["key"],
        job=_job_from_json(found["job"]),
        replaces=found["replaces"],
        interval=_span(found["interval"]),
        expression=found["expression"],
        tz=found["tz"],
        start=_instant(found["start"]),
        end=_instant(found["end"]),
        limit=found["limit"],
        jitter=_span(found["jitter"]),
        misfire=RunAll(misfire["most"]) if isinstance(misfire, dict) else misfire,
        overlap=found["overlap"],
    )
    if standing is None:
        return plan, None
    return plan, Standing(
        since=datetime.fromisoformat(standing["since"]),
        next=_instant(standing["next"]),
        last=_instant(standing["last"]),
        runs=int(standing["runs"]),
        paused=bool(standing["paused"]),
        made=tuple(standing["made"]),
    )


def _pattern(job: JobRecord) -> JobRecord:
    return JobRecord(id="", **{name: getattr(job, name) for name in _ALIKE})


def _job_to_json(job: JobRecord) -> dict[str, Any]:
    usual = {one.name: one.default for one in fields(JobRecord)}
    found = {name: getattr(job, name) for name in _ALIKE if getattr(job, name) != usual[name]}
    return {name: one.total_seconds() if isinstance(one, timedelta) else one for name, one in found.items()}


def _job_from_json(found: dict[str, Any]) -> JobRecord:
    known = {name: value for name, value in found.items() if name in _ALIKE}
    spans: dict[str, Any] = {name: _span(known[name]) for name in _SPANS & known.keys()}
    return JobRecord(id="", **known | spans)


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _span(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
