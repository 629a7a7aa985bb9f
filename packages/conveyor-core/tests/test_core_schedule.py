"""When a schedule runs: cron expressions and intervals against a clock that is read minute by minute."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor.core import InvalidOptionError
from conveyor.core._schedules.cron import ALIASES, Cron
from conveyor.core._schedules.timing import Every

MINUTE = timedelta(minutes=1)
#: A zone, and the first day of two years around clock changes that have been got wrong before.
ZONES = {
    "UTC": datetime(2025, 1, 1, tzinfo=UTC),
    "America/New_York": datetime(2025, 1, 1, tzinfo=UTC),
    "Europe/Paris": datetime(2025, 1, 1, tzinfo=UTC),
    "Australia/Lord_Howe": datetime(2025, 1, 1, tzinfo=UTC),  # half an hour
    "America/St_Johns": datetime(2025, 1, 1, tzinfo=UTC),  # not a whole hour from UTC
    "Africa/Casablanca": datetime(2025, 1, 1, tzinfo=UTC),  # back for Ramadan
    "Africa/Cairo": datetime(2025, 1, 1, tzinfo=UTC),  # at midnight
    "Pacific/Apia": datetime(2010, 6, 1, tzinfo=UTC),  # a day that never was, 2011-12-30
}
EXPRESSIONS = (
    *("* * * * *", "*/15 * * * *", "7 * * * *", "0 */2 * * *", "*/20 1,2 * * *", "30 */6 * * *"),
    *("30 2 * * *", "15,45 1 * * *", "0 0 * * *", "30 1 * * sun", "0 2 1 * *", "59 23 31 12 *"),
    *("0 12 30 12 *", "0-59 2 * * *", "5 0-23/3 * * mon-fri", "0 0 l * *", "30 0 * * fri#5", "0 4 13 * fri"),
)


YEARS = timedelta(days=731)


@dataclass(frozen=True)
class Minute:
    """A minute as it passes: its instant, what the wall clock shows, and whether for the second time."""

    instant: datetime
    wall: datetime
    again: bool


@lru_cache(maxsize=64)
def minutes(zone: str, low: datetime, high: datetime) -> list[Minute]:
    """Every minute from `low` up to `high`, the one before included."""
    tz, instant, found = ZoneInfo(zone), low - MINUTE, []
    while instant < high:
        local = instant.astimezone(tz)
        found.append(Minute(instant, local.replace(tzinfo=None, fold=0), bool(local.fold)))
        instant += MINUTE
    return found


@cache
def changes(zone: str) -> list[datetime]:
    """When the clock was put on or back, to the hour."""
    tz, instant, found = ZoneInfo(zone), ZONES[zone], []
    while instant < ZONES[zone] + YEARS:
        following = instant + timedelta(hours=1)
        if following.astimezone(tz).utcoffset() != instant.astimezone(tz).utcoffset():
            found.append(following)
        instant = following
    return found


@dataclass(frozen=True)
class Fields:
    """An expression as sets of numbers, read without cronsim's help."""

    minute: frozenset[int]
    hour: frozenset[int]
    day: frozenset[int]
    month: frozenset[int]
    weekday: frozenset[int]
    last_day: bool
    nth: int | None
    both: bool

    @classmethod
    @cache
    def of(cls, expression: str) -> Fields:
        minute, hour, day, month, weekday = expression.upper().split()
        name, _, nth = weekday.partition("#")
        return cls(
            minute=numbers(minute, 59, 0),
            hour=numbers(hour, 23, 0),
            day=numbers(day, 31, 1),
            month=numbers(month, 12, 1),
            weekday=numbers(name, 6, 0),
            last_day=day == "L",
            nth=int(nth) if nth else None,
            both=day.startswith("*") or weekday.startswith("*"),
        )

    def match(self, wall: datetime) -> bool:
        if wall.minute not in self.minute or wall.hour not in self.hour or wall.month not in self.month:
            return False
        last = self.last_day and (wall + timedelta(days=1)).month != wall.month
        days = last or wall.day in self.day
        weekdays = wall.isoweekday() % 7 in self.weekday and self.nth in (None, (wall.day + 6) // 7)
        return (days and weekdays) if self.both else (days or weekdays)


DAYS = {name: str(n) for n, name in enumerate(["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"])}


def numbers(text: str, most: int, least: int) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        if span == "L":
            continue
        low, _, high = ("*", "", "") if span == "*" else span.partition("-")
        first = least if low == "*" else int(DAYS.get(low, low))
        end = most if low == "*" else int(DAYS.get(high, high)) if high else first
        found.update(range(first, end + 1, int(step or 1)))
    return frozenset(found)


def scanned(expression: str, zone: str, low: datetime, high: datetime) -> Iterator[datetime]:
    """The times from `low` up to `high`, by looking at every minute."""
    shown, fields = minutes(zone, low, high), Fields.of(expression)
    minute, hour = expression.split()[:2]
    fixed = "*" not in (minute[0], hour[0])
    for before, now in pairwise(shown):
        left_out = (now.wall - before.wall) // MINUTE
        skipped = (before.wall + n * MINUTE for n in range(1, left_out)) if fixed else ()
        shows = fields.match(now.wall) and not (fixed and now.again)
        if shows or any(map(fields.match, skipped)):
            yield now.instant


def evaluated(expression: str, zone: str, low: datetime, high: datetime) -> Iterator[datetime]:
    cron = Cron.of(expression, zone)
    at = cron.next_after(low - timedelta.resolution)
    while at is not None and at < high:
        yield at
        at = cron.next_after(at)


@pytest.mark.slow
@pytest.mark.parametrize("zone", ZONES)
def test_cron_agrees_with_a_clock_that_is_read_minute_by_minute(zone: str) -> None:
    """F3: around both changes of the clock in a year, and in another week."""
    rng = random.Random(zone)
    places = [*changes(zone)[-2:], ZONES[zone] + rng.randrange(700) * timedelta(days=1)]
    for place in places:
        for expression in EXPRESSIONS:
            width = timedelta(hours=4 if expression == "* * * * *" else 30)
            low, high = place - width, place + width

            found = list(evaluated(expression, zone, low, high))

            assert found == list(scanned(expression, zone, low, high)), (expression, zone)


@pytest.mark.chaos
@pytest.mark.parametrize("zone", ZONES)
def test_cron_agrees_with_that_clock_in_every_minute_of_two_years(zone: str) -> None:
    low, high = ZONES[zone], ZONES[zone] + YEARS
    for expression in EXPRESSIONS:
        found = list(evaluated(expression, zone, low, high))

        assert found == list(scanned(expression, zone, low, high)), (expression, zone)
    minutes.cache_clear()


@settings(max_examples=150, deadline=None)
@given(zone=st.sampled_from(sorted(ZONES)), expression=st.sampled_from(EXPRESSIONS), data=st.data())
def test_the_next_time_is_the_same_from_wherever_one_looks(
    zone: str, expression: str, data: st.DataObject
) -> None:
    """Also from within an hour that happens twice: no time is told twice, and none left out."""
    where = data.draw(st.sampled_from([ZONES[zone], *changes(zone)]), label="change")
    around = data.draw(st.integers(-8_000, 8_000), label="seconds around it")
    instant = where + timedelta(seconds=around, microseconds=around % 7)
    cron = Cron.of(expression, zone)

    following = cron.next_after(instant)

    assert following is not None
    assert following > instant
    assert cron.next_after(following - timedelta.resolution) == following
    between = instant + (following - instant) * data.draw(st.floats(0, 0.999), label="between")
    assert cron.next_after(between) == following


def times(expression: str, zone: str, after: str, count: int) -> list[str]:
    """The next times as the wall clock of the zone shows them, with its offset."""
    cron, tz = Cron.of(expression, zone), ZoneInfo(zone)
    found: list[str] = []
    at = cron.next_after(datetime.fromisoformat(after).replace(tzinfo=tz))
    while at is not None and len(found) < count:
        found.append(at.astimezone(tz).strftime("%m-%d %H:%M:%S%z"))
        at = cron.next_after(at)
    return found


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        # a fixed time that is left out: the first moment after the gap
        (
            "30 2 * * *",
            "America/New_York",
            "2026-03-07T12:00",
            ["03-08 03:00:00-0400", "03-09 02:30:00-0400"],
        ),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["10-04 01:45:00+1030"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["10-04 02:30:00+1100"]),
        ("0 12 30 12 *", "Pacific/Apia", "2011-12-29T12:00", ["12-31 00:00:00+1400", "12-30 12:00:00+1400"]),
        # one that happens twice: the first time
        (
            "30 1 * * *",
            "America/New_York",
            "2026-10-31T12:00",
            ["11-01 01:30:00-0400", "11-02 01:30:00-0500"],
        ),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T12:00",
            ["04-05 01:45:00+1100", "04-06 01:45:00+1030"],
        ),
        # intervals go by what passes, not by what is shown
        (
            "*/30 * * * *",
            "America/New_York",
            "2026-11-01T01:00",
            ["11-01 01:30:00-0400", "11-01 01:00:00-0500", "11-01 01:30:00-0500", "11-01 02:00:00-0500"],
        ),
        ("*/30 * * * *", "America/New_York", "2026-03-08T01:30", ["03-08 03:00:00-0400"]),
        ("0 */2 * * *", "America/New_York", "2026-03-08T00:30", ["03-08 04:00:00-0400"]),
        ("@hourly", "Australia/Lord_Howe", "2026-04-05T01:10", ["04-05 02:00:00+1030"]),
    ],
)
def test_what_the_rule_says_of_clock_changes(
    expression: str, zone: str, after: str, expected: list[str]
) -> None:
    assert times(expression, zone, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0 6-6/2 * * *", "0 6 * * *"),
        ("7-7/5,9 0 * * *", "7,9 0 * * *"),
        ("0 0 * * mon-mon/2", "0 0 * * mon"),
        ("0 16-6/1 * * *", None),
    ],
)
def test_a_range_of_one_with_a_step_is_that_one(written: str, meant: str | None) -> None:
    """cronsim goes on to the end: 6, 8, 10 and so on."""
    if meant is None:
        with pytest.raises(InvalidOptionError):
            Cron.of(written, "UTC")
    else:
        assert times(written, "UTC", "2026-01-01T00:00", 9) == times(meant, "UTC", "2026-01-01T00:00", 9)


