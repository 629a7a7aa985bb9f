"""What the tests of schedules work with."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from conveyor.conformance.kit.bench import Bench, nothing
from conveyor.conformance.kit.make import START
from conveyor.core import (
    Job,
)

HOUR = 3_600


async def made(bench: Bench) -> list[Job[Any]]:
    """The queue's jobs that schedules have made, as they were made."""
    return [job for job in await bench.queue.get_jobs(limit=1_000) if job.schedule_key is not None]


async def planned(bench: Bench) -> list[float]:
    """What they were planned for, in seconds since the test began."""
    return [(job.scheduled_for - START).total_seconds() for job in await made(bench) if job.scheduled_for]


async def hours(bench: Bench, *until: float, handler: Any = nothing) -> None:
    """Let a worker run at these hours after the test began, and never in between."""
    for hour in until:
        await bench.later(START + timedelta(hours=hour) - bench.clock.now())
        await bench.run(handler)
