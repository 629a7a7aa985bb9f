"""Settling: what has ended stays so, is kept as long as it says, and goes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from conveyor.conformance.contract.settling.outcomes import NOTHING
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    AT_ONCE,
    ENDINGS,
    add,
    at,
    cancelled,
    claim_jobs,
    completed,
    everything,
    failed,
    get,
    job,
    jobs,
    look,
    retried,
    settle,
    span,
    states,
    take_by_id,
)
from conveyor.core.store import (
    Change,
    JobKey,
    JobState,
    Outcome,
    Retention,
    Store,
    Where,
)


@area("settling")
class Ending:
    """Terminal states and retention."""

    async def test_a_job_that_was_removed_by_somebody_else_is_not_settled(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        await store.delete(Where(queue="q"), limit=1, now=at(1))
        await add(store, job("a"), now=at(2))

        assert await store.settle([completed(held)], now=at(3)) == NOTHING
        assert (await get(store, "a")).state is JobState.WAITING

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_nothing_but_an_explicit_retry_leaves_a_terminal_state(
        self, store: Store, ending: str
    ) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        await settle(store, ENDINGS[ending](held), now=at(1))
        before = await everything(store)

        where = Where(queue="q")
        await store.advance({"q"}, now=at(1_000))
        await take_by_id(store, "a", now=at(2))
        await claim_jobs(store, 5, now=at(2))
        for change in (Change(payload="1"), Change(priority=1), Change(delay=span(1)), Change(cancel=True)):
            assert await store.update(where, change, now=at(2)) == frozenset()
        await store.settle([Outcome.given_back(held)], now=at(2))
        await add(store, job("a"), now=at(2))

        assert await everything(store) == before

    async def test_a_job_that_ends_is_not_to_be_cancelled_any_more(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        await store.update(Where(queue="q"), Change(cancel=True), now=at(1))

        await settle(store, completed(held), now=at(2))

        assert not (await get(store, "a")).cancel_requested

    async def test_a_retention_of_age_zero_removes_the_job_at_once(self, store: Store) -> None:
        await add(store, job("a"), job("b"))
        a, b = await claim_jobs(store, 2)

        settled = await settle(
            store, completed(a, retention=AT_ONCE), failed(b, retention=AT_ONCE), now=at(1)
        )

        assert set(settled.removed) == {a.key, b.key}
        assert await everything(store) == []
        assert await look(store, "a") is None

    async def test_only_what_is_removed_at_once_is_reported_as_removed(self, store: Store) -> None:
        await add(store, *jobs("abcdef"), job("a", queue="other"))
        (a, b, c, d, e, f), (g,) = await claim_jobs(store, 6), await claim_jobs(store, queue="other")
        stale = replace(f, token="forged")

        settled = await store.settle(
            [
                completed(a),
                completed(b, retention=Retention(age=span(60))),
                completed(c, retention=Retention(count=0)),
                retried(d),
                completed(e, retention=AT_ONCE),
                completed(stale, retention=AT_ONCE),
                cancelled(g, retention=Retention(age=timedelta(0), count=3)),
            ],
            now=at(1),
        )

        assert sorted(settled.removed) == [JobKey("other", "a"), JobKey("q", "e")]
        assert set(await states(store)) == {*"abcdf"}
        assert await everything(store, "other") == []

    async def test_a_job_is_reported_as_removed_once(self, store: Store) -> None:
        await add(store, *jobs("ab"))
        a, b = await claim_jobs(store, 2)
        await settle(store, completed(a, retention=AT_ONCE), now=at(1))

        again = await store.settle([completed(a, retention=AT_ONCE)], now=at(2))
        both = [completed(a, retention=AT_ONCE), completed(b, retention=AT_ONCE), failed(b)]
        last = await store.settle(both, now=at(3))

        assert again.applied == {a.lease}
        assert list(again.removed) == []
        assert last.applied == {a.lease, b.lease}
        assert list(last.removed) == [b.key]

    async def test_a_retention_by_age_counts_from_the_jobs_end(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        await settle(store, completed(held, retention=Retention(age=span(60))), now=at(10))

        found = await get(store, "a")
        assert (found.expires_at, found.keep_count) == (at(70), None)

    async def test_a_retention_by_count_is_kept_with_the_job(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        await settle(store, completed(held, retention=Retention(count=3)), now=at(10))

        found = await get(store, "a")
        assert (found.expires_at, found.keep_count) == (None, 3)
