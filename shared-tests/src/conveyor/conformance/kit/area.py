"""What the suite says about a test of its own: its area, and the features it needs."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conveyor.core.store import Feature

T = TypeVar("T", bound=type)
F = TypeVar("F", bound="Callable[..., Any]")

#: A store that hangs fails its test, instead of stopping the run.
TIMEOUT = 60.0


def area(name: str, *features: Feature) -> Callable[[T], T]:
    """Name the report's row for every test of a class, and the features that all of them need.

    It is an attribute of each function: a mark on a mixin would spread over the class that composes them.
    """

    def decorate(cls: T) -> T:
        for key, test in list(vars(cls).items()):
            if key.startswith("test_"):
                function = _bounded(test)
                function.conveyor_area = name
                function.conveyor_needs = frozenset(features) | getattr(test, "conveyor_needs", frozenset())
                setattr(cls, key, function)
        return cls

    return decorate


def needs(*features: Feature) -> Callable[[F], F]:
    """Say that a test is of these features, and not for a store that does without them."""

    def decorate(test: F) -> F:
        test.conveyor_needs = frozenset(features)  # type: ignore[attr-defined]
        return test

    return decorate


def patient(test: F) -> F:
    """Say that a test takes as long as its options make it take."""
    test.conveyor_patient = True  # type: ignore[attr-defined]
    return test


def many_calls(test: F) -> F:
    """Say that a test makes hundreds of calls one after the other: a slow store needs minutes for it."""
    test.conveyor_timeout_factor = 10  # type: ignore[attr-defined]
    return test


def measures_speed(test: F) -> F:
    """Say that a test is of speed: a store that fails it is slow, and keeps the contract."""
    test.conveyor_measures_speed = True  # type: ignore[attr-defined]
    return test


def _bounded(test: Any) -> Any:
    if not inspect.iscoroutinefunction(test):
        return test

    unbounded: bool = getattr(test, "conveyor_patient", False)
    times: int = getattr(test, "conveyor_timeout_factor", 1)

    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(None if unbounded else times * TIMEOUT):
            await test(*args, **kwargs)

    # explicit, so that the test runs whatever the `asyncio_mode` of the user's project is
    return pytest.mark.asyncio(bounded)
