"""What a handler may raise to say what becomes of its job.

raise Snooze("10 minutes")         # run again later; no attempt is used
raise Retry("5s")                  # this run failed; run again after this delay, if attempts are left
raise Unrecoverable("no such user")  # fail now, whatever attempts are left
raise RateLimited("1 minute")      # pause this job's group (or queue) for all workers; no attempt is used
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conveyor.core.durations import Duration, duration

if TYPE_CHECKING:
    from datetime import timedelta


class Signal(Exception):  # noqa: N818 - a signal is no error
    """The base of what a handler raises on purpose."""


class Snooze(Signal):
    """Run the job again after `delay`, as if it had not run; no attempt is used."""

    def __init__(self, delay: Duration) -> None:
        self.delay: timedelta = duration(delay, "delay")
        super().__init__(f"snoozed for {delay}")


class Retry(Signal):
    """This run failed; if attempts are left, run again after `delay` instead of the job's backoff."""

    def __init__(self, delay: Duration, reason: str = "the handler asked for a retry") -> None:
        super().__init__(reason)
        self.delay: timedelta = duration(delay, "delay")


class Unrecoverable(Signal):
    """Fail the job now: running it again would not help."""

    def __init__(self, reason: str = "unrecoverable") -> None:
        super().__init__(reason)


class RateLimited(Signal):
    """Pause the job's group (its queue, if it has none) for all workers, for `delay`; no attempt is used."""

    def __init__(self, delay: Duration) -> None:
        self.delay: timedelta = duration(delay, "delay", zero=False)
        super().__init__(f"rate limited for {delay}")