def test_the_rule_holds_where_cronsim_has_another() -> None:
    paris = ZoneInfo("Europe/Paris")

    # With seconds, cronsim forgets a time that is left out, and runs one that happens twice two times.
    theirs = next(CronSim("0 30 2 * * *", datetime(2026, 3, 28, 12, tzinfo=paris)))
    assert theirs == datetime(2026, 3, 30, 2, 30, tzinfo=paris)
    assert times("0 30 2 * * *", "Europe/Paris", "2026-03-28T12:00", 2) == [
        "03-29 03:00:00+0200",
        "03-30 02:30:00+0200",
    ]
    both = list(islice(CronSim("0 30 2 * * *", datetime(2026, 10, 24, 12, tzinfo=paris)), 2))
    assert [one.day for one in both] == [25, 25]
    assert times("0 30 2 * * *", "Europe/Paris", "2026-10-24T12:00", 2) == [
        "10-25 02:30:00+0200",
        "10-26 02:30:00+0100",
    ]

    # Asked within the second of two equal hours, it goes back to the first.
    second = datetime(2026, 10, 25, 2, 15, tzinfo=paris, fold=1)
    assert next(CronSim("30 2 * * *", second)).astimezone(UTC) < second.astimezone(UTC)
    following = Cron.of("30 2 * * *", "Europe/Paris").next_after(second)
    assert following == datetime(2026, 10, 26, 2, 30, tzinfo=paris)

    # Where midnight is left out, it has an interval run at a midnight that never was.
    cairo = ZoneInfo("Africa/Cairo")
    assert next(CronSim("0 */6 24 4 *", datetime(2026, 4, 23, 12, tzinfo=cairo))).hour == 0
    assert times("0 */6 24 4 *", "Africa/Cairo", "2026-04-23T12:00", 1) == ["04-24 06:00:00+0300"]


