"""Flows: children that end release their parent, once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conveyor.conformance.contract.flows.family import OVER, PARENT, WAITS, Q, end, family
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    DONE,
    ENDINGS,
    MANY,
    add,
    at,
    cancelled,
    child,
    claim_jobs,
    completed,
    everything,
    failed,
    get,
    ids,
    job,
    look,
    retried,
    settle,
    span,
    states,
    take_one,
)
from conveyor.core.store import (
    Feature,
    JobKey,
    JobState,
    Outcome,
    Release,
    Retention,
    Store,
)


@area("flows", Feature.FLOWS)
class Releasing:
    """Children that end, and what that does to their parents."""

    @pytest.mark.parametrize("ending", OVER)
    async def test_a_child_that_ends_releases_its_parent_in_the_same_step(
        self, store: Store, ending: str
    ) -> None:
        await family(store, "a", "b")

        assert await end(store, "a", ending) == []
        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (WAITS, 1)

        assert await end(store, "b", ending) == [PARENT]
        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (JobState.WAITING, 0)
        assert ids(await claim_jobs(store, now=at(2))) == ["parent"]

    async def test_a_child_remembers_that_it_has_released_its_parent(self, store: Store) -> None:
        await family(store, "a", "b")

        await end(store, "a")

        assert [(await get(store, kid)).released for kid in "ab"] == [True, False]

    async def test_two_children_that_end_in_one_call_release_their_parent_once(self, store: Store) -> None:
        await family(store, "a", "b")
        a, b = await claim_jobs(store, 2)

        settled = await settle(store, completed(a), failed(b), now=at(1))

        assert list(settled.released) == [PARENT]

    async def test_parents_in_other_queues_are_released(self, store: Store) -> None:
        await add(store, child("a", queue="kids"), job("parent"))
        held = await take_one(store, "a", queue="kids")

        assert list((await settle(store, completed(held), now=at(1))).released) == [PARENT]
        assert await states(store) == {"parent": JobState.WAITING}

    @pytest.mark.parametrize("way", ["retried", "given back", "snoozed", "stalled"])
    async def test_a_child_that_has_not_ended_releases_nobody(self, store: Store, way: str) -> None:
        await family(store, "a")
        held = await take_one(store, "a")
        match way:
            case "retried":
                await settle(store, retried(held), now=at(1))
            case "given back":
                await settle(store, Outcome.given_back(held), now=at(1))
            case "snoozed":
                await settle(store, Outcome.snoozed(held, DONE, delay=span(5)), now=at(1))
            case _:
                await store.advance({"q"}, now=at(60))

        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (WAITS, 1)

    async def test_a_stale_child_releases_nobody(self, store: Store) -> None:
        await family(store, "a")
        stale = await take_one(store, "a")
        await store.advance({"q"}, now=at(30))

        settled = await store.settle([completed(stale)], now=at(31))

        assert list(settled.released) == []
        assert (await get(store, "parent")).pending == 1

    async def test_a_child_that_ends_twice_releases_once(self, store: Store) -> None:
        await family(store, "a", "b")
        held = await take_one(store, "a")
        outcome = completed(held)

        await settle(store, outcome, now=at(1))
        again = await store.settle([outcome], now=at(2))
        await store.delete(replace(Q, ids=frozenset("a")), limit=1, now=at(3))

        assert list(again.released) == []
        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (WAITS, 1)

    async def test_a_retained_child_that_expires_does_not_release_again(self, store: Store) -> None:
        await family(store, "a", "b")
        held = await take_one(store, "a")
        await settle(store, completed(held, retention=Retention(age=span(5))), now=at(1))

        await store.delete(replace(Q, expired=True), limit=9, now=at(60))

        assert await look(store, "a") is None
        assert (await get(store, "parent")).pending == 1

    async def test_a_released_parent_waits_for_its_own_delay_from_the_last_childs_end(
        self, store: Store
    ) -> None:
        await family(store, "a", delay=span(60))
        parent = await get(store, "parent")
        assert (parent.state, parent.delay, parent.run_at) == (WAITS, span(60), None)

        assert await end(store, "a", second=100) == [PARENT]

        parent = await get(store, "parent")
        assert (parent.state, parent.delay, parent.run_at) == (JobState.DELAYED, None, at(160))

    @pytest.mark.parametrize("second", [10, 60, 99])
    async def test_a_released_parent_waits_for_its_own_run_at(self, store: Store, second: float) -> None:
        await family(store, "a", run_at=at(60))

        await end(store, "a", second=second)

        parent = await get(store, "parent")
        wanted = (JobState.DELAYED, at(60)) if second < 60 else (JobState.WAITING, None)
        assert (parent.state, parent.run_at) == wanted

    async def test_a_released_parent_takes_its_place_by_insertion(self, store: Store) -> None:
        await add(store, child("a", queue="kids"), job("parent"), job("later"))
        held = await take_one(store, "a", queue="kids")
        await settle(store, completed(held), now=at(1))

        assert ids(await claim_jobs(store, 9, now=at(2))) == ["parent", "later"]

    async def test_release_all_ends_the_waiting_of_the_parent_at_once(self, store: Store) -> None:
        await family(store, "a", "b", "c")
        held = await take_one(store, "b")

        settled = await settle(store, failed(held, release=Release.ALL), now=at(1))

        assert list(settled.released) == [PARENT]
        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (JobState.WAITING, 0)

    async def test_siblings_that_end_later_do_not_touch_the_parent(self, store: Store) -> None:
        await family(store, "a", "b", "c")
        held = await take_one(store, "a")
        await settle(store, failed(held, release=Release.ALL), now=at(1))
        before = await get(store, "parent")

        assert await end(store, "b", "completed", second=2) == []
        assert await end(store, "c", "failed", second=3) == []

        assert await get(store, "parent") == before

    @pytest.mark.parametrize("release", list(Release))
    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_a_late_child_does_not_resurrect_a_parent_that_has_ended(
        self, store: Store, ending: str, release: Release
    ) -> None:
        await family(store, "a", "b")
        await settle(store, failed(await take_one(store, "a"), release=Release.ALL), now=at(1))
        held = await take_one(store, "parent", now=at(2))
        await settle(store, ENDINGS[ending](held), now=at(2))
        before = await get(store, "parent")

        late = await take_one(store, "b", now=at(3))
        settled = await settle(store, failed(late, release=release), now=at(3))

        assert list(settled.released) == []
        assert await get(store, "parent") == before

    async def test_a_parent_that_is_cancelled_while_it_waits_is_not_woken_by_its_children(
        self, store: Store
    ) -> None:
        await family(store, "a")
        held = await take_one(store, "parent")
        await settle(store, cancelled(held), now=at(1))

        assert await end(store, "a", second=2) == []
        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (JobState.CANCELLED, 0)

    async def test_a_child_that_ends_while_its_parent_is_held_is_not_waited_for(self, store: Store) -> None:
        await family(store, "a", "b")
        held = await take_one(store, "parent")
        await end(store, "a")
        assert (await get(store, "parent")).state is JobState.ACTIVE

        await settle(store, Outcome.given_back(held), now=at(2))
        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (WAITS, 1)

        await take_one(store, "parent", now=at(3))
        await end(store, "b", second=4)
        await store.advance({"q"}, now=at(60))
        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (JobState.WAITING, 0)

    async def test_a_parent_that_ends_releases_its_own_parent_and_so_on(self, store: Store) -> None:
        await add(store, child("leaf", of="branch"), child("branch"), job("parent"))

        assert await end(store, "leaf", second=1) == [JobKey("q", "branch")]
        assert await end(store, "branch", second=2) == [PARENT]
        assert await end(store, "parent", second=3) == []

    @pytest.mark.parametrize("state", list(JobState))
    async def test_a_child_that_is_deleted_releases_its_parent_unless_it_has(
        self, store: Store, state: JobState
    ) -> None:
        delay = span(60) if state is JobState.DELAYED else None
        leaf = [child("leaf", of="a", queue="kids")] if state is WAITS else []
        await add(store, *leaf, child("a", delay=delay), child("b"), job("parent"))
        if state is JobState.ACTIVE:
            await take_one(store, "a")
        elif state.terminal:
            await end(store, "a", state.value)
        assert (await get(store, "a")).state is state

        first = await store.delete(replace(Q, ids=frozenset("a")), limit=1, now=at(5))
        assert (ids(first.removed), list(first.released)) == (["a"], [])
        assert (await get(store, "parent")).pending == 1

        second = await store.delete(replace(Q, ids=frozenset("b")), limit=1, now=at(6))
        assert (ids(second.removed), list(second.released)) == (["b"], [PARENT])
        assert await states(store) == {"parent": JobState.WAITING}

    async def test_a_parent_is_delayed_when_its_last_child_is_deleted(self, store: Store) -> None:
        await family(store, "a", delay=span(60))

        deleted = await store.delete(replace(Q, ids=frozenset("a")), limit=1, now=at(5))

        assert list(deleted.released) == [PARENT]
        parent = await get(store, "parent")
        assert (parent.state, parent.run_at) == (JobState.DELAYED, at(65))

    async def test_the_children_of_a_deleted_parent_are_left_alone(self, store: Store) -> None:
        await family(store, "a")
        before = await get(store, "a")

        await store.delete(replace(Q, ids=frozenset({"parent"})), limit=1, now=at(1))

        assert await everything(store) == [before]
        assert await end(store, "a", second=2) == []

    async def test_a_family_can_be_deleted_in_one_call(self, store: Store) -> None:
        await family(store, "a", "b")

        deleted = await store.delete(Q, limit=MANY, now=at(1))

        assert (ids(deleted.removed), list(deleted.released)) == (["a", "b", "parent"], [])
        assert await everything(store) == []

    async def test_those_are_reported_as_released_that_wait_for_no_child_and_are_still_there(
        self, store: Store
    ) -> None:
        """A parent released in the call and removed by it, one that still waits, one that waits no more."""
        await add(store, child("a", of="gone"), child("gone", of="root"), job("root"))
        await add(store, child("b", of="waits"), child("left", of="waits", queue="other"), job("waits"))
        await add(store, child("c", of="free"), child("d", of="free"), job("free", delay=span(60)))
        await add(store, child("e", of="held"), job("held"), child("f", of="nobody"))
        await take_one(store, "held")

        deleted = await store.delete(replace(Q, ids=frozenset({*"abcdef", "gone"})), limit=MANY, now=at(1))

        assert ids(deleted.removed) == ["a", "gone", "b", "c", "d", "e", "f"]
        assert sorted(ids(deleted.released)) == ["free", "root"]
        assert await states(store) == {
            "root": JobState.WAITING,
            "waits": WAITS,
            "free": JobState.DELAYED,
            "held": JobState.ACTIVE,
        }

    async def test_children_of_a_forgotten_queue_release_their_parents_elsewhere(self, store: Store) -> None:
        await add(
            store,
            child("a", queue="kids"),
            child("b", queue="kids", delay=span(60)),
            child("c", queue="others"),
            job("parent"),
        )
        await take_one(store, "a", queue="kids")

        assert list(await store.forget("kids", now=at(1))) == []
        assert (await get(store, "parent")).pending == 1

        assert list(await store.forget("others", now=at(2))) == [PARENT]
        assert await states(store) == {"parent": JobState.WAITING}

    async def test_a_forgotten_queue_releases_nobody_of_its_own(self, store: Store) -> None:
        await add(store, child("a", of="b", queue="q"), child("b", of="top"), job("top"))
        await add(store, child("x"), job("parent", queue="other"), job("parent"))

        assert list(await store.forget("q", now=at(1))) == []
        assert await everything(store) == []

    async def test_a_child_in_its_last_run_may_bring_a_sibling(self, store: Store) -> None:
        await family(store, "a")
        held = await take_one(store, "a")

        await settle(store, completed(held, spawn=(child("b"),)), now=at(1))

        if (await get(store, "parent")).state is JobState.WAITING:
            assert (await get(store, "b")).released
        else:
            assert await end(store, "b", second=2) == [PARENT]
