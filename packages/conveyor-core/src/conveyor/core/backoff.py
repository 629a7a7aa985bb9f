"""When a job that failed runs again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core.durations import LONGEST, Duration, duration
from conveyor.core.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_LONGEST_NAME: Final = 255
KINDS: Final = ("fixed", "exponential", "linear")


@dataclass(frozen=True, slots=True, init=False)
class Backoff:
    """How long to wait before a failed job runs again. All of it can be stored.

    `kind` is `"fixed"` (always `delay`), `"exponential"` (`delay`, twice that, four times that, …),
    `"linear"` (`delay`, twice that, three times that, …), a list of durations (the last one repeats), or
    the name of a strategy that the worker is given in `backoff_strategies`. `max_delay` caps it; `jitter`,
    from 0 to 1, is the fraction of the delay that is random.
    """

    kind: str
    delay: timedelta
    delays: tuple[timedelta, ...] = ()
    max_delay: timedelta | None = None
    jitter: float = 0.0

    def __init__(
        self,
        kind: str | Sequence[Duration],
        delay: Duration = "1s",
        max_delay: Duration | None = None,
        jitter: float = 0.0,
    ) -> None:
        delays: tuple[timedelta, ...] = ()
        if isinstance(kind, (list, tuple)):
            if not kind:
                raise InvalidOptionError("kind", kind, "the list of delays is empty")
            delays = tuple(duration(item, "kind") for item in kind)
            kind = "list"
        elif not isinstance(kind, str) or not 1 <= len(kind) <= _LONGEST_NAME or not kind.isprintable():
            raise InvalidOptionError(
                "kind", kind, f"use one of {', '.join(KINDS)}, a list of durations, or a strategy's name"
            )
        if isinstance(jitter, bool) or not isinstance(jitter, (int, float)) or not 0 <= jitter <= 1:
            raise InvalidOptionError("jitter", jitter, "it is a fraction of the delay, from 0.0 to 1.0")
        put = object.__setattr__
        put(self, "kind", kind)
        put(self, "delay", duration(delay, "delay"))
        put(self, "delays", delays)
        put(self, "max_delay", None if max_delay is None else duration(max_delay, "max_delay"))
        put(self, "jitter", float(jitter))

    @classmethod
    def of(cls, value: object) -> Backoff | None:
        """The backoff that the option `backoff=` means: also a kind alone, a duration (fixed) or a list."""
        try:
            match value:
                case None | Backoff():
                    return value
                case str() if value not in KINDS and value[:1].isdigit():
                    return cls("fixed", delay=value)
                case str() | list() | tuple():
                    return cls(value)
                case bool():
                    pass
                case timedelta() | int() | float():
                    return cls("fixed", delay=value)
        except InvalidOptionError as error:
            raise InvalidOptionError("backoff", error.value, error.allowed) from None
        raise InvalidOptionError(
            "backoff", value, 'use Backoff(...), "exponential", "linear", a duration, or a list of durations'
        )

    def wait(
        self, failures: int, random: float, strategies: Mapping[str, Callable[[int], Duration]]
    ) -> timedelta:
        """How long to wait after that many failures (1, 2, …), given a random number from 0 up to 1.

        Raises LookupError if the strategy is not among `strategies`, and whatever the strategy raises.
        """
        seconds = self._seconds(failures, strategies)
        cap = (self.max_delay or LONGEST).total_seconds()
        seconds = min(seconds, cap)
        return timedelta(seconds=max(0.0, seconds * (1 - self.jitter * random)))

    def _seconds(self, failures: int, strategies: Mapping[str, Callable[[int], Duration]]) -> float:
        base = self.delay.total_seconds()
        match self.kind:
            case "fixed":
                return base
            case "linear":
                return base * failures
            case "exponential":
                return math.ldexp(base, min(failures - 1, 100))
            case "list":
                return self.delays[min(failures, len(self.delays)) - 1].total_seconds()
            case name if name in strategies:
                return duration(strategies[name](failures), f"backoff_strategies[{name!r}]").total_seconds()
            case name:
                msg = f"the worker has no backoff strategy {name!r}; give it in backoff_strategies="
                raise LookupError(msg)
