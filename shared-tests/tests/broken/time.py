"""Bugs about what time does."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from broken.store import Broken, Now, caught_by
from conveyor.core.store import (
    Advanced,
)


@caught_by("advancing", "test_a_job_is_due_at_its_run_at_and_not_before")
class DueEarly(Broken):
    """Delayed jobs are due a second early."""

    async def advance(self, queues: Collection[str], *, limit: int = 1000, now: Now = None) -> Advanced:
        return await super().advance(queues, limit=limit, now=now and now + timedelta(seconds=1))


@caught_by("advancing", "test_a_stalled_job_loses_its_lease_and_counts_it_apart_from_attempts")
class StallsCountAsNothing(Broken):
    """A lost lease is not counted: a job that kills its workers runs for ever."""

    async def advance(self, queues: Collection[str], *, limit: int = 1000, now: Now = None) -> Advanced:
        advanced = await super().advance(queues, limit=limit, now=now)
        for key in advanced.stalled:
            self.row(key).stalled = 0
        return advanced
