"""Engines with one deliberate bug each: a part of core with one thing wrong, in its place for one test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from conveyor.core._engine.handlers import Payloads
from conveyor.core.codec import Payload
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


@caught_by("queue behaviour", "test_every_handler_of_a_mapping_gets_the_type_it_names")
def handlers_of_two_types_are_handlers_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping whose handlers do not all name one type is given plain JSON."""

    def of(payloads: Payloads, _: str) -> Payload[Any]:
        return payloads.usual

    monkeypatch.setattr(Payloads, "of", of)
