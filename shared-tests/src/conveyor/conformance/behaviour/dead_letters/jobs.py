"""What the tests of dead letters work with."""

from __future__ import annotations

from typing import Any

from conveyor.conformance.kit.bench import Bench
from conveyor.conformance.kit.make import take_one
from conveyor.core import (
    Job,
    Unrecoverable,
)


async def give_up(_: Job[Any]) -> None:
    """Fail for good."""
    raise Unrecoverable("no such account")


async def unstorable(_: Job[Any]) -> object:
    """Return what is no JSON."""
    return object()


async def dead_letters(bench: Bench) -> list[Job[Any]]:
    """The jobs of the dead-letter queue."""
    return await bench.another_queue("dead").get_jobs()


async def lost(bench: Bench, job: Job[Any]) -> None:
    """Let a job's worker die."""
    await take_one(bench.store, job.id, now=bench.clock.now())
    await bench.later("1m")
    await bench.store.advance({"q"})
