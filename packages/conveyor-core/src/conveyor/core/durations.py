"""Durations and instants as users write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from conveyor.core.errors import InvalidOptionError

#: How a duration may be written: a timedelta, seconds, or text such as "5s", "10 minutes", "1h30m".
Duration = timedelta | float | str

#: The longest duration that is taken: a hundred years. Instants stay far from where databases end.
LONGEST: Final = timedelta(days=36_525)

_UNITS: Final = {
    "ms": 0.001,
    "millisecond": 0.001,
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "h": 3_600,
    "hr": 3_600,
    "hour": 3_600,
    "d": 86_400,
    "day": 86_400,
    "w": 604_800,
    "week": 604_800,
}
_LONGEST_TEXT: Final = 100
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)[\s,]*")
_ALLOWED: Final = (
    'write a timedelta, a number of seconds, or text such as "5s", "10 minutes", "1.5h" or "1h30m"'
)


def duration(value: object, option: str, *, zero: bool = True) -> timedelta:
    """The duration that a user wrote, to the microsecond.

    Raises InvalidOptionError, naming `option`, for anything that is not a duration, is negative (or zero,
    unless `zero`), not finite, or longer than `LONGEST`.
    """
    match value:
        case timedelta():
            found = _plain_span(value)
        case bool():
            raise InvalidOptionError(option, value, _ALLOWED)
        case int() | float():
            if not abs(value) <= LONGEST.total_seconds():  # NaN is not, either
                raise InvalidOptionError(
                    option, value, "the longest duration is 100 years, and it must be finite"
                )
            found = timedelta(seconds=value)
        case str():
            found = _parsed(value, option)
        case _:
            raise InvalidOptionError(option, value, _ALLOWED)
    if found < timedelta(0):
        raise InvalidOptionError(option, value, "a duration cannot be negative")
    if not zero and found == timedelta(0):
        raise InvalidOptionError(option, value, "the duration must be longer than zero")
    if found > LONGEST:
        raise InvalidOptionError(option, value, "the longest duration is 100 years")
    return found


def instant(value: object, option: str) -> datetime:
    """The aware instant that a user gave, in UTC.

    Raises InvalidOptionError, naming `option`, for a naive one, or one outside the years 1970 to 2200.
    """
    if not isinstance(value, datetime):
        raise InvalidOptionError(option, value, "give an aware datetime, as datetime.now(UTC)")
    if value.utcoffset() is None:
        raise InvalidOptionError(
            option,
            value,
            "it has no time zone; write datetime(..., tzinfo=UTC) or "
            'datetime(..., tzinfo=ZoneInfo("Europe/Paris"))',
        )
    if not _FIRST <= value <= _LAST:
        raise InvalidOptionError(option, value, "give an instant in the years 1970 to 2200")
    return _plain_instant(value.astimezone(UTC))


# Subclasses, as pendulum's, have an arithmetic of their own, and make others of themselves wherever they go:
# a schedule that is every `pendulum.duration(hours=1)` could be stored, and never computed.


def _plain_span(value: timedelta) -> timedelta:
    if type(value) is timedelta:
        return value
    # The subclass may count days and seconds in its own way, but not this.
    return timedelta(microseconds=timedelta.__floordiv__(value, timedelta.resolution))


def _plain_instant(at: datetime) -> datetime:
    if type(at) is datetime:
        return at
    return datetime(at.year, at.month, at.day, at.hour, at.minute, at.second, at.microsecond, UTC)


_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(2200, 1, 1, tzinfo=UTC)


def _parsed(text: str, option: str) -> timedelta:
    rest = text.strip().lower()
    if not rest or len(rest) > _LONGEST_TEXT:
        raise InvalidOptionError(option, text, _ALLOWED)
    seconds = 0.0
    while rest:
        part = _PART.match(rest)
        unit = part and _unit(part[2])
        if part is None or unit is None:
            raise InvalidOptionError(option, text, _ALLOWED)
        seconds += float(part[1]) * unit
        rest = rest[part.end() :]
    if seconds > LONGEST.total_seconds():
        raise InvalidOptionError(option, text, "the longest duration is 100 years")
    return timedelta(seconds=seconds)


def _unit(word: str) -> float | None:
    return _UNITS.get(word) or (_UNITS.get(word.removesuffix("s")) if len(word) > 2 else None)  # noqa: PLR2004 - "ms" is no plural
