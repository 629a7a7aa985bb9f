"""Unique keys: releasing one, and taking it again."""

from __future__ import annotations

from conveyor.conformance.contract.unique_keys.jobs import Q
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    add,
    at,
    claim_jobs,
    completed,
    everything,
    get,
    ids,
    job,
    settle,
    span,
    take_one,
)
from conveyor.core.store import (
    Change,
    Feature,
    JobKey,
    JobState,
    Store,
    Where,
)


@area("unique keys", Feature.UNIQUE_KEYS)
class Retaking:
    """`release_key`, and retries."""

    async def test_a_key_can_be_released(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"), job("b", unique_key="l", unique_for=span(60)), job("c"))

        changed = await store.update(Q, Change(release_key=True), now=at(1))

        assert changed == {JobKey("q", "a"), JobKey("q", "b")}
        assert [found.holds_key for found in await everything(store, now=at(1))] == [False, False, False]
        answers = await add(store, job("d", unique_key="k"), job("e", unique_key="l"), now=at(2))
        assert [answer.created for answer in answers] == [True, True]

    async def test_a_finished_job_that_holds_its_key_can_release_it(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(60)))
        (held,) = await claim_jobs(store)
        await settle(store, completed(held), now=at(1))

        changed = await store.update(Q, Change(release_key=True), now=at(2))

        assert changed == {JobKey("q", "a")}
        (answer,) = await add(store, job("b", unique_key="k"), now=at(2))
        assert answer.created

    async def test_releasing_a_lapsed_key_applies_to_nothing(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)))

        assert await store.update(Q, Change(release_key=True), now=at(10)) == frozenset()

    async def test_a_job_that_is_retried_takes_its_key_again(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))
        await settle(store, completed(await take_one(store, "a")), now=at(1))

        changed = await store.update(Q, Change(retry=True), now=at(2))

        assert changed == {JobKey("q", "a")}
        assert (await get(store, "a")).holds_key
        (answer,) = await add(store, job("b", unique_key="k"), now=at(3))
        assert ids([answer]) == ["a"]

    async def test_a_job_whose_key_another_holds_now_is_not_retried(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))
        await settle(store, completed(await take_one(store, "a")), now=at(1))
        await add(store, job("b", unique_key="k"), now=at(2))
        before = await everything(store)

        assert await store.update(Q, Change(retry=True), now=at(3)) == frozenset()
        assert await everything(store) == before

    async def test_of_two_finished_jobs_with_one_key_only_the_first_added_is_retried(
        self, store: Store
    ) -> None:
        await add(store, job("z", unique_key="k"))
        await settle(store, completed(await take_one(store, "z")), now=at(1))
        await add(store, job("a", unique_key="k"), now=at(2))
        await settle(store, completed(await take_one(store, "a", now=at(3))), now=at(3))

        changed = await store.update(Q, Change(retry=True), now=at(4))

        assert changed == {JobKey("q", "z")}
        assert (await get(store, "a")).state is JobState.COMPLETED

    async def test_a_job_whose_key_had_a_time_is_retried_without_taking_it_again(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)))
        await settle(store, completed(await take_one(store, "a")), now=at(1))
        await add(store, job("b", unique_key="k"), now=at(10))

        changed = await store.update(Where(queue="q", ids=frozenset("a")), Change(retry=True), now=at(11))

        assert changed == {JobKey("q", "a")}
        assert not (await get(store, "a", now=at(11))).holds_key
        assert (await get(store, "b", now=at(11))).holds_key

    async def test_a_job_whose_key_still_has_time_is_retried_and_holds_it_until_then(
        self, store: Store
    ) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(60)))
        await settle(store, completed(await take_one(store, "a")), now=at(1))

        await store.update(Q, Change(retry=True), now=at(2))

        assert (await get(store, "a", now=at(2))).holds_key
        (answer,) = await add(store, job("b", unique_key="k"), now=at(60))
        assert answer.created
