"""Flows: parents that wait for their children, and children that release them, once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    AT_ONCE,
    DONE,
    ENDINGS,
    MANY,
    WRONG,
    add,
    at,
    cancelled,
    child,
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
    take,
    take_one,
)
from conveyor.core.store import (
    Change,
    Feature,
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Outcome,
    Release,
    Retention,
    Store,
    Where,
)

PARENT = JobKey("q", "parent")
Q = Where(queue="q")
WAITS = JobState.WAITING_CHILDREN
#: Every way in which a child ends by settling, with the report of its step.
OVER: dict[str, Callable[[JobRecord], Outcome]] = {
    **ENDINGS,
    "removed": lambda held: completed(held, retention=AT_ONCE),
}
#: What states a parent can be in that is not waiting for children.
ELSEWHERE = [state for state in JobState if state is not WAITS]


async def family(store: Store, *kids: str, **fields: Any) -> None:
    """A parent that waits for these children."""
    await add(store, *(child(kid) for kid in kids), job("parent", **fields))


async def end(store: Store, kid: str, ending: str = "completed", *, second: float = 1) -> list[JobKey]:
    """End a child at that second, and return the parents that this released."""
    held = await take_one(store, kid, now=at(second))
    return list((await settle(store, OVER[ending](held), now=at(second))).released)


async def fail_parent(store: Store, id: str = "parent", *, second: float = 3) -> None:
    """Fail a job, as core does with a parent one of whose children has failed."""
    held = await take_one(store, id, now=at(second))
    await settle(store, failed(held), now=at(second))


async def parent_in(store: Store, state: JobState) -> JobRecord:
    """The parent, in that state, with no child it waits for."""
    delay = span(60) if state is JobState.DELAYED else None
    await add(store, job("parent", delay=delay))
    if state is JobState.ACTIVE or state.terminal:
        held = await take_one(store, "parent")
        if state.terminal:
            await settle(store, ENDINGS[state.value](held))
    return await get(store, "parent")


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

        assert ids(await take(store, 9)) == ["a", "b"]

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
        assert ids(await take(store, 9)) == ["leaf-1", "leaf-2", "twig"]

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
        await family(store, *(f"kid-{n}" for n in range(1_000)))

        held = await take(store, 1_000)
        first = await settle(store, *map(completed, held[:999]), now=at(1))
        last = await settle(store, completed(held[999]), now=at(2))

        assert list(first.released) == []
        assert list(last.released) == [PARENT]


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
        assert ids(await take(store, now=at(2))) == ["parent"]

    async def test_a_child_remembers_that_it_has_released_its_parent(self, store: Store) -> None:
        await family(store, "a", "b")

        await end(store, "a")

        assert [(await get(store, kid)).released for kid in "ab"] == [True, False]

    async def test_two_children_that_end_in_one_call_release_their_parent_once(self, store: Store) -> None:
        await family(store, "a", "b")
        a, b = await take(store, 2)

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

        assert ids(await take(store, 9, now=at(2))) == ["parent", "later"]

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

    async def test_those_are_told_as_released_that_wait_for_no_child_and_are_still_there(
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


@area("flows", Feature.FLOWS)
class Changing:
    """What `update` does to jobs that wait for their children."""

    async def test_a_job_that_waits_for_children_takes_a_new_payload_and_priority_but_no_delay(
        self, store: Store
    ) -> None:
        await family(store, "a", delay=span(60))
        before = await get(store, "parent")
        where = replace(Q, ids=frozenset({"parent"}))

        changed = await store.update(where, Change(payload="9", priority=4, delay=span(5)), now=at(1))

        assert changed == {PARENT}
        assert await get(store, "parent") == replace(before, payload="9", priority=4, rank=4.0)
        for change in (Change(delay=span(5)), Change(run_at=at(99)), Change(cancel=True), Change(retry=True)):
            assert await store.update(where, change, now=at(2)) == frozenset()

    async def test_a_parent_that_is_removed_as_it_ends_leaves_its_children_alone(self, store: Store) -> None:
        await family(store, "a")
        held = await take_one(store, "parent")

        settled = await settle(store, cancelled(held, retention=AT_ONCE), now=at(1))

        assert (list(settled.removed), list(settled.released)) == ([PARENT], [])
        assert await states(store) == {"a": JobState.WAITING}
        assert await end(store, "a", second=2) == []

    async def test_a_child_counts_by_its_own_queue_and_id(self, store: Store) -> None:
        await add(
            store,
            job("a", parent=JobKey("one", "parent")),
            job("parent", queue="one"),
            job("b", parent=JobKey("two", "parent")),
            job("parent", queue="two"),
        )

        assert await end(store, "b") == [JobKey("two", "parent")]
        assert (await get(store, "parent", queue="one")).pending == 1


@area("flows", Feature.FLOWS)
class Reopening:
    """Retrying a child takes its release back."""

    async def retry(self, store: Store, *kids: str, second: float = 5) -> set[str]:
        """Retry these jobs, and say which were."""
        where = replace(Q, ids=frozenset(kids))
        return {key.id for key in await store.update(where, Change(retry=True), now=at(second))}

    async def test_a_parent_that_still_waits_waits_for_the_retried_child_too(self, store: Store) -> None:
        await family(store, "a", "b")
        await end(store, "a", "failed")

        assert await self.retry(store, "a") == {"a"}

        assert (await get(store, "parent")).pending == 2
        assert not (await get(store, "a")).released
        assert await end(store, "b", second=6) == []
        assert await end(store, "a", second=7) == [PARENT]

    async def test_a_parent_that_has_just_been_released_waits_for_its_children_again(
        self, store: Store
    ) -> None:
        await family(store, "a", "b")
        await end(store, "a", "failed")
        await end(store, "b")

        await self.retry(store, "a")

        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (WAITS, 1)
        assert await take(store, ids=frozenset({"nobody"})) == []
        assert await end(store, "a", second=6) == [PARENT]

    async def test_a_parent_that_failed_is_reopened(self, store: Store) -> None:
        await family(store, "a", "b", payload="7")
        await settle(store, failed(await take_one(store, "a"), release=Release.ALL), now=at(1))
        await fail_parent(store)

        assert await self.retry(store, "a") == {"a"}

        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (WAITS, 2)
        assert (parent.attempt, parent.stalled, parent.finished_at, parent.processed_at) == (0, 0, None, None)
        assert parent.payload == "7"
        assert await end(store, "a", second=6) == []
        assert await end(store, "b", second=7) == [PARENT]
        assert ids(await take(store, now=at(8))) == ["parent"]

    @pytest.mark.parametrize(
        "state", [JobState.DELAYED, JobState.ACTIVE, JobState.COMPLETED, JobState.CANCELLED]
    )
    async def test_a_parent_that_runs_or_has_ended_otherwise_is_left_alone(
        self, store: Store, state: JobState
    ) -> None:
        await family(store, "a", delay=span(60) if state is JobState.DELAYED else None)
        await end(store, "a", "failed")
        if state is not JobState.DELAYED:
            held = await take_one(store, "parent", now=at(2))
            if state.terminal:
                await settle(store, ENDINGS[state.value](held), now=at(3))
        before = await get(store, "parent")
        assert before.state is state

        assert await self.retry(store, "a") == {"a"}

        assert await get(store, "parent") == before
        assert (await get(store, "a")).released
        assert await end(store, "a", second=6) == []
        assert await get(store, "parent") == before

    async def test_a_retried_child_whose_parent_is_gone_is_a_job_like_any_other(self, store: Store) -> None:
        await family(store, "a")
        await end(store, "a", "failed")
        await store.delete(replace(Q, ids=frozenset({"parent"})), limit=1, now=at(2))

        assert await self.retry(store, "a") == {"a"}

        assert (await get(store, "a")).released
        assert await end(store, "a", second=6) == []

    async def test_several_retried_children_are_all_waited_for(self, store: Store) -> None:
        await family(store, "a", "b", "c")
        for kid in "abc":
            await end(store, kid, "failed")
        await fail_parent(store)

        assert await self.retry(store, "a", "c") == {"a", "c"}

        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (WAITS, 2)

    async def test_retrying_everything_that_failed_reopens_the_parent_through_its_child(
        self, store: Store
    ) -> None:
        await family(store, "a")
        await end(store, "a", "failed")
        await fail_parent(store)

        where = replace(Q, states=frozenset({JobState.FAILED}))
        changed = await store.update(where, Change(retry=True), now=at(5))

        assert JobKey("q", "a") in changed
        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (WAITS, 1)

    async def test_a_reopened_parent_takes_back_its_own_release(self, store: Store) -> None:
        await add(store, child("leaf", of="branch"), child("branch"), job("parent"))
        await end(store, "leaf", "failed", second=1)
        await fail_parent(store, "branch", second=2)
        await fail_parent(store, "parent", second=3)

        await self.retry(store, "leaf")

        assert await states(store) == {"leaf": JobState.WAITING, "branch": WAITS, "parent": WAITS}
        assert not (await get(store, "branch")).released
        assert await end(store, "leaf", second=6) == [JobKey("q", "branch")]
        assert await end(store, "branch", second=7) == [PARENT]

    async def test_a_parent_that_is_retried_itself_is_waiting(self, store: Store) -> None:
        await family(store, "a")
        await end(store, "a", "failed")
        await fail_parent(store)

        assert await self.retry(store, "parent") == {"parent"}

        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (JobState.WAITING, 0)

    @needs(Feature.FLOWS, Feature.UNIQUE_KEYS)
    async def test_a_reopened_parent_takes_its_key_again(self, store: Store) -> None:
        await family(store, "a", unique_key="k")
        await end(store, "a", "failed")
        await fail_parent(store)

        await self.retry(store, "a")

        assert (await get(store, "parent")).holds_key
        (answer,) = await add(store, job("other", unique_key="k"), now=at(6))
        assert ids([answer]) == ["parent"]

    @needs(Feature.FLOWS, Feature.UNIQUE_KEYS)
    async def test_a_reopened_parent_does_without_a_key_that_another_holds(self, store: Store) -> None:
        await family(store, "a", unique_key="k")
        await end(store, "a", "failed")
        await fail_parent(store)
        await add(store, job("other", unique_key="k"), now=at(4))

        assert await self.retry(store, "a") == {"a"}

        parent = await get(store, "parent")
        assert (parent.state, parent.holds_key) == (WAITS, False)
        assert (await get(store, "other")).holds_key


@area("flows", Feature.FLOWS)
class Awaiting:
    """`Outcome.awaiting`: children that a job adds while it runs."""

    async def test_the_job_runs_again_when_its_new_children_have_ended(self, store: Store) -> None:
        await add(store, job("parent", payload="7"))
        (held,) = await take(store)

        settled = await settle(
            store, Outcome.awaiting(held, DONE, children=(child("a"), child("b", queue="other"))), now=at(1)
        )

        assert [answer.created for answer in settled.spawned] == [True, True]
        assert list(settled.released) == []
        parent = await get(store, "parent")
        assert (parent.state, parent.pending, parent.report) == (WAITS, 2, DONE)
        assert (parent.token, parent.attempt, parent.finished_at) == (None, 1, None)
        assert not (await get(store, "a")).released

        assert await end(store, "a", second=2) == []
        other = await take_one(store, "b", queue="other", now=at(3))
        assert list((await settle(store, completed(other), now=at(3))).released) == [PARENT]
        (again,) = await take(store, now=at(4))
        assert (again.id, again.attempt) == ("parent", 2)

    async def test_only_the_children_that_were_created_are_waited_for(self, store: Store) -> None:
        await add(store, job("parent"), job("a"))
        held = await take_one(store, "parent")

        await settle(store, Outcome.awaiting(held, DONE, children=(child("a"), child("b"))), now=at(1))

        assert (await get(store, "parent")).pending == 1
        assert await end(store, "b", second=2) == [PARENT]

    async def test_a_job_none_of_whose_children_was_created_is_waiting_at_once(self, store: Store) -> None:
        await add(store, job("parent"), job("a"))
        held = await take_one(store, "parent")

        await settle(store, Outcome.awaiting(held, DONE, children=(child("a"),)), now=at(1))

        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (JobState.WAITING, 0)
        assert ids(await take(store, 1, ids=frozenset({"parent"}), now=at(2))) == ["parent"]

    async def test_grandchildren_come_with_the_children(self, store: Store) -> None:
        await add(store, job("parent"))
        (held,) = await take(store)

        await settle(
            store,
            Outcome.awaiting(held, DONE, children=(child("leaf", of="branch"), child("branch"))),
            now=at(1),
        )

        assert await states(store) == {"parent": WAITS, "leaf": JobState.WAITING, "branch": WAITS}
        assert (await get(store, "parent")).pending == 1
        assert await end(store, "leaf", second=2) == [JobKey("q", "branch")]
        assert await end(store, "branch", second=3) == [PARENT]

    async def test_a_stale_job_adds_no_children(self, store: Store) -> None:
        await add(store, job("parent"))
        (stale,) = await take(store)
        await store.advance({"q"}, now=at(30))

        settled = await store.settle([Outcome.awaiting(stale, DONE, children=(child("a"),))], now=at(31))

        assert settled.applied == frozenset()
        assert await states(store) == {"parent": JobState.WAITING}

    async def test_repeating_it_adds_nothing_and_waits_for_nothing_more(self, store: Store) -> None:
        await add(store, job("parent"))
        (held,) = await take(store)
        outcome = Outcome.awaiting(held, DONE, children=(child("a"),))
        await settle(store, outcome, now=at(1))

        again = await store.settle([outcome], now=at(2))

        assert (again.applied, list(again.spawned)) == (frozenset({held.lease}), [])
        assert (await get(store, "parent")).pending == 1

    async def test_a_job_may_wait_for_children_again_and_again(self, store: Store) -> None:
        await add(store, job("parent"))
        for round_ in range(3):
            held = await take_one(store, "parent", now=at(10 * round_))
            kid = f"kid-{round_}"
            await settle(store, Outcome.awaiting(held, DONE, children=(child(kid),)), now=at(10 * round_ + 1))
            assert await end(store, kid, second=10 * round_ + 2) == [PARENT]

        await settle(store, Outcome.failed(await take_one(store, "parent", now=at(99)), WRONG), now=at(99))
        assert (await get(store, "parent")).state is JobState.FAILED


class Flows(InsertingFamilies, Releasing, Changing, Reopening, Awaiting):
    """Parents and children."""
