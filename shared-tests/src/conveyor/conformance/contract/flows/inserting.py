"""Flows: parents that wait for the children inserted with them."""

from __future__ import annotations

import pytest

from conveyor.conformance.contract.flows.family import ELSEWHERE, PARENT, WAITS, end, family, parent_in
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    add,
    at,
    child,
    claim_jobs,
    completed,
    everything,
    get,
    ids,
    job,
    look,
    settle,
    span,
)
from conveyor.core.store import (
    Feature,
    Inserted,
    JobKey,
    JobState,
    Store,
)


@area("flows", Feature.FLOWS)
class InsertingFamilies:
    """What `insert` makes of parents and children."""

    async def test_a_parent_waits_for_the_children_inserted_with_it(self, store: Store) -> None:
        answers = await add(store, child("a"), child("b", queue="other"), job("parent", payload="1"))

        assert [answer.state for answer in answers] == [JobState.WAITING, JobState.WAITING, WAITS]
        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (WAITS, 2)
        kid = await get(store, "b", queue="other")
        assert (kid.parent, kid.released, kid.state) == (PARENT, False, JobState.WAITING)

    async def test_a_parent_that_waits_for_its_children_is_not_claimed(self, store: Store) -> None:
        await family(store, "a", "b")

        assert ids(await claim_jobs(store, 9)) == ["a", "b"]

    async def test_a_family_of_three_generations_is_inserted_in_one_call(self, store: Store) -> None:
        await add(
            store,
            child("leaf-1", of="branch"),
            child("leaf-2", of="branch"),
            child("branch"),
            child("twig"),
            job("parent"),
        )

        assert (await get(store, "branch")).pending == 2
        assert (await get(store, "parent")).pending == 2
        assert ids(await claim_jobs(store, 9)) == ["leaf-1", "leaf-2", "twig"]

    async def test_a_parent_already_waiting_for_children_waits_for_a_new_one_too(self, store: Store) -> None:
        await family(store, "a")

        await add(store, child("b"), now=at(1))

        assert (await get(store, "parent")).pending == 2
        assert not (await get(store, "b")).released
        assert await end(store, "a") == []
        assert await end(store, "b") == [PARENT]

    @pytest.mark.parametrize("state", ELSEWHERE)
    async def test_a_child_added_too_late_does_not_affect_its_parent(
        self, store: Store, state: JobState
    ) -> None:
        before = await parent_in(store, state)

        (answer,) = await add(store, child("late"), now=at(1))

        assert answer.created
        assert await get(store, "parent") == before
        late = await get(store, "late")
        assert (late.parent, late.released) == (PARENT, True)
        assert await end(store, "late", second=2) == []
        assert await get(store, "parent") == before

    async def test_a_child_whose_parent_does_not_exist_is_a_job_like_any_other(self, store: Store) -> None:
        await add(store, child("a", of="nobody"))

        assert (await get(store, "a")).released
        assert await end(store, "a") == []

    async def test_a_child_that_exists_is_not_waited_for(self, store: Store) -> None:
        await add(store, job("a"))

        answers = await add(store, child("a"), child("b"), job("parent"))

        assert [answer.created for answer in answers] == [False, True, True]
        assert (await get(store, "parent")).pending == 1
        assert (await get(store, "a")).parent is None

    async def test_a_parent_all_of_whose_children_exist_is_waiting_at_once(self, store: Store) -> None:
        await add(store, job("a"))

        answers = await add(store, child("a"), job("parent"))

        assert answers[1].state is JobState.WAITING
        assert (await get(store, "parent")).pending == 0

    @needs(Feature.FLOWS, Feature.UNIQUE_KEYS)
    async def test_a_child_whose_key_is_held_is_not_waited_for(self, store: Store) -> None:
        await add(store, job("holder", unique_key="k"))

        answers = await add(store, child("a", unique_key="k"), child("b"), job("parent"))

        assert ids(answers) == ["holder", "b", "parent"]
        assert (await get(store, "parent")).pending == 1
        assert await look(store, "a") is None

    @needs(Feature.FLOWS, Feature.UNIQUE_KEYS)
    async def test_a_parent_delayed_and_without_created_children_is_delayed(self, store: Store) -> None:
        await add(store, job("holder", unique_key="k"))

        await add(store, child("a", unique_key="k"), job("parent", delay=span(60)), now=at(1))

        parent = await get(store, "parent")
        assert (parent.state, parent.run_at, parent.delay) == (JobState.DELAYED, at(61), None)

    async def test_the_family_of_a_parent_that_exists_is_not_created(self, store: Store) -> None:
        before = await parent_in(store, JobState.WAITING)

        answers = await add(store, child("a"), child("b", delay=span(5)), job("parent"), job("c"), now=at(9))

        assert list(answers) == [
            Inserted(key=JobKey("q", "a"), created=False, state=JobState.WAITING, created_at=at(9)),
            Inserted(key=JobKey("q", "b"), created=False, state=JobState.DELAYED, created_at=at(9)),
            Inserted(key=PARENT, created=False, state=JobState.WAITING, created_at=at(0)),
            Inserted(key=JobKey("q", "c"), created=True, state=JobState.WAITING, created_at=at(9)),
        ]
        assert await everything(store) == [before, await get(store, "c")]

    @needs(Feature.FLOWS, Feature.UNIQUE_KEYS)
    async def test_the_whole_subtree_of_a_duplicate_is_not_created(self, store: Store) -> None:
        await add(store, job("holder", unique_key="k"))

        answers = await add(
            store,
            child("leaf", of="branch"),
            child("branch", unique_key="k"),
            child("twig"),
            job("parent"),
            now=at(9),
        )

        assert ids(answers) == ["leaf", "holder", "twig", "parent"]
        assert [answer.created for answer in answers] == [False, False, True, True]
        assert (answers[0].state, answers[0].created_at) == (JobState.WAITING, at(9))
        assert (await get(store, "parent")).pending == 1
        assert ids(await everything(store)) == ["holder", "twig", "parent"]

    @needs(Feature.FLOWS, Feature.UNIQUE_KEYS)
    async def test_the_subtree_of_a_duplicate_takes_no_key(self, store: Store) -> None:
        await add(store, job("parent"))
        await add(store, child("a", unique_key="k"), job("parent"))

        (answer,) = await add(store, job("b", unique_key="k"))

        assert answer.created

    async def test_new_only_refuses_a_whole_family(self, store: Store) -> None:
        await add(store, job("b"))

        answers = await store.insert([child("a"), child("b"), job("parent")], new_only=True, now=at(9))

        assert [answer.key for answer in answers] == [JobKey("q", "a"), JobKey("q", "b"), PARENT]
        assert [answer.created for answer in answers] == [False, False, False]
        assert [answer.created_at for answer in answers] == [at(9), at(0), at(9)]
        assert ids(await everything(store)) == ["b"]

    async def test_a_parent_with_a_thousand_children(self, store: Store) -> None:
        """A parent waits for a thousand children that are added with it."""
        await family(store, *(f"kid-{n}" for n in range(1_000)))

        held = await claim_jobs(store, 1_000)
        first = await settle(store, *map(completed, held[:999]), now=at(1))
        last = await settle(store, completed(held[999]), now=at(2))

        assert list(first.released) == []
        assert list(last.released) == [PARENT]
