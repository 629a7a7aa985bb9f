"""Claiming: claims that ask for some jobs only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    LEASE,
    add,
    at,
    child,
    claim,
    claim_jobs,
    get,
    ids,
    in_state,
    job,
    jobs,
    settle,
    span,
    take_by_id,
    take_one,
)
from conveyor.core.store import Feature, JobState, Outcome, Pause, Stalled, Store


@area("claiming")
class Narrowing:
    """By names, by ids, by stalls."""

    async def test_names_narrow_a_claim(self, store: Store) -> None:
        await add(store, job("a", name="x"), job("b", name="y"), job("c", name="z"), job("d", name="y"))

        assert ids(await claim_jobs(store, 5, names=frozenset({"y", "z"}))) == ["b", "c", "d"]
        assert ids(await claim_jobs(store, 5)) == ["a"]

    async def test_names_do_not_change_the_order(self, store: Store) -> None:
        await add(
            store,
            job("a", name="x"),
            job("b", name="y", priority=-1),
            job("c", name="x", lifo=True),
            job("d", name="y", lifo=True),
        )

        assert ids(await claim_jobs(store, 5, names=frozenset({"x", "y"}))) == ["b", "d", "c", "a"]

    async def test_names_that_no_job_has_claim_nothing(self, store: Store) -> None:
        await add(store, job("a", name="x"))

        assert await claim_jobs(store, 5, names=frozenset({"X", "y"})) == []
        assert await claim_jobs(store, 5, names=frozenset()) == []

    async def test_ids_claim_exactly_these(self, store: Store) -> None:
        await add(store, *jobs("abcd"))

        assert ids(await take_by_id(store, ["d", "b", "missing", "b"])) == ["b", "d"]
        assert await take_by_id(store, []) == []
        assert ids(await claim_jobs(store, 9)) == ["a", "c"]

    async def test_ids_are_looked_for_in_the_claims_queue_only(self, store: Store) -> None:
        await add(store, job("a", queue="other"))

        assert await take_by_id(store, "a") == []

    async def test_jobs_that_are_taken_by_their_ids_come_most_urgent_first(self, store: Store) -> None:
        await add(store, job("a"), job("b", lifo=True), job("c", priority=-1), job("d"))

        assert ids(await take_by_id(store, "abcd")) == ["c", "b", "a", "d"]

    @pytest.mark.parametrize("started", [False, True])
    async def test_a_job_that_is_taken_by_its_id_has_a_lease_of_its_own(
        self, store: Store, *, started: bool
    ) -> None:
        await add(store, job("a"))

        claimed = await store.take("q", ["a"], token="t", lease=span(12), started=started, now=at(5))

        (held,) = claimed.jobs
        assert claimed.now == at(5)
        assert (held.token, held.lease_until, held.locked_by) == ("t", at(17), None)
        assert (held.started, held.attempt, held.processed_at) == (started, 1, at(5))
        assert await get(store, "a") == held

    async def test_a_claim_by_ids_takes_delayed_jobs_and_giving_back_undoes_it(self, store: Store) -> None:
        await add(store, job("a", delay=span(60)))
        before = await get(store, "a")

        held = await take_one(store, "a", now=at(1))
        assert held.run_at == before.run_at
        assert (held.state, held.attempt, held.processed_at) == (JobState.ACTIVE, 1, at(1))

        await settle(store, Outcome.given_back(held), now=at(2))
        assert await get(store, "a") == replace(before, processed_at=at(1))

    @needs(Feature.FLOWS)
    async def test_a_claim_by_ids_takes_jobs_that_wait_for_children_and_giving_back_undoes_it(
        self, store: Store
    ) -> None:
        await add(store, child("kid"), job("parent"))
        before = await get(store, "parent")

        held = await take_one(store, "parent", now=at(1))
        assert (held.state, held.pending) == (JobState.ACTIVE, 1)

        await settle(store, Outcome.given_back(held), now=at(2))
        assert await get(store, "parent") == replace(before, processed_at=at(1))

    async def test_a_claim_by_ids_takes_paused_jobs(self, store: Store) -> None:
        await add(store, job("a", name="x"), job("b"))
        await store.pause("q", Pause(name="x"), now=at(0))
        await store.pause("q", Pause(), now=at(0))

        assert ids(await claim_jobs(store, 5)) == []
        assert ids(await take_by_id(store, "ab")) == ["a", "b"]

    @pytest.mark.parametrize(
        "state", [JobState.ACTIVE, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED]
    )
    async def test_a_claim_by_ids_leaves_active_and_finished_jobs_alone(
        self, store: Store, state: JobState
    ) -> None:
        before = await in_state(store, state, job("a"))

        assert await take_by_id(store, "a", now=at(1)) == []
        assert await get(store, "a") == before

    @pytest.mark.parametrize("how", [{}, {"newest_first": True}, {"names": frozenset({"work", "other"})}])
    async def test_jobs_that_have_stalled_come_alone_or_are_left_if_that_is_asked_for(
        self, store: Store, how: dict[str, Any]
    ) -> None:
        await add(store, *jobs("abcdef"))
        await take_by_id(store, "cd")
        await store.advance({"q"}, now=at(30))

        found: list[tuple[str, bool]] = []
        for stalled in (
            Stalled.LEFT,
            Stalled.LEFT,
            Stalled.ALONE,
            Stalled.LEFT,
            Stalled.ALONE,
            Stalled.ALONE,
        ):
            claimed = await store.claim(claim(9, stalled=stalled, **how), now=at(31))
            found.append(("".join(ids(claimed)), claimed.cut_short))

        a, b, c, d, e, f = "fedcba" if "newest_first" in how else "abcdef"
        assert found == [(a + b, True), ("", True), (c, True), ("", True), (d, True), (e + f, False)]

    async def test_jobs_that_have_stalled_come_with_others_if_nothing_else_is_asked_for(
        self, store: Store
    ) -> None:
        await add(store, *jobs("abc"))
        await take_one(store, "b")
        await store.advance({"q"}, now=at(30))

        held = await store.claim(claim(9), now=at(31))
        await settle(store, *map(Outcome.given_back, held.jobs), now=at(31))
        by_ids = await store.take("q", "abc", token="t", lease=LEASE, now=at(31))

        assert ids(held) == ids(by_ids) == ["a", "b", "c"]
        assert not held.cut_short
        assert not by_ids.cut_short
