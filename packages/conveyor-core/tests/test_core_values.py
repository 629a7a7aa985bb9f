"""Durations, JSON, options, backoff, reports, ids: values that core makes, checks and stores."""

from __future__ import annotations

import json
import math
import re
import string
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conveyor.core import Backoff, InvalidOptionError, JobOptions, Keep, PayloadError
from conveyor.core._jobs import payload
from conveyor.core._jobs.ids import new_job_id, new_token
from conveyor.core._jobs.report import LONGEST_LOG, LONGEST_MESSAGE, LONGEST_TRACEBACK, Failure, Report
from conveyor.core.durations import LONGEST, duration, instant
from conveyor.core.job_options import parse

# ----------------------------------------------------------------- durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5),
        ("10 minutes", 600),
        ("1.5h", 5_400),
        ("1h30m", 5_400),
        ("1h 30m 15s", 5_415),
        ("1 day, 2 hours", 93_600),
        ("2 weeks", 1_209_600),
        ("250ms", 0.25),
        ("1 millisecond", 0.001),
        ("1 Min", 60),
        ("  3 HRS ", 10_800),
        ("1 sec", 1),
        ("0s", 0),
    ],
)
def test_text_says_how_long(text: str, seconds: float) -> None:
    assert duration(text, "delay") == timedelta(seconds=seconds)


@given(st.timedeltas(timedelta(0), LONGEST))
def test_every_timedelta_up_to_a_hundred_years_is_itself(value: timedelta) -> None:
    assert duration(value, "delay") == value


@given(st.integers(0, 10**9) | st.floats(0, 10**9))
def test_a_number_is_seconds(value: float) -> None:
    assert abs(duration(value, "delay").total_seconds() - value) <= 1e-6


@given(st.text() | st.text(string.digits + " smhdw.,-+e"))
def test_any_other_text_is_refused_and_never_misread(text: str) -> None:
    try:
        found = duration(text, "delay")
    except InvalidOptionError:
        return

    assert timedelta(0) <= found <= LONGEST
    assert re.search(r"\d\s*[a-z]", text.lower())


@given(st.floats() | st.integers())
def test_a_number_is_taken_if_it_is_a_time_to_come(value: float) -> None:
    try:
        found = duration(value, "delay")
    except InvalidOptionError:
        assert not 0 <= value <= LONGEST.total_seconds()
        return

    assert timedelta(0) <= found <= LONGEST


@given(st.datetimes(datetime(1970, 1, 2), datetime(2199, 12, 30), timezones=st.timezones()))  # noqa: DTZ001
def test_an_aware_instant_is_the_same_in_utc(value: datetime) -> None:
    found = instant(value, "run_at")

    assert found == value.astimezone(UTC)
    assert found.tzinfo is UTC


def test_an_instant_keeps_its_moment_whatever_its_zone() -> None:
    paris = datetime(2026, 7, 1, 9, tzinfo=ZoneInfo("Europe/Paris"))

    assert instant(paris, "run_at") == datetime(2026, 7, 1, 7, tzinfo=UTC)
    assert instant(paris.astimezone(timezone(timedelta(hours=-5))), "run_at") == instant(paris, "run_at")


# --------------------------------------------------------------------- codec

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(JSON)
def test_json_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    text = payload.encode(value)

    assert payload.decode(text) == value
    assert repr(payload.decode(text)) == repr(value)
    assert json.loads(text) == value
    assert "\x00" not in text


@given(st.text(st.characters(exclude_categories=())))
def test_text_is_stored_as_it_is_or_refused(text: str) -> None:
    try:
        stored = payload.encode({"key": text})
    except PayloadError:
        assert "\x00" in text or any("\ud800" <= letter <= "\udfff" for letter in text)
        return

    assert payload.decode(stored) == {"key": text}


def test_tuples_become_lists() -> None:
    assert payload.decode(payload.encode({"a": (1, (2, 3))})) == {"a": [1, [2, 3]]}


@given(JSON)
def test_the_order_of_keys_does_not_change_the_canonical_text(value: Any) -> None:
    def turned(value: Any) -> Any:
        match value:
            case dict():
                return {key: turned(value[key]) for key in reversed(value)}
            case list():
                return [turned(item) for item in value]
            case _:
                return value

    assert payload.canonical(payload.encode(value)) == payload.canonical(payload.encode(turned(value)))


@given(st.lists(TEXT, min_size=1), st.lists(TEXT, min_size=1))
def test_fingerprints_are_equal_only_for_equal_parts(one: list[str], other: list[str]) -> None:
    assert (payload.fingerprint(*one) == payload.fingerprint(*other)) == (one == other)


# ------------------------------------------------------------------- options

DURATIONS = st.timedeltas(timedelta(0), timedelta(days=3_650))
BACKOFFS = st.builds(
    Backoff,
    st.sampled_from(["fixed", "linear", "exponential", "mine"]) | st.lists(DURATIONS, min_size=1, max_size=5),
    DURATIONS,
    st.none() | DURATIONS,
    st.floats(0, 1),
)
REMOVALS = (
    st.booleans()
    | DURATIONS
    | st.builds(Keep, DURATIONS, st.none() | st.integers(0, 10**6))
    | st.builds(Keep, st.none(), st.integers(0, 10**6))
)


