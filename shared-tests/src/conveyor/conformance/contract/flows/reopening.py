"""Flows: a child that is retried is waited for again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conveyor.conformance.contract.flows.family import PARENT, WAITS, Q, end, fail_parent, family
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    ENDINGS,
    add,
    at,
    child,
    claim_jobs,
    failed,
    get,
    ids,
    job,
    settle,
    span,
    states,
    take_by_id,
    take_one,
)
from conveyor.core.store import (
    Change,
    Feature,
    JobKey,
    JobState,
    Release,
    Store,
)


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
        assert await take_by_id(store, ["nobody"]) == []
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
        assert ids(await claim_jobs(store, now=at(8))) == ["parent"]

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
