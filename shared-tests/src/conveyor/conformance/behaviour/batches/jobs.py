"""What the tests of batches work with."""

from __future__ import annotations

from typing import Any

from conveyor.core import (
    Job,
    JobState,
    NewJob,
    Queue,
)

Jobs = list[Job[Any]]


async def five(queue: Queue[Any], **options: Any) -> Jobs:
    """Add five jobs."""
    return await queue.add_bulk([NewJob("work", n, **options) for n in range(5)])


async def states_of(jobs: Jobs) -> list[JobState]:
    """Where they are now."""
    return [(await job.refresh()).state for job in jobs]