@given(
    attempts=st.integers(1, 2**31 - 1),
    backoff=st.none() | BACKOFFS,
    timeout=st.none() | st.timedeltas(timedelta(microseconds=1), timedelta(days=3_650)),
    remove_on_complete=REMOVALS,
    remove_on_fail=REMOVALS,
    keep=st.none() | st.just("forever") | REMOVALS.filter(lambda given: not isinstance(given, bool)),
)
def test_options_come_back_as_they_were_given(**options: Any) -> None:
    parsed = parse(options).settings

    assert JobOptions.decode(parsed.encode()) == parsed
    assert parsed.backoff == options["backoff"]


def test_default_options_take_no_room() -> None:
    assert JobOptions().encode() == "{}"


# ------------------------------------------------------------------- backoff


@given(BACKOFFS, st.integers(1, 2**31 - 1), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_never_negative_nor_longer_than_its_cap(
    backoff: Backoff, failures: int, random: float
) -> None:
    wait = backoff.wait(failures, random, {"mine": lambda n: min(n, 1_000)})

    assert timedelta(0) <= wait <= min(backoff.max_delay or LONGEST, LONGEST)


@given(st.sampled_from(["linear", "exponential"]), st.integers(1, 5_000))
def test_growing_backoffs_never_shrink(kind: str, failures: int) -> None:
    backoff = Backoff(kind, delay=LONGEST)

    assert backoff.wait(failures, 0, {}) <= backoff.wait(failures + 1, 0, {})


@given(st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_jitter_is_the_random_fraction(jitter: float, random: float) -> None:
    wait = Backoff("fixed", delay=100, jitter=jitter).wait(1, random, {})

    assert math.isclose(wait.total_seconds(), 100 * (1 - jitter * random), abs_tol=1e-5)


def test_a_backoff_says_which_strategy_is_missing() -> None:
    with pytest.raises(LookupError, match="backoff_strategies"):
        Backoff("mine").wait(1, 0, {})


def test_a_backoff_is_a_value() -> None:
    assert Backoff("fixed", "1m") == Backoff("fixed", 60)
    assert Backoff.of("exponential") == Backoff("exponential")
    assert (
        Backoff.of("90s") == Backoff("fixed", delay=90) == Backoff.of(90) == Backoff.of(timedelta(seconds=90))
    )
    assert Backoff.of([1, "2s"]) == Backoff([1, 2])
    assert Backoff.of(None) is None
    assert len({Backoff("fixed"), Backoff("fixed")}) == 1


# -------------------------------------------------------------------- report


def test_a_report_comes_back_as_it_was() -> None:
    at = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)
    report = Report(
        result={"n": [1, None]},
        error=Failure(type="E", message="m", traceback="t"),
        progress=12.5,
        failures=2,
        discarded=True,
        stalls=1,
    )
    report.log("line")
    report.ended("failed", worker="anna", started_at=at, ended_at=at, error=report.error)
    report.ended("stalled")

    assert Report.decode(report.encode()) == report
    assert Report.decode(report.encode(final=True), finished=True) == report


def test_what_a_finished_report_says_of_an_earlier_life_is_left_out() -> None:
    report = Report(result=1, error=Failure(type="E", message="m"), progress=5, failures=2, discarded=True)
    report.log("line")
    report.ended("failed")

    again = Report.decode(report.encode(final=True))

    assert again == Report(logs=["line"], runs=1, history=report.history)


@pytest.mark.parametrize("result", [0, False, "", [], {}])
def test_a_result_that_is_false_is_a_result(result: object) -> None:
    assert Report.decode(Report(result=result).encode(final=True), finished=True).result == result


@pytest.mark.parametrize("text", ["", "[]", "1", "null", '"x"', "{", '{"history":[{}]}', '{"error":{"x":1}}'])
def test_a_report_that_cannot_be_read_says_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"^\$"):
        Report.decode(text)


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_can_be_logged_or_raised(text: str) -> None:
    report = Report(error=Failure.of(RuntimeError(text)))
    report.log(text)

    assert Report.decode(report.encode()) == report
    assert "\x00" not in report.logs[0]


@settings(max_examples=10)
@given(st.integers(0, 200_000))
def test_what_is_kept_of_an_error_is_bounded(size: int) -> None:
    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise RuntimeError("x" * size)

    with pytest.raises(RuntimeError) as caught:
        deep(60)
    failure = Failure.of(caught.value)

    assert len(failure.message) == min(size, LONGEST_MESSAGE)
    assert len(failure.traceback) <= LONGEST_TRACEBACK
    assert failure.traceback.endswith("x\n" if size else "RuntimeError\n")


def test_a_log_line_is_bounded() -> None:
    report = Report()

    report.log("x" * 1_000_000)

    assert len(report.logs[0]) == LONGEST_LOG
    assert report.logs[0].endswith("…")


# ----------------------------------------------------------------------- ids


def test_ids_are_unique_and_sort_by_the_time_they_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for millisecond in (1_700_000_000_000, 1_700_000_000_001, 1_900_000_000_000):
        monkeypatch.setattr("time.time_ns", lambda now=millisecond: now * 1_000_000)
        made.append([new_job_id() for _ in range(100)])

    assert max(made[0]) < min(made[1]) <= max(made[1]) < min(made[2])
    assert len({job_id for batch in made for job_id in batch}) == 300
    assert {UUID(made[0][0]).version} == {7}
    assert UUID(made[0][0]).variant == "specified in RFC 4122"


def test_tokens_are_random() -> None:
    assert len({new_token() for _ in range(1_000)}) == 1_000
