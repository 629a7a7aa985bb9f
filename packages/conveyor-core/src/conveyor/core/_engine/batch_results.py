"""What became of each job of a batch, from what its handler returned for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conveyor.core._engine.outcome_policy import Raised, Returned
from conveyor.core._engine.run import Stop
from conveyor.core.errors import BatchResultError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conveyor.core._engine.run import Run


@dataclass(frozen=True, slots=True)
class Misfit:
    """What a handler returned in another process for its batch, and is no result of it."""

    described: str


def each(runs: Sequence[Run], value: Any) -> list[Returned | Raised]:
    """One ending for each job, by position; None stands for None from every job.

    Anything else, or the wrong number of results, is a failure of them all.
    """
    if _broken_off(runs) and not _fits(runs, value):
        # It saw that the worker is closing, and stopped: what it returned then says nothing of its jobs.
        for run in runs:
            run.noticed = True
        return [Returned(None)] * len(runs)
    if value is None:
        return [Returned(None)] * len(runs)
    if not _fits(runs, value):
        returned = value.described if isinstance(value, Misfit) else described(value)
        error = BatchResultError(
            "the handler of a batch returns None, or a list with one result for each job, by position; "
            f"for {len(runs)} jobs it returned {returned}"
        )
        return [Raised(error)] * len(runs)
    return [
        one if isinstance(one, Raised) else Raised(one) if isinstance(one, BaseException) else Returned(one)
        for one in value
    ]


def described(value: object) -> str:
    """What a batch's handler returned, for who reads that it was wrong."""
    return f"{len(value)} results" if isinstance(value, (list, tuple)) else type(value).__name__


def _broken_off(runs: Sequence[Run]) -> bool:
    return any(run.stop is Stop.SHUTDOWN and run.noticed for run in runs)


def _fits(runs: Sequence[Run], value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == len(runs)
