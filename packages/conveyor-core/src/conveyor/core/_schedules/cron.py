"""The times of a cron expression, in a time zone.

Cron expressions are read by cronsim, on the wall clock of a zone; what its changes mean is decided here:

- An expression whose minute or hour field begins with `*` is an *interval*: it matches whenever the wall
  clock shows a matching time. In an hour that happens twice it matches twice; in one that is left out, never.
- Any other is a *fixed time*. One that is left out is made up for at the first moment after the gap (several
  of one gap: once); one that happens twice counts the first time only.

cronsim has almost this rule, for five fields. Where the two differ, this one holds:
`test_core_schedule.py::test_the_rule_holds_where_cronsim_has_another`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from conveyor.core.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

ALIASES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_SECOND: Final = timedelta(seconds=1)
_MOMENT: Final = timedelta.resolution
_LONGEST: Final = 255
_SIX: Final = 6
#: A range of one, with a step: cronsim reads `6-6/2` as `6/2`, which goes on to the end.
_RANGE_OF_ONE: Final = re.compile(r"(?<!\w)(\w+)-\1/[1-9][0-9]*(?!\w)")
#: So many times are listed one after the other; more are looked for from the end.
_MANY: Final = 1_000
_ALLOWED: Final = (
    "write five fields (minute, hour, day of month, month, day of week), six with the seconds first, "
    f"or one of {', '.join(ALIASES)}"
)
#: An expression that matches nothing in the fifty years after this never will.
_PROBE: Final = datetime(2000, 1, 1)  # noqa: DTZ001 - a time of no zone in particular


@dataclass(frozen=True, slots=True)
class Cron:
    """When a cron expression of five or six fields matches, in a zone."""

    expression: str
    zone: ZoneInfo

    @classmethod
    def of(cls, expression: object, tz: object) -> Self:
        """An expression, or an alias such as `@daily`, in an IANA zone, as a user gave them.

        Raises InvalidOptionError for what is no expression, matches no date, or is no zone known here.
        """
        zone = checked_zone(tz)
        if not isinstance(expression, str) or len(expression) > _LONGEST:
            raise InvalidOptionError("expression", expression, _ALLOWED)
        text = ALIASES.get(expression.strip().lower(), expression).upper()
        fields = _RANGE_OF_ONE.sub(r"\1", text).split()
        try:
            matches = CronSim(" ".join(fields), _PROBE)
        except (CronSimError, ValueError) as error:
            raise InvalidOptionError("expression", expression, f"{error}; {_ALLOWED}") from None
        if any(field.rpartition(",")[2].startswith(("L/", "LW/")) for field in fields):
            raise InvalidOptionError("expression", expression, "there is no step after L or LW")
        if next(matches, None) is None:
            raise InvalidOptionError(
                "expression", expression, "it matches no date; change the day or the month"
            )
        return cls(" ".join(fields), zone)

    @property
    def fixed(self) -> bool:
        """Whether it means times of the day, and not an interval."""
        fields = self.expression.split()
        minute, hour = fields[1:3] if len(fields) == _SIX else fields[:2]
        return not (minute.startswith("*") or hour.startswith("*"))

    def next_after(self, instant: datetime) -> datetime | None:
        """The first time strictly after `instant`; None if there is none within fifty years."""
        local = instant.astimezone(self.zone)
        wall = local.replace(tzinfo=None, fold=0)
        if self.fixed:
            return self._next_fixed(wall, instant)
        found = self._next_shown(wall, instant)
        if found is None or local.fold or not _twice(wall, self.zone):
            return found
        # What the wall clock shows now it will show again: its earlier times are to come once more.
        back = _change(instant, instant + _spread(wall, self.zone), self.zone)
        again = self._next_shown(_wall(back, self.zone) - _SECOND, back - _MOMENT)
        return found if again is None else min(found, again)

    def latest(self, first: datetime, until: datetime, count: int) -> list[datetime]:
        """The last `count` times from `first` up to and including `until`."""
        found = [first] if first <= until else []
        while found and len(found) <= _MANY:
            following = self.next_after(found[-1])
            if following is None or following > until:
                return found[-count:]
            found.append(following)
        last: list[datetime] = []
        while len(last) < count and (before := self._last_until(until)) is not None and before >= first:
            last.insert(0, before)
            until = before - _MOMENT
        return last

    def _last_until(self, until: datetime) -> datetime | None:
        """The last time up to and including `until`, if there is one in the fifty years before."""
        back = _SECOND
        while (found := self.next_after(until - back)) is None or found > until:
            back *= 2
            if back > timedelta(days=18_300):
                return None
        # No time is left between `high` and `until`; times are whole seconds.
        high = until
        while high - found >= _SECOND:
            middle = found + (high - found) / 2
            later = self.next_after(middle)
            if later is not None and later <= until:
                found = later
            else:
                high = middle
        return found

    def _next_fixed(self, wall: datetime, instant: datetime) -> datetime | None:
        for shown in self._matches(wall):
            left_out = _end_of_gap(shown, self.zone)
            found = _at(shown, self.zone) if left_out is None else left_out
            if found > instant:
                return found
        return None

    def _next_shown(self, wall: datetime, instant: datetime) -> datetime | None:
        matches = self._matches(wall)
        while (shown := next(matches, None)) is not None:
            left_out = _end_of_gap(shown, self.zone)
            if left_out is not None:
                matches = self._matches(_wall(left_out, self.zone) - _SECOND)
                continue
            for fold in (0, 1):
                found = _at(shown, self.zone, fold)
                if found > instant:
                    return found
        return None

    def _matches(self, wall: datetime) -> Iterator[datetime]:
        """The matching times of a wall clock that is never changed, after `wall`."""
        return CronSim(self.expression, wall)


def checked_zone(tz: object) -> ZoneInfo:
    """An IANA zone by its name.

    Raises InvalidOptionError for one that is not known here.
    """
    allowed = 'it is the name of an IANA time zone, such as "UTC" or "Europe/Paris"'
    if not isinstance(tz, str):
        raise InvalidOptionError("tz", tz, allowed)
    try:
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidOptionError(
            "tz", tz, f"{allowed}; where the system knows no zones, install tzdata"
        ) from None


def _at(wall: datetime, zone: ZoneInfo, fold: int = 0) -> datetime:
    """The instant at which the wall clock shows that, for the first (or second) time."""
    return wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _wall(instant: datetime, zone: ZoneInfo) -> datetime:
    """What the wall clock shows."""
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def _spread(wall: datetime, zone: ZoneInfo) -> timedelta:
    """How far apart the two readings of a wall clock's time are; zero for all but a few."""
    return abs(_at(wall, zone, 0) - _at(wall, zone, 1))


def _twice(wall: datetime, zone: ZoneInfo) -> bool:
    """Whether the wall clock shows that twice."""
    return _at(wall, zone, 0) < _at(wall, zone, 1)


def _end_of_gap(wall: datetime, zone: ZoneInfo) -> datetime | None:
    """The first moment after the gap that this time falls into; None for one that the clock shows."""
    early, late = _at(wall, zone, 1), _at(wall, zone, 0)
    return _change(early, late, zone) if early < late else None


def _change(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    """The first moment, to the second, at which the zone's offset is no longer what it is at `low`."""
    before = low.astimezone(zone).utcoffset()
    low, high = low.replace(microsecond=0), high.replace(microsecond=0)
    while high - low > _SECOND:
        middle = (low + (high - low) / 2).replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high
