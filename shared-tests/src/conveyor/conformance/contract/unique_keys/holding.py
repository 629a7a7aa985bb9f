"""Unique keys: who holds one."""

from __future__ import annotations

import pytest

from conveyor.conformance.contract.unique_keys.jobs import LIVE
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    add,
    at,
    claim_jobs,
    completed,
    everything,
    get,
    ids,
    in_state,
    job,
    look,
    settle,
    span,
    take_one,
)
from conveyor.core.store import (
    Feature,
    Inserted,
    JobKey,
    JobState,
    Outcome,
    Store,
)


@area("unique keys", Feature.UNIQUE_KEYS)
class Holding:
    """The first, and no other."""

    async def test_a_new_job_holds_its_key(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"), job("b", unique_key="l", unique_for=span(60)), job("c"))

        a, b, c = await everything(store)
        assert (a.unique_key, a.unique_for, a.holds_key, a.unique_until) == ("k", None, True, None)
        assert (b.unique_key, b.unique_for, b.holds_key, b.unique_until) == ("l", span(60), True, at(60))
        assert (c.unique_key, c.holds_key, c.unique_until) == (None, False, None)

    @pytest.mark.parametrize("state", LIVE)
    async def test_a_job_whose_key_is_held_is_not_created_and_the_holder_is_named(
        self, store: Store, state: JobState
    ) -> None:
        holder = await in_state(store, state, job("a", unique_key="k"))

        (answer,) = await add(store, job("b", unique_key="k", payload="2"), now=at(5))

        assert answer == Inserted(key=JobKey("q", "a"), created=False, state=state, created_at=at(0))
        assert await look(store, "b") is None
        assert await get(store, "a") == holder

    async def test_a_key_is_held_within_its_queue(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))

        (answer,) = await add(store, job("b", unique_key="k", queue="other"))

        assert answer.created

    async def test_keys_are_told_apart_exactly(self, store: Store) -> None:
        keys = ["k", "K", "k ", " k", "k\u0301", "ḱ", "1", "01", "'", "%", "_"]

        answers = await add(store, *(job(str(n), unique_key=key) for n, key in enumerate(keys)))

        assert [answer.created for answer in answers] == [True] * len(keys)

    async def test_of_two_jobs_with_one_key_in_one_call_the_first_is_created(self, store: Store) -> None:
        answers = await add(
            store, job("a", unique_key="k"), job("b", unique_key="l"), job("c", unique_key="k")
        )

        assert ids(answers) == ["a", "b", "a"]
        assert [answer.created for answer in answers] == [True, True, False]
        assert ids(await everything(store)) == ["a", "b"]

    async def test_the_id_is_looked_at_before_the_key(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"), job("b"))

        (answer,) = await add(store, job("b", unique_key="k"))

        assert (answer.key.id, answer.created) == ("b", False)

    async def test_each_record_of_a_call_is_judged_by_what_is_there_when_its_turn_comes(
        self, store: Store
    ) -> None:
        await add(store, job("holder", unique_key="k"))

        answers = await add(store, job("a", unique_key="k"), job("a"), job("b", unique_key="k"), job("a"))

        assert ids(answers) == ["holder", "a", "holder", "a"]
        assert [answer.created for answer in answers] == [False, True, False, False]
        assert not (await get(store, "a")).holds_key

    async def test_a_job_that_exists_does_not_take_a_key(self, store: Store) -> None:
        await add(store, job("a"))
        await add(store, job("a", unique_key="k"))

        (answer,) = await add(store, job("b", unique_key="k"))

        assert answer.created
        assert (await get(store, "a")).unique_key is None

    async def test_new_only_does_not_look_at_keys(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))

        answers = await store.insert([job("b", unique_key="k"), job("c")], new_only=True, now=at(1))

        assert ids(answers) == ["a", "c"]
        assert [answer.created for answer in answers] == [False, True]

    async def test_a_refused_call_takes_no_key(self, store: Store) -> None:
        await add(store, job("a"))
        await store.insert([job("b", unique_key="k"), job("a")], new_only=True, now=at(1))

        (answer,) = await add(store, job("c", unique_key="k"))

        assert answer.created

    async def test_a_spawned_job_whose_key_is_held_is_not_created(self, store: Store) -> None:
        await add(store, job("a"), job("b", unique_key="k"))
        held = await take_one(store, "a")

        settled = await settle(store, completed(held, spawn=(job("c", unique_key="k"),)), now=at(1))

        (answer,) = settled.spawned
        assert (answer.key.id, answer.created) == ("b", False)
        assert await look(store, "c") is None

    async def test_a_job_that_ends_may_spawn_the_next_holder_of_its_key(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))
        (held,) = await claim_jobs(store)

        settled = await settle(store, completed(held, spawn=(job("b", unique_key="k"),)), now=at(1))

        assert [answer.created for answer in settled.spawned] == [True]
        assert (await get(store, "b")).holds_key

    async def test_a_job_given_back_keeps_its_key(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))
        (held,) = await claim_jobs(store)
        await settle(store, Outcome.given_back(held), now=at(1))

        assert (await get(store, "a")).holds_key