def test_six_fields_have_the_seconds_first() -> None:
    assert times("*/20 0 9 * * *", "UTC", "2026-01-01T08:00:00.5", 4) == [
        *("01-01 09:00:00+0000", "01-01 09:00:20+0000", "01-01 09:00:40+0000", "01-02 09:00:00+0000"),
    ]


@pytest.mark.parametrize(("alias", "expression"), ALIASES.items())
def test_an_alias_is_its_expression(alias: str, expression: str) -> None:
    assert Cron.of(f" {alias.upper()} ", "UTC").expression == expression


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "Wrong number of fields"),
        ("* * * *", "Wrong number of fields"),
        ("* * * * * * *", "Wrong number of fields"),
        ("60 * * * *", "Bad minute"),
        ("* 24 * * *", "Bad hour"),
        ("* * 0 * *", "Bad day-of-month"),
        ("* * * 13 *", "Bad month"),
        ("* * * * 8", "Bad day-of-week"),
        ("* * * * funday", "Bad day-of-week"),
        ("*/0 * * * *", "Bad minute"),
        ("22-2 * * * *", "Bad minute"),
        ("0 0 30 2 *", "Bad day-of-month"),
        ("0 0 31 4,6 *", "Bad day-of-month"),
        ("0 0 29 2 */7,mon#5x", "Bad day-of-week"),
        ("0 0 L/2 * *", "no step after L"),
        ("0 0 15W * *", "Bad day-of-month"),
        ("@reboot", "Wrong number of fields"),
        ("9" * 5_000 + " * * * *", "write five fields"),
        ("* " * 200, "write five fields"),
        (None, "write five fields"),
        (5, "write five fields"),
        ("\x00 * * * *", "Bad minute"),
        ("٣ * * * *", "Bad minute"),
    ],
)
def test_a_bad_expression_is_refused_with_what_is_allowed(expression: object, said: str) -> None:
    with pytest.raises(InvalidOptionError, match=said) as caught:
        Cron.of(expression, "UTC")

    assert caught.value.option == "expression"


