"""One value of each kind, to give to a parameter that takes few of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from conveyor.core.errors import InvalidOptionError
from conveyor.core.store import JobState


class Strange:
    """Nothing that anybody asks for, and that cannot even be shown."""

    def __repr__(self) -> str:
        """Fail."""
        raise RuntimeError


class Plain:
    """A class that nobody knows."""


def function(*_: object) -> None:
    """A function that takes anything."""


def generator(_: object) -> Iterator[None]:
    """A function that only makes a generator."""
    yield


_AWARE: Final = datetime(2026, 5, 1, tzinfo=UTC)
ANYTHING: Final[Mapping[str, Any]] = {
    "None": None,
    "True": True,
    "0": 0,
    "-1": -1,
    "5": 5,
    "1.5": 1.5,
    "nan": math.nan,
    "inf": math.inf,
    "2**31": 2**31,
    "10**400": 10**400,
    "1j": 1j,
    "empty text": "",
    "text": "text",
    "duration": "5 s",
    "NUL": "a\x00",
    "surrogate": "\ud800",
    "control": "a\nb",
    "long text": "x" * 256,
    "bytes": b"a",
    "empty list": [],
    "list": [1],
    "nested list": [[]],
    "tuple": ((1, 2),),
    "set": {5},
    "empty dict": {},
    "dict": {"text": 1},
    "dict of numbers": {5: 1, "x": 2},
    "object": Strange(),
    "class": Plain,
    "function": function,
    "generator": generator,
    "iterator": iter(()),
    "naive": _AWARE.replace(tzinfo=None),
    "aware": _AWARE,
    "timedelta": timedelta(seconds=1),
    "negative": timedelta(seconds=-1),
    "state": JobState.ACTIVE,
    "exception": ValueError("text"),
}


def wrongly_taken(
    make: Callable[..., object], given: Mapping[str, Any], takes: Mapping[str, Collection[str]]
) -> list[str]:
    """What `make` does with what its parameters do not take, if not refuse it by the parameter's name.

    `takes` says for each parameter what of `ANYTHING` it takes, `given` what the others are to be.
    """
    wrong = []
    for parameter, taken in takes.items():
        for what in ANYTHING.keys() - set(taken):
            try:
                made: object = make(**{**given, parameter: ANYTHING[what]})
            except InvalidOptionError as error:
                if error.option == parameter:
                    continue
                made = f"refused {error.option}"
            except Exception as error:  # noqa: BLE001 - it is reported
                made = repr(error)
            wrong.append(f"{parameter}={what}: {made}")
    return sorted(wrong)
