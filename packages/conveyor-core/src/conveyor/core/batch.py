"""Batch: a handler that takes several jobs at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from conveyor.core.durations import Duration, duration
from conveyor.core.errors import InvalidOptionError
from conveyor.core.job_options import whole

if TYPE_CHECKING:
    from datetime import timedelta

LARGEST: Final = 10_000


@dataclass(frozen=True, slots=True, init=False)
class Batch:
    """Up to `size` jobs for one call of the handler, which takes a list of them.

    `linger` is how long the first of them may wait until it is full; zero: not at all. `by` keeps
    jobs of different names (`"name"`) or groups (`"group"`) apart; without it they are mixed.
    """

    size: int
    linger: timedelta
    by: Literal["name", "group"] | None

    def __init__(self, size: int, linger: Duration = 0, by: Literal["name", "group"] | None = None) -> None:
        if by not in (None, "name", "group"):
            raise InvalidOptionError("by", by, 'use "name", "group", or None')
        object.__setattr__(self, "size", whole(size, "size", least=1, most=LARGEST))
        object.__setattr__(self, "linger", duration(linger, "linger"))
        object.__setattr__(self, "by", by)
