"""Unique keys: for how long one is held."""

from __future__ import annotations

import pytest

from conveyor.conformance.contract.unique_keys.jobs import LIVE, Q
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    AT_ONCE,
    ENDINGS,
    TICK,
    add,
    at,
    claim_jobs,
    completed,
    get,
    ids,
    in_state,
    job,
    look,
    retried,
    settle,
    span,
    take_one,
)
from conveyor.core.store import (
    Feature,
    Inserted,
    JobKey,
    JobState,
    Retention,
    Store,
    Where,
)


@area("unique keys", Feature.UNIQUE_KEYS)
class Lapsing:
    """Until the job ends, or for exactly so long."""

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_a_key_without_a_time_lapses_when_its_job_ends(self, store: Store, ending: str) -> None:
        await add(store, job("a", unique_key="k"))
        (held,) = await claim_jobs(store)
        await settle(store, ENDINGS[ending](held), now=at(1))

        assert not (await get(store, "a")).holds_key
        (answer,) = await add(store, job("b", unique_key="k"), now=at(1))
        assert answer.created

    async def test_a_key_without_a_time_is_held_while_the_job_is_retried(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))
        for moment in range(3):
            held = await take_one(store, "a", now=at(moment))
            await settle(store, retried(held, delay=60 * moment), now=at(moment))

            (answer,) = await add(store, job("b", unique_key="k"), now=at(moment))
            assert ids([answer]) == ["a"]

    async def test_a_key_without_a_time_is_held_while_the_job_stalls(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))
        await claim_jobs(store)
        await store.advance({"q"}, now=at(1_000))

        (answer,) = await add(store, job("b", unique_key="k"), now=at(1_001))

        assert ids([answer]) == ["a"]

    async def test_a_key_with_a_time_is_held_exactly_until_it_is_over(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)), now=at(5))

        (early,) = await add(store, job("b", unique_key="k"), now=at(15) - TICK)
        (then,) = await add(store, job("c", unique_key="k"), now=at(15))

        assert ids([early]) == ["a"]
        assert (then.created, then.key.id) == (True, "c")

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_a_key_with_a_time_is_held_though_its_job_has_ended(
        self, store: Store, ending: str
    ) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(60)))
        (held,) = await claim_jobs(store)
        await settle(store, ENDINGS[ending](held), now=at(1))

        (answer,) = await add(store, job("b", unique_key="k"), now=at(60) - TICK)
        assert answer == Inserted(
            key=JobKey("q", "a"), created=False, state=JobState(ending), created_at=at(0)
        )
        assert (await get(store, "a", now=at(2))).holds_key

        (answer,) = await add(store, job("c", unique_key="k"), now=at(60))
        assert answer.created

    @pytest.mark.parametrize("state", LIVE)
    async def test_a_key_with_a_time_lapses_then_though_its_job_has_not_ended(
        self, store: Store, state: JobState
    ) -> None:
        await in_state(store, state, job("a", unique_key="k", unique_for=span(10)))

        (answer,) = await add(store, job("b", unique_key="k"), now=at(10))

        assert answer.created
        assert not (await get(store, "a", now=at(10))).holds_key
        assert (await get(store, "b", now=at(10))).holds_key

    async def test_a_lapsed_key_shows_as_not_held(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)))

        assert (await get(store, "a", now=at(10) - TICK)).holds_key
        assert not (await get(store, "a", now=at(10))).holds_key
        (held,) = await claim_jobs(store, now=at(11))
        assert not held.holds_key

    async def test_a_job_whose_key_has_lapsed_ends_without_touching_the_new_holder(
        self, store: Store
    ) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)))
        (held,) = await claim_jobs(store)
        await add(store, job("b", unique_key="k"), now=at(10))

        await settle(store, completed(held), now=at(11))

        assert (await get(store, "b", now=at(11))).holds_key
        (answer,) = await add(store, job("c", unique_key="k"), now=at(12))
        assert ids([answer]) == ["b"]

    async def test_the_time_counts_from_the_insert_and_a_duplicate_does_not_prolong_it(
        self, store: Store
    ) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)), now=at(0))
        await add(store, job("b", unique_key="k", unique_for=span(10)), now=at(9))

        (answer,) = await add(store, job("c", unique_key="k", unique_for=span(10)), now=at(10))

        assert answer.created
        assert (await get(store, "c", now=at(10))).unique_until == at(20)

    async def test_a_short_time_does_not_shorten_the_holders(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"), now=at(0))
        await add(store, job("b", unique_key="k", unique_for=span(1)), now=at(1))

        (answer,) = await add(store, job("c", unique_key="k"), now=at(100))

        assert ids([answer]) == ["a"]

    async def test_a_removed_job_gives_up_its_key(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(1_000)), job("b", unique_key="l"))
        await store.delete(Q, limit=9, now=at(1))

        answers = await add(store, job("c", unique_key="k"), job("d", unique_key="l"), now=at(2))

        assert [answer.created for answer in answers] == [True, True]

    async def test_a_forgotten_queue_gives_up_its_keys(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(1_000)))
        await store.forget("q", now=at(1))

        (answer,) = await add(store, job("b", unique_key="k"), now=at(2))

        assert answer.created

    async def test_a_job_that_still_holds_its_key_is_removed_only_when_that_lapses(
        self, store: Store
    ) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(60)))
        (held,) = await claim_jobs(store)

        settled = await settle(store, completed(held, retention=AT_ONCE), now=at(1))

        assert list(settled.removed) == []
        found = await get(store, "a", now=at(2))
        assert (found.state, found.holds_key, found.expires_at) == (JobState.COMPLETED, True, at(60))
        expired = Where(queue="q", expired=True)
        assert ids(await store.find(expired, limit=9, now=at(60) - TICK)) == []
        assert ids(await store.find(expired, limit=9, now=at(60))) == ["a"]

    async def test_a_job_that_still_holds_its_key_outlives_a_short_retention(self, store: Store) -> None:
        await add(
            store,
            job("a", unique_key="k", unique_for=span(60)),
            job("b", unique_key="l", unique_for=span(10)),
        )
        a, b = await claim_jobs(store, 2)

        keep = Retention(age=span(20))
        await settle(store, completed(a, retention=keep), completed(b, retention=keep), now=at(5))

        assert (await get(store, "a", now=at(6))).expires_at == at(60)
        assert (await get(store, "b", now=at(6))).expires_at == at(25)

    async def test_a_job_whose_key_lapsed_before_its_end_is_removed_at_once(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)))
        (held,) = await claim_jobs(store)

        settled = await settle(store, completed(held, retention=AT_ONCE), now=at(10))

        assert list(settled.removed) == [held.key]
        assert await look(store, "a", now=at(10)) is None

    async def test_a_job_with_a_key_without_a_time_is_removed_at_once(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))
        (held,) = await claim_jobs(store)

        settled = await settle(store, completed(held, retention=AT_ONCE), now=at(1))

        assert list(settled.removed) == [held.key]
        assert await look(store, "a") is None
        (answer,) = await add(store, job("b", unique_key="k"), now=at(1))
        assert answer.created
