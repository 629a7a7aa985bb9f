"""What the tests of unique keys work with."""

from __future__ import annotations

from conveyor.core.store import (
    JobState,
    Where,
)

Q = Where(queue="q")
LIVE = [JobState.WAITING, JobState.DELAYED, JobState.ACTIVE]
TERMINAL = [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED]
