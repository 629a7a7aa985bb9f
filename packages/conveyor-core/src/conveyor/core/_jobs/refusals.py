"""What is written for many at once, when the store refuses one of them for good: the others are written.

A store's errors are about the store or about what it was given, and their type says which. About the store
are those that are `retryable` (away, busy, full, read-only), those whose outcome is unknown, and
StoreClosedError, StoreForkedError and SchemaTooNewError: any other call would fail as well, so nothing is
given up, and the same is tried again. Any other StoreError is about what the call was given, and stays: a
text that the database's encoding does not have, say. So may be what is no StoreError: a bug of the store.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from conveyor.core.errors import SchemaTooNewError, StoreClosedError, StoreError, StoreForkedError
from conveyor.core.store import JobState, Release, Settled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from conveyor.core.store import Lease, Outcome, Store

T = TypeVar("T")
_log: Final = logging.getLogger("conveyor.worker")
#: How much is kept of why something was refused.
_LONGEST: Final = 500


def concerns_store(error: Exception) -> bool:
    """Whether an error is about the store, and not about what the call was given."""
    return isinstance(error, StoreError) and (
        error.retryable
        or error.outcome_unknown
        or isinstance(error, (StoreClosedError, StoreForkedError, SchemaTooNewError))
    )


def reason(error: Exception) -> str:
    """Why something was refused, in characters that every store can keep."""
    return f"{type(error).__name__}: {error}".encode("ascii", "backslashreplace").decode()[:_LONGEST]


async def write_in_parts(
    items: Sequence[T],
    write: Callable[[Sequence[T]], Awaitable[object]],
    refused: Callable[[T, Exception], Awaitable[None]],
    *,
    again: bool = False,
) -> None:
    """Write items together, in order; what is refused for what it contains is written by halves.

    Each item that is refused twice, `again` by itself, is given to `refused`. Raises what concerns the store:
    then some of the parts may have been written, and what comes after them was not.
    """
    try:
        await write(items)
    except Exception as error:
        if concerns_store(error):
            raise
        if again and len(items) == 1:
            await refused(items[0], error)
            return
    else:
        return
    middle = len(items) // 2
    for part in (items[:middle], items[middle:]):
        if part:
            await write_in_parts(part, write, refused, again=True)


async def settle_in_parts(
    store: Store, outcomes: Sequence[Outcome]
) -> tuple[Settled, Mapping[Lease, Exception]]:
    """Settle outcomes of jobs that do not run, and say which were refused, and how: their jobs go back.

    What was neither applied nor refused came too late, and is to be decided again.
    """
    parts: list[Settled] = []
    refused: dict[Lease, Exception] = {}

    async def settle(part: Sequence[Outcome]) -> None:
        parts.append(await store.settle(part))

    async def give_back(outcome: Outcome, error: Exception) -> None:
        refused[outcome.lease] = error
        _log.error("the store refuses the outcome of job %s, which goes back: %s", outcome.lease.id, error)
        back = replace(
            outcome,
            state=JobState.WAITING,
            attempt=outcome.attempt - 1,
            report=None,
            delay=None,
            run_at=None,
            release=Release.ONE,
            retention=None,
            spawn=(),
        )
        await write_in_parts([back], store.settle, _let_lapse)

    await write_in_parts(outcomes, settle, give_back)
    settled = Settled(
        applied=frozenset(lease for part in parts for lease in part.applied),
        released=[key for part in parts for key in part.released],
        spawned=[found for part in parts for found in part.spawned],
        removed=[key for part in parts for key in part.removed],
    )
    return settled, refused


async def _let_lapse(outcome: Outcome, error: Exception) -> None:
    _log.error("job %s cannot even go back, and is left to its lease's end: %s", outcome.lease.id, error)
