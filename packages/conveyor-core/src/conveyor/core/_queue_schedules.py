"""The part of `Queue` that is about schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Unpack

from typing_extensions import TypeVar

from conveyor.core._jobs.builder import as_stored
from conveyor.core._jobs.lookup import read
from conveyor.core._schedules.definition import checked_spec
from conveyor.core._schedules.manager import Schedules
from conveyor.core.durations import Duration, duration
from conveyor.core.errors import InvalidOptionError
from conveyor.core.job_options import AddOptions, checked_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from conveyor.core._enqueue import Enqueuer
    from conveyor.core._schedules.definition import ScheduleSpec
    from conveyor.core.job import Job
    from conveyor.core.schedules import Misfire, Overlap, Schedule

T = TypeVar("T", default=Any)
R = TypeVar("R", default=Any)


class QueueSchedules(Generic[T, R]):
    """A queue whose jobs can be added by schedules."""

    def __init__(self, enqueuer: Enqueuer[T, R]) -> None:
        self._enqueuer = enqueuer
        self._schedules = Schedules(enqueuer.store, enqueuer.builder.queue, enqueuer.clock)

    async def every(
        self,
        interval: Duration,
        name: str,
        data: T | None = None,
        *,
        key: str,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int | None = None,
        jitter: Duration | None = None,
        misfire: Misfire = "run_once",
        overlap: Overlap = "allow",
        **options: Unpack[AddOptions],
    ) -> Schedule:
        """Add a job every `interval`, first one interval after `start` (or now), without drift.

        The schedule with this `key` is made, or changed, or, if it is as asked for, left alone. Options are
        those of `add`, and go for each of its jobs. `end`: no run at or after it. `limit`: so many runs.
        `jitter`: each job waits for a random time up to it. `misfire`: what becomes of runs that no worker
        was there for. `overlap` `"skip"`: no job while the one before is unfinished.

        Raises InvalidOptionError or PayloadError, having stored nothing.
        """
        pace = duration(interval, "interval", zero=False)
        timing: dict[str, Any] = {"interval": pace, "start": start, "end": end}
        rules: dict[str, Any] = {"limit": limit, "jitter": jitter, "misfire": misfire, "overlap": overlap}
        return await self._schedules.put(self._spec(name, data, options, key=key, **timing, **rules))

    async def cron(
        self,
        expression: str,
        name: str,
        data: T | None = None,
        *,
        key: str,
        tz: str = "UTC",
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int | None = None,
        jitter: Duration | None = None,
        misfire: Misfire = "run_once",
        overlap: Overlap = "allow",
        **options: Unpack[AddOptions],
    ) -> Schedule:
        """Add a job whenever a cron expression matches the wall clock of a zone, not before `start`.

        The expression has five fields (minute, hour, day of month, month, day of week), or six with the
        seconds first, or is an alias such as `@daily`. All else as for `every`.

        Raises InvalidOptionError, also for an expression that matches no date, or PayloadError, having stored
        nothing.
        """
        timing: dict[str, Any] = {"expression": expression, "tz": tz, "start": start, "end": end}
        rules: dict[str, Any] = {"limit": limit, "jitter": jitter, "misfire": misfire, "overlap": overlap}
        return await self._schedules.put(self._spec(name, data, options, key=key, **timing, **rules))

    async def get_schedule(self, key: str) -> Schedule | None:
        """The schedule with this key as it is now, or None if there is none."""
        return await self._schedules.get(checked_name(key, "key"))

    async def get_schedules(self) -> list[Schedule]:
        """Every schedule of this queue as it is now, in the order they were made."""
        return await self._schedules.all()

    async def pause_schedule(self, key: str) -> Schedule:
        """Let a schedule add no jobs until it is resumed.

        Raises ScheduleNotFoundError.
        """
        return await self._schedules.pause(checked_name(key, "key"))

    async def resume_schedule(self, key: str) -> Schedule:
        """Let a paused schedule go on with its next run; those in between are not made up for.

        Raises ScheduleNotFoundError.
        """
        return await self._schedules.resume(checked_name(key, "key"))

    async def trigger_schedule(self, key: str) -> Job[T, R]:
        """Add a job of a schedule now, paused or not; its times and its `limit` are not touched.

        Raises ScheduleNotFoundError.
        """
        record, found = await self._schedules.trigger(checked_name(key, "key"))
        existing = None if found.created else await read(self._enqueuer.store, found.key)
        return self._enqueuer.job_of(
            as_stored(record, found) if existing is None else existing, deduplicated=not found.created
        )

    async def remove_schedule(self, key: str) -> bool:
        """Remove a schedule, and say whether it was there. The jobs it has added stay."""
        return await self._schedules.remove(checked_name(key, "key"))

    def _spec(self, name: str, data: T | None, options: Mapping[str, Any], **given: Any) -> ScheduleSpec:
        parsed = self._enqueuer.builder.parsed(options)
        for option, value in (("job_id", parsed.job_id), ("run_at", parsed.run_at)):
            if value is not None:
                allowed = "each job of a schedule has an id and a time of its own"
                raise InvalidOptionError(option, value, allowed)
        dedup = parsed.deduplication
        replaces = dedup is not None and dedup.mode == "replace"
        return checked_spec(job=self._enqueuer.builder.record(name, data, parsed), replaces=replaces, **given)
