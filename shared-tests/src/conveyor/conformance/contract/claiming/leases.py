"""Claiming: what a claim leaves on a job, and which jobs can be claimed at all."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    DONE,
    LEASE,
    add,
    at,
    claim,
    claim_jobs,
    get,
    ids,
    in_state,
    job,
    jobs,
    new_token,
    retried,
    settle,
    span,
    take_one,
)
from conveyor.core.store import JobState, Lease, Outcome, Store

NOT_WAITING = [
    JobState.DELAYED,
    JobState.ACTIVE,
    JobState.COMPLETED,
    JobState.FAILED,
    JobState.CANCELLED,
]


@area("claiming")
class Leases:
    """A lease is one claimer's."""

    async def test_a_claimed_job_carries_the_lease(self, store: Store) -> None:
        await add(store, job("a"))
        before = await get(store, "a")
        request = claim(lease=span(12), worker="ada")

        (held,) = (await store.claim(request, now=at(5))).jobs

        assert held == replace(
            before,
            state=JobState.ACTIVE,
            token=request.token,
            lease_until=at(17),
            locked_by="ada",
            attempt=1,
            started=True,
            processed_at=at(5),
        )
        assert held.lease == Lease("q", "a", request.token)
        assert await get(store, "a") == held

    async def test_each_claim_raises_attempt_by_one_and_takes_a_token_of_its_own(self, store: Store) -> None:
        await add(store, job("a"))

        tokens: set[str | None] = set()
        for run in range(1, 4):
            (held,) = await claim_jobs(store, now=at(run))
            assert (held.attempt, held.processed_at) == (run, at(run))
            tokens.add(held.token)
            await settle(store, retried(held), now=at(run))

        assert len(tokens) == 3

    async def test_fewer_than_asked_or_none_is_not_an_error(self, store: Store) -> None:
        await add(store, job("a"))

        assert ids(await claim_jobs(store, 5)) == ["a"]
        assert ids(await claim_jobs(store, 5)) == []
        assert ids(await claim_jobs(store, 5, queue="never heard of")) == []

    async def test_no_more_than_asked_are_claimed(self, store: Store) -> None:
        await add(store, *jobs("abcde"))

        assert ids(await claim_jobs(store, 2)) == ["a", "b"]
        assert ids(await claim_jobs(store, 2)) == ["c", "d"]
        assert ids(await claim_jobs(store, 2)) == ["e"]

    async def test_a_job_is_claimed_once(self, store: Store) -> None:
        await add(store, job("a"))
        await claim_jobs(store)

        assert await claim_jobs(store, now=at(1)) == []

    async def test_queues_are_apart(self, store: Store) -> None:
        """A claim of one queue returns and changes no job of another."""
        await add(store, job("a", queue="one"), job("b", queue="two"))

        assert ids(await claim_jobs(store, 5, queue="two")) == ["b"]
        assert (await get(store, "a", queue="one")).state is JobState.WAITING

    async def test_claimed_has_the_stores_time(self, store: Store) -> None:
        assert (await store.claim(claim(), now=at(7))).now == at(7)

        real = (await store.claim(claim())).now

        assert abs(real - datetime.now(UTC)) < timedelta(minutes=10)
        assert real.utcoffset() == timedelta(0)

    @pytest.mark.parametrize("state", NOT_WAITING)
    async def test_only_waiting_jobs_are_claimed(self, store: Store, state: JobState) -> None:
        before = await in_state(store, state, job("a"))

        assert await claim_jobs(store, 5, now=at(1)) == []
        assert await get(store, "a") == before

    async def test_a_delayed_job_is_not_claimed_before_its_time(self, store: Store) -> None:
        await add(store, job("a", delay=span(10)))

        await store.advance({"q"}, now=at(9.999999))
        assert await claim_jobs(store, now=at(9.999999)) == []

        await store.advance({"q"}, now=at(10))
        assert ids(await claim_jobs(store, now=at(10))) == ["a"]

    async def test_what_time_has_done_shows_at_the_next_advance(self, store: Store) -> None:
        await add(store, job("held"), job("due", delay=span(10)))
        await take_one(store, "held")

        assert await claim_jobs(store, 5, now=at(100)) == []

    async def test_the_token_of_a_claim_is_what_the_caller_made_for_it(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        first, second = new_token(), new_token()

        one = await claim_jobs(store, 2, token=first)
        two = await claim_jobs(store, 2, token=second)

        assert [(held.id, held.token) for held in [*one, *two]] == [("a", first), ("b", first), ("c", second)]

    async def test_one_worker_may_hold_several_jobs_by_different_claims(self, store: Store) -> None:
        await add(store, job("a"), job("b"))
        (a,) = await claim_jobs(store, worker="same")
        (b,) = await claim_jobs(store, worker="same")

        renewed = await store.renew([], LEASE, now=at(1))
        await settle(store, Outcome.completed(a, DONE), now=at(1))

        assert renewed.held == frozenset()
        assert await get(store, "b") == b
