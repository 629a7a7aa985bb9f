"""Settling: only while the lease is held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from conveyor.conformance.contract.settling.outcomes import NOTHING, OUTCOMES, STALE
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    WRONG,
    add,
    at,
    claim_jobs,
    completed,
    everything,
    failed,
    get,
    ids,
    job,
    retried,
    settle,
    states,
)
from conveyor.core.store import (
    Change,
    JobState,
    Lease,
    Outcome,
    Store,
    Undecodable,
    Where,
)


@area("settling")
class StaleOutcomes:
    """A stale outcome changes nothing."""

    @pytest.mark.parametrize("become_stale", STALE, ids=lambda way: way.__name__.removeprefix("stale_by_"))
    async def test_a_stale_outcome_changes_nothing(
        self, store: Store, become_stale: Callable[[Store], Any]
    ) -> None:
        await add(store, job("a"))
        stale = await become_stale(store)
        before = await everything(store)

        for kind, outcome in OUTCOMES.items():
            settled = await store.settle([outcome(stale)], now=at(60))

            assert settled == NOTHING, kind
            assert await everything(store) == before, kind

    async def test_a_worker_that_lost_its_lease_cannot_complete_the_job(self, store: Store) -> None:
        await add(store, job("a"))
        (stale,) = await claim_jobs(store, worker="same")
        await store.advance({"q"}, now=at(30))
        (held,) = await claim_jobs(store, worker="same", now=at(31))

        assert (await store.settle([completed(stale)], now=at(32))).applied == frozenset()
        assert (await store.settle([failed(held)], now=at(33))).applied == {held.lease}
        assert (await get(store, "a")).state is JobState.FAILED

    async def test_a_stale_outcome_fails_no_other(self, store: Store) -> None:
        await add(store, job("a"), job("b"), job("c"))
        a, b, c = await claim_jobs(store, 3)
        await store.delete(Where(queue="q", ids=frozenset("b")), limit=1, now=at(1))

        settled = await store.settle([completed(a), completed(b), retried(c)], now=at(2))

        assert settled.applied == {a.lease, c.lease}
        assert await states(store) == {"a": JobState.COMPLETED, "c": JobState.WAITING}

    async def test_an_outcome_for_a_job_that_does_not_exist_is_stale(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        missing = replace(held, id="missing")

        assert await store.settle([completed(missing)], now=at(1)) == NOTHING
        assert ids(await everything(store)) == ["a"]

    async def test_a_lease_that_ran_out_but_was_not_taken_back_may_settle(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        await settle(store, completed(held), now=at(1_000))

        assert (await get(store, "a")).finished_at == at(1_000)

    async def test_a_renewed_lease_settles_under_its_token(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        await store.update(Where(queue="q"), Change(payload="2", priority=9), now=at(1))

        await settle(store, completed(held), now=at(2))

        found = await get(store, "a")
        assert (found.state, found.payload, found.priority) == (JobState.COMPLETED, "2", 9)

    async def test_of_two_outcomes_for_one_lease_the_first_is_applied(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        settled = await store.settle([retried(held, delay=60), completed(held)], now=at(1))

        assert settled.applied == {held.lease}
        assert (await get(store, "a")).state is JobState.DELAYED

    async def test_an_outcome_read_from_an_unreadable_row_fails_the_job(self, store: Store) -> None:
        await add(store, job("a"), job("b"))
        a, b = await claim_jobs(store, 2)
        row = Undecodable(lease=a.lease, attempt=1, reason="nested too deep")

        await settle(store, Outcome.unreadable(row, WRONG), completed(b), now=at(1))

        found = await get(store, "a")
        assert (found.state, found.report, found.attempt) == (JobState.FAILED, WRONG, 1)
        assert (await get(store, "b")).state is JobState.COMPLETED

    async def test_a_lease_of_another_queue_does_not_fit(self, store: Store) -> None:
        await add(store, job("a"), job("a", queue="other"))
        (held,) = await claim_jobs(store)
        outcome = replace(completed(held), lease=Lease("other", "a", held.lease.token))

        assert await store.settle([outcome], now=at(1)) == NOTHING
        assert await states(store, "other") == {"a": JobState.WAITING}
