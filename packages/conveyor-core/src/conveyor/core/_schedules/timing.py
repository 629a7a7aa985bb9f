"""When a schedule runs: every so often, or (`cron.py`) as a cron expression says. Instants in, instants out.

No clock is asked here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol


class Timing(Protocol):
    """The times of a schedule."""

    def next_after(self, instant: datetime) -> datetime | None:
        """The first time strictly after `instant`, in UTC; None if there is none."""
        ...

    def latest(self, first: datetime, until: datetime, count: int) -> list[datetime]:
        """The last `count` times from `first`, itself a time, up to and including `until`; in order."""
        ...


@dataclass(frozen=True, slots=True)
class Every:
    """Every `interval` since `anchor`, first one interval after it. Exact: nothing adds up to a drift."""

    interval: timedelta
    anchor: datetime

    def next_after(self, instant: datetime) -> datetime:
        """The first time strictly after `instant`."""
        return self.anchor + max(1, (instant - self.anchor) // self.interval + 1) * self.interval

    def latest(self, first: datetime, until: datetime, count: int) -> list[datetime]:
        """The last `count` times from `first` up to and including `until`."""
        there = (until - first) // self.interval + 1
        return [first + n * self.interval for n in range(max(0, there - count), there)]
