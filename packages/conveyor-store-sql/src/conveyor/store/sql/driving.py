"""Running a coroutine that has nothing to wait for."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_now(step: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, without an event loop, and return its result.

    Raises RuntimeError if it waits for anything: what it awaits must be done when it returns.
    """
    try:
        step.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    step.close()
    raise RuntimeError("a step of a store that does not wait has waited")
