"""Schedule: what `every` and `cron` return, and the values that they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from conveyor.core.job_options import whole

if TYPE_CHECKING:
    from datetime import datetime, timedelta

_MOST: Final = 1_000


@dataclass(frozen=True, slots=True, init=False)
class RunAll:
    """For `misfire=`: of the runs that are due, a job for each of the latest `most`."""

    most: int

    def __init__(self, most: int) -> None:
        object.__setattr__(self, "most", whole(most, "most", least=1, most=_MOST))


Misfire = RunAll | Literal["run_once", "skip"]
Overlap = Literal["allow", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule as it was when it was read.

    `every` is the interval of one made by `every()`; `cron` and `tz` are of one made by `cron()`. `name` and
    `data` (as JSON has it) are those of its jobs. `next_run_at` is None while it is paused, and when its
    `end` or its `limit` is reached. `last_run_at` is what its latest job was planned for, and `runs` how many
    it has made, those of `trigger_schedule` not counted.
    """

    key: str
    name: str
    data: Any
    every: timedelta | None
    cron: str | None
    tz: str
    start: datetime | None
    end: datetime | None
    limit: int | None
    jitter: timedelta | None
    misfire: Misfire
    overlap: Overlap
    next_run_at: datetime | None
    last_run_at: datetime | None
    runs: int
    paused: bool
