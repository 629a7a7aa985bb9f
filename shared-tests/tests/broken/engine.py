"""Engines with one deliberate bug each: a part of core with one thing wrong, in its place for one test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from conveyor.core.hold import Hold
from conveyor.core.job import Job


@dataclass(frozen=True)
class EngineBug:
    """What puts a broken part into the engine, the area that catches it, and a test there that fails."""

    put_in: Callable[[pytest.MonkeyPatch], None]
    area: str
    test: str

    def __str__(self) -> str:
        return f"{self.put_in.__name__}-{self.area}"


ENGINE_BUGS: list[EngineBug] = []
PutIn = Callable[[pytest.MonkeyPatch], None]


def caught_by(area: str, test: str) -> Callable[[PutIn], PutIn]:
    """Say which test of which area catches a bug of the engine."""

    def decorate(put_in: PutIn) -> PutIn:
        ENGINE_BUGS.append(EngineBug(put_in, area, test))
        return put_in

    return decorate


@caught_by("queue behaviour", "test_what_an_ended_run_left_behind_cannot_write")
@caught_by("queue behaviour", "test_a_thread_that_was_left_behind_cannot_write")
def ended_runs_write_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job of a handler that has ended is an ordinary one, and may be written to."""

    def own_run(job: Job[object]) -> Hold | None:
        return job.hold if job.hold is not None and not job.hold.over else None

    monkeypatch.setattr(Job, "_own_run", own_run)