def test_an_expression_that_matches_no_date_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="matches no date"):
        Cron.of("0 0 */31 2 fri#5", "UTC")


@pytest.mark.parametrize(
    "tz", ["Mars/Olympus", "", "../../etc/passwd", "America", "CEST+1", None, 5, UTC, "\x00"]
)
def test_a_bad_zone_is_refused_with_what_is_allowed(tz: object) -> None:
    with pytest.raises(InvalidOptionError, match="IANA time zone") as caught:
        Cron.of("@daily", tz)

    assert caught.value.option == "tz"


# ------------------------------------------------------------------ intervals

START = datetime(2026, 1, 1, tzinfo=UTC)


@given(micros=st.integers(1, 10**13), after=st.integers(-(10**14), 10**15), count=st.integers(1, 50))
def test_every_is_anchored_and_never_drifts(micros: int, after: int, count: int) -> None:
    interval, at = timedelta(microseconds=micros), START + timedelta(microseconds=after)
    every = Every(interval, START)

    following = every.next_after(at)

    assert following > at
    assert following >= START + interval
    assert (following - START) % interval == timedelta(0)
    assert following - interval <= max(at, START)
    until = following + interval * count
    assert every.latest(following, until, 1_000) == [following + n * interval for n in range(count + 1)]
    assert every.latest(following, until, 2) == [until - interval, until][-2:]


def test_the_latest_of_very_many_are_found_at_once() -> None:
    every = Every(timedelta(microseconds=1), START)
    cron = Cron.of("* * * * * *", "Europe/Paris")
    until = START + timedelta(days=3_000)

    assert every.latest(START + timedelta(microseconds=1), until, 1) == [until]
    assert cron.latest(START, until, 3) == [until - timedelta(seconds=n) for n in (2, 1, 0)]
    yearly = Cron.of("0 0 9 1 1 *", "UTC")
    assert len(yearly.latest(datetime(2026, 1, 1, 9, tzinfo=UTC), until, 100)) == 9


@settings(max_examples=60, deadline=None)
@given(
    expression=st.sampled_from(["*/10 * * * * *", "*/7 9 * * *", "0 9 * * *", "30 1 * * *"]),
    days=st.floats(0, 400),
    count=st.integers(1, 5),
)
def test_the_latest_times_are_the_last_of_all(expression: str, days: float, count: int) -> None:
    cron = Cron.of(expression, "America/New_York")
    first = cron.next_after(datetime(2025, 11, 1, tzinfo=UTC))
    assert first is not None
    until = first + timedelta(days=days / 20 if expression.count(" ") == 4 else days / 1_000)
    listed: list[datetime] = []
    at: datetime | None = first
    while at is not None and at <= until:
        listed.append(at)
        at = cron.next_after(at)

    assert cron.latest(first, until, count) == listed[-count:]
