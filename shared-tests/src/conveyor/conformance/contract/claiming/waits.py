"""Claiming: until when a claimer may sleep."""

from __future__ import annotations

from datetime import timedelta

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import LEASE, add, at, claim, claim_jobs, ids, job, span
from conveyor.core.store import Pause, Store


@area("claiming")
class Waits:
    """No longer than until there may be more."""

    async def test_a_claim_waits_for_nothing_with_nothing_in_sight(self, store: Store) -> None:
        await add(store, job("a"))
        await claim_jobs(store)

        assert (await store.claim(claim(), now=at(1))).wait is None

    async def test_a_claim_by_ids_waits_for_nothing(self, store: Store) -> None:
        await add(store, job("a"), job("b", delay=span(60)))
        await store.pause("q", Pause(name="x"), for_=span(30), now=at(0))

        # Whatever passes with time (due times, pauses, limits) it does not look at.
        for names in ("a", ""):
            assert (await store.take("q", names, token="t", lease=LEASE, now=at(1))).wait is None

    async def test_wait_is_none_when_as_many_as_asked_were_returned(self, store: Store) -> None:
        await add(store, job("a"), job("b", delay=span(60)))

        assert (await store.claim(claim(1), now=at(1))).wait is None

    async def test_wait_is_no_longer_than_it_takes_until_the_next_is_due(self, store: Store) -> None:
        await add(store, job("a", delay=span(60)), job("b", delay=span(20)), job("c"))

        claimed = await store.claim(claim(5), now=at(5))

        assert ids(claimed) == ["c"]
        assert claimed.wait is not None
        assert timedelta(0) <= claimed.wait <= span(15)

    async def test_wait_is_no_longer_than_zero_for_a_job_that_is_overdue(self, store: Store) -> None:
        await add(store, job("a", delay=span(5)))

        assert (await store.claim(claim(), now=at(9))).wait == timedelta(0)
