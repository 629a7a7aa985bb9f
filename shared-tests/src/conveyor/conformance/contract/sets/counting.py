"""Sets: counting them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conveyor.conformance.contract.sets.jobs import PLAIN, Q, one_in_each_state
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    START,
    add,
    at,
    claim_jobs,
    completed,
    failed,
    job,
    jobs,
    settle,
    span,
    take_one,
)
from conveyor.core.store import (
    Change,
    Feature,
    JobState,
    Store,
    Where,
)


@area("sets")
class Counting:
    """`Store.count`."""

    async def test_counts_are_by_queue_and_state_and_exact(self, store: Store) -> None:
        await one_in_each_state(store)
        await add(store, *jobs("abc"), job("x", queue="other"))

        counts = await store.count(Where(), now=START)

        wanted: dict[tuple[str | None, JobState], int] = {("q", state): 1 for state in PLAIN}
        wanted["q", JobState.WAITING] = 4
        wanted["other", JobState.WAITING] = 1
        assert counts == wanted

    async def test_combinations_without_jobs_are_left_out(self, store: Store) -> None:
        assert await store.count(Where(), now=START) == {}

        await add(store, job("a"))
        await store.delete(Q, limit=1, now=START)
        assert await store.count(Q, now=START) == {}

    async def test_a_set_is_counted_as_it_is_found(self, store: Store) -> None:
        await add(store, job("a", name="x"), job("b", name="y"), job("c", name="x", delay=span(9)))

        counts = await store.count(replace(Q, names=frozenset("x")), now=START)

        assert counts == {("q", JobState.WAITING): 1, ("q", JobState.DELAYED): 1}

    @pytest.mark.parametrize("most", [1, 2, 3, 4])
    async def test_no_number_is_greater_than_most_and_none_smaller_than_it_need_be(
        self, store: Store, most: int
    ) -> None:
        await add(store, *jobs("abcde"), *(job(f"later-{n}", delay=span(99)) for n in range(3)))
        await take_one(store, "a")
        await add(store, *(job(f"other-{n}", queue="other") for n in range(3)), now=at(1))
        sets = (Q, replace(Q, states=frozenset({JobState.DELAYED})), replace(Q, names=frozenset({"work"})))

        for where in (*sets, Where(), Where(states=frozenset(JobState)), replace(Q, older_than=span(0))):
            exact = await store.count(where, now=at(2))
            counted = await store.count(where, most=most, now=at(2))
            assert counted == {key: min(number, most) for key, number in exact.items()}, where

    @needs(Feature.GROUPS)
    async def test_no_group_has_more_than_most(self, store: Store) -> None:
        await add(store, *jobs("abc", group="g"), *jobs("de"), job("f", group="h"))

        counts = await store.count(Q, by_group=True, most=2, now=START)
        bare = await store.count(replace(Q, group="g"), most=2, now=START)
        both = await store.count(Q, most=4, now=START)

        assert counts == {
            ("g", JobState.WAITING): 2,
            (None, JobState.WAITING): 2,
            ("h", JobState.WAITING): 1,
        }
        assert bare == {("q", JobState.WAITING): 2}
        assert both == {("q", JobState.WAITING): 4}

    @needs(Feature.GROUPS)
    async def test_counts_by_group(self, store: Store) -> None:
        """Counted by group, jobs are counted by group and state, those without a group under None."""
        await add(
            store,
            *jobs("ab", group="g"),
            job("c", group="h", delay=span(9)),
            job("d"),
            job("e", queue="other", group="i"),
        )

        assert await store.count(Q, by_group=True, now=START) == {
            ("g", JobState.WAITING): 2,
            ("h", JobState.DELAYED): 1,
            (None, JobState.WAITING): 1,
        }

    @needs(Feature.GROUPS)
    async def test_counts_by_group_are_over_all_queues_of_the_set(self, store: Store) -> None:
        await add(store, job("a", group="g"), job("b", queue="other", group="g"), job("c", queue="other"))

        assert await store.count(Where(), by_group=True, now=START) == {
            ("g", JobState.WAITING): 2,
            (None, JobState.WAITING): 1,
        }

    async def test_counts_follow_every_move_of_a_job(self, store: Store) -> None:
        async def counted() -> dict[str, int]:
            counts = await store.count(Q, now=START)
            return {state.value: number for (_, state), number in counts.items()}

        await add(store, *jobs("abcd"), job("e", delay=span(60)))
        assert await counted() == {"waiting": 4, "delayed": 1}

        a, b, c = await claim_jobs(store, 3)
        assert await counted() == {"waiting": 1, "delayed": 1, "active": 3}

        await settle(store, completed(a), failed(b))
        assert await counted() == {"waiting": 1, "delayed": 1, "active": 1, "completed": 1, "failed": 1}

        await store.advance({"q"}, now=at(60))
        assert await counted() == {"waiting": 3, "completed": 1, "failed": 1}

        await store.settle([completed(c)], now=at(60))
        await store.update(Q, Change(retry=True), now=at(60))
        assert await counted() == {"waiting": 5}

        await store.delete(Q, limit=2, now=at(60))
        assert await counted() == {"waiting": 3}
