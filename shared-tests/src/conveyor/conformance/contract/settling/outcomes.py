"""What the tests of settling work with: every outcome, and every way in which one comes too late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from conveyor.conformance.kit.make import (
    AT_ONCE,
    ENDINGS,
    WRONG,
    at,
    claim_jobs,
    completed,
    retried,
    settle,
    span,
    take_one,
)
from conveyor.core.store import (
    JobRecord,
    Outcome,
    Settled,
    Store,
)

NOTHING = Settled(applied=frozenset())
#: Every kind of outcome, made of the record of a held job.
OUTCOMES: dict[str, Callable[[JobRecord], Outcome]] = {
    **ENDINGS,
    "retried at once": retried,
    "retried later": lambda held: retried(held, delay=60),
    "snoozed": lambda held: Outcome.snoozed(held, WRONG, delay=span(60)),
    "given back": Outcome.given_back,
    "removed": lambda held: completed(held, retention=AT_ONCE),
}


async def stale_by_stall(store: Store) -> JobRecord:
    """A hold on job "a" that was taken back."""
    (stale,) = await claim_jobs(store)
    await store.advance({"q"}, now=at(30))
    return stale


async def stale_by_another_claim(store: Store) -> JobRecord:
    """A hold on job "a" that was taken back, and the job claimed again by the same worker."""
    stale = await stale_by_stall(store)
    await take_one(store, "a", now=at(31))
    return stale


async def stale_by_a_claim_that_ended(store: Store) -> JobRecord:
    """A hold on job "a" that was taken back, and the job completed by another claim."""
    stale = await stale_by_stall(store)
    await settle(store, Outcome.completed(await take_one(store, "a", now=at(31)), "1"), now=at(32))
    return stale


async def stale_by_cancelling(store: Store) -> JobRecord:
    """A hold on job "a" that was taken back, and the job cancelled."""
    stale = await stale_by_stall(store)
    await settle(store, Outcome.cancelled(await take_one(store, "a", now=at(31)), "1"), now=at(32))
    return stale


async def stale_by_a_forged_token(store: Store) -> JobRecord:
    """A hold on job "a" with a token that nobody was given."""
    (held,) = await claim_jobs(store)
    return replace(held, token="forged")


STALE = [
    stale_by_stall,
    stale_by_another_claim,
    stale_by_a_claim_that_ended,
    stale_by_cancelling,
    stale_by_a_forged_token,
]
