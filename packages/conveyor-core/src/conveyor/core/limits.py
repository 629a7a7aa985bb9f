"""Limits that a worker keeps to, together with all other workers of its queue."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from conveyor.core.durations import Duration, duration
from conveyor.core.errors import InvalidOptionError
from conveyor.core.job_options import whole
from conveyor.core.store import Rate


@dataclass(frozen=True, slots=True, init=False)
class RateLimit:
    """At most `max` starts in any window of length `per`, over all workers."""

    max: int
    per: timedelta

    def __init__(self, max: int, per: Duration) -> None:
        object.__setattr__(self, "max", whole(max, "max", least=1))
        object.__setattr__(self, "per", duration(per, "per", zero=False))

    def as_rate(self) -> Rate:
        """The same, as a store takes it."""
        return Rate(max=self.max, per=self.per)


@dataclass(frozen=True, slots=True, init=False)
class GroupLimit:
    """What holds for each group by itself: how many of its jobs run at once, and how often one may start."""

    concurrency: int | None
    limiter: RateLimit | None

    def __init__(self, concurrency: int | None = None, limiter: RateLimit | None = None) -> None:
        if concurrency is None and limiter is None:
            raise InvalidOptionError("group", None, "give a concurrency, a limiter, or both")
        if limiter is not None and not isinstance(limiter, RateLimit):
            raise InvalidOptionError("limiter", limiter, 'use RateLimit(10, per="1s")')
        object.__setattr__(
            self, "concurrency", None if concurrency is None else whole(concurrency, "concurrency", least=1)
        )
        object.__setattr__(self, "limiter", limiter)
