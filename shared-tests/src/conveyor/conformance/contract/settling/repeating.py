"""Settling: an outcome that comes again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conveyor.conformance.contract.settling.outcomes import NOTHING, OUTCOMES
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    AT_ONCE,
    ENDINGS,
    add,
    at,
    claim_jobs,
    completed,
    everything,
    failed,
    get,
    job,
    retried,
    settle,
)
from conveyor.core.store import (
    Settled,
    Store,
)


@area("settling")
class Repeating:
    """It is applied once, and said to be applied each time."""

    @pytest.mark.parametrize("kind", OUTCOMES)
    async def test_a_repeated_outcome_is_reported_as_applied_and_changes_nothing(
        self, store: Store, kind: str
    ) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        outcome = OUTCOMES[kind](held)
        await settle(store, outcome, now=at(1))
        before = await everything(store)

        for moment in (2, 9 * 60):
            settled = await store.settle([replace(outcome, report="9")], now=at(moment))

            assert settled == Settled(applied=frozenset({held.lease}))
            assert await everything(store) == before

    async def test_a_repeated_outcome_does_not_touch_the_next_claim(self, store: Store) -> None:
        await add(store, job("a"))
        (first,) = await claim_jobs(store)
        await settle(store, retried(first), now=at(1))
        (second,) = await claim_jobs(store, now=at(2))

        settled = await store.settle([retried(first)], now=at(3))

        assert settled == Settled(applied=frozenset({first.lease}))
        assert await get(store, "a") == second

    async def test_a_repeat_is_recognised_beside_new_outcomes(self, store: Store) -> None:
        await add(store, job("a"), job("b"))
        a, b = await claim_jobs(store, 2)
        await settle(store, completed(a), now=at(1))

        settled = await store.settle([completed(a), completed(b)], now=at(2))

        assert settled.applied == {a.lease, b.lease}
        assert (await get(store, "a")).finished_at == at(1)
        assert (await get(store, "b")).finished_at == at(2)

    @pytest.mark.parametrize(("first", "second"), [("completed", "failed"), ("failed", "completed")])
    async def test_another_outcome_for_a_settled_lease_is_stale(
        self, store: Store, first: str, second: str
    ) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        await settle(store, ENDINGS[first](held), now=at(1))
        before = await everything(store)

        assert await store.settle([ENDINGS[second](held)], now=at(2)) == NOTHING
        assert await store.settle([retried(held)], now=at(2)) == NOTHING
        assert await everything(store) == before

    async def test_the_repeat_of_an_outcome_that_removed_its_job_is_applied_though_the_id_is_used_again(
        self, store: Store
    ) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        outcome = completed(held, retention=AT_ONCE)
        await settle(store, outcome, now=at(1))
        await add(store, job("a", payload="2"), now=at(2))
        before = await everything(store)

        assert await store.settle([outcome], now=at(3)) == Settled(applied=frozenset({held.lease}))
        assert await store.settle([failed(held)], now=at(3)) == NOTHING
        assert await everything(store) == before

    async def test_repeats_are_recognised_for_ten_minutes_of_advances(self, store: Store) -> None:
        await add(store, job("kept"), job("removed"))
        kept, removed = await claim_jobs(store, 2)
        outcomes = [completed(kept), completed(removed, retention=AT_ONCE)]
        await settle(store, *outcomes, now=at(1))
        for minute in range(1, 10):
            await store.advance({"q"}, now=at(60 * minute))

        settled = await store.settle(outcomes, now=at(600))

        assert settled == Settled(applied=frozenset({kept.lease, removed.lease}))
