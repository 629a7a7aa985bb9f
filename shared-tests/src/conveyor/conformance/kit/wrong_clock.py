"""A role of `runner.py`, played by a process whose clock is wrong.

    python -m conveyor.conformance.kit.wrong_clock SECONDS URL ROLE ARGUMENT

Everything that this process imports later, the store and its driver included, meets the wrong clock.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import time
from typing import Any


class _AnyDatetime(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _RIGHT)


_RIGHT = dt.datetime


def set_clock_wrong(seconds: float) -> None:
    """Let `datetime.now`, `time.time` and the like be off by so much in this process."""
    off = dt.timedelta(seconds=seconds)
    right_time = time.time

    class Wrong(_RIGHT, metaclass=_AnyDatetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return _RIGHT.now(tz) + off

        @classmethod
        def utcnow(cls) -> Any:
            return _RIGHT.now(dt.UTC).replace(tzinfo=None) + off

    dt.datetime = Wrong  # type: ignore[misc]
    time.time = lambda: right_time() + seconds
    time.time_ns = lambda: int(time.time() * 1e9)


if __name__ == "__main__":
    set_clock_wrong(float(sys.argv[1]))
    from conveyor.conformance.kit import runner

    asyncio.run(runner.main(*sys.argv[2:]))
