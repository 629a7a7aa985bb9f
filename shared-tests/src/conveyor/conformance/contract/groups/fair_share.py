"""Groups: taking turns, and being forgotten when they are idle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conveyor.conformance.contract.groups.members import Q, member, members, run, run_all
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    add,
    at,
    claim_jobs,
    ids,
    retried,
    settle,
    span,
    take_one,
)
from conveyor.core.store import Feature, Outcome, Pause, Stalled, Store


@area("groups", Feature.GROUPS)
class FairShare:
    """Who goes next."""

    async def test_groups_take_turns(self, store: Store) -> None:
        """Of groups with waiting jobs, the one that was served longest ago gives the next job."""
        await add(store, *members("g1", "g2", "g3", "h1", "h2", "i1"))

        assert await run_all(store) == ["g1", "h1", "i1", "g2", "h2", "g3"]

    async def test_one_claim_of_many_jobs_takes_turns_as_many_claims_do(self, store: Store) -> None:
        await add(store, *members("g1", "g2", "g3", "h1", "h2", "i1"))

        assert ids(await claim_jobs(store, 4)) == ["g1", "h1", "i1", "g2"]
        assert ids(await claim_jobs(store, 9)) == ["h2", "g3"]

    async def test_jobs_without_a_group_take_turns_as_one_more_group(self, store: Store) -> None:
        await add(store, *members("-1", "-2", "-3", "g1", "g2", "h1"))

        assert await run_all(store) == ["-1", "g1", "h1", "-2", "g2", "-3"]

    async def test_without_any_group_jobs_go_in_order(self, store: Store) -> None:
        await add(store, *members("-1", "-2", "-3"))

        assert await run_all(store) == ["-1", "-2", "-3"]

    async def test_the_lowest_sort_key_goes_before_any_turn(self, store: Store) -> None:
        await add(
            store, *members("g1", "h1", "h2"), *members("g2", "g3", priority=-1), *members("i1", priority=1)
        )

        assert await run_all(store) == ["g2", "g3", "h1", "g1", "h2", "i1"]

    async def test_a_group_that_comes_later_goes_before_those_served(self, store: Store) -> None:
        await add(store, *members("g1", "g2", "g3", "h1", "h2"))
        assert [await run(store), await run(store)] == ["g1", "h1"]

        await add(store, *members("i1", "i2"))

        assert await run_all(store) == ["i1", "g2", "h2", "i2", "g3"]

    async def test_of_groups_never_served_the_one_with_the_more_urgent_job_goes_first(
        self, store: Store
    ) -> None:
        await add(store, *members("g1", "h1"), *members("i1", lifo=True), *members("j1", lifo=True))

        assert await run_all(store) == ["j1", "i1", "g1", "h1"]

    async def test_within_a_group_the_order_is_that_of_any_queue(self, store: Store) -> None:
        await add(
            store,
            *members("g1", "g2"),
            *members("g3", lifo=True),
            *members("g4", priority=1),
            *members("g5", priority=-1),
        )

        assert await run_all(store) == ["g5", "g3", "g1", "g2", "g4"]

    async def test_newest_first_takes_turns_too(self, store: Store) -> None:
        await add(store, *members("g1", "g2", "g3", "h1", "h2"))

        assert await run_all(store, newest_first=True) == ["h2", "g3", "h1", "g2", "g1"]

    async def test_jobs_that_are_left_because_one_has_stalled_take_no_turn(self, store: Store) -> None:
        await add(store, *members("g1", "g2", "h1", "h2", "-1"))
        await take_one(store, "h1")
        await store.advance({"q"}, now=at(30))

        found = [ids(await claim_jobs(store, 9, stalled=Stalled.ALONE, now=at(31))) for _ in range(3)]

        assert found == [["g1"], ["h1"], ["-1", "g2", "h2"]]

    async def test_turns_are_remembered_from_claim_to_claim(self, store: Store) -> None:
        await add(store, *members("g1", "h1"))
        assert [await run(store), await run(store)] == ["g1", "h1"]

        await add(store, *members("h2", "g2"))

        assert await run_all(store) == ["g2", "h2"]

    async def test_the_turns_of_jobs_without_a_group_are_remembered_too(self, store: Store) -> None:
        await add(store, *members("g1", "-1"))
        assert [await run(store), await run(store)] == ["g1", "-1"]

        await add(store, *members("-2", "g2", "h1"))

        assert await run_all(store) == ["h1", "g2", "-2"]

    async def test_turns_are_remembered_from_the_first_job_with_a_group_on(self, store: Store) -> None:
        await add(store, *members("-1"))
        assert await run(store) == "-1"

        await add(store, *members("-2", "g1"))

        assert await run_all(store) == ["-2", "g1"]

    async def test_a_claim_by_ids_takes_no_turn(self, store: Store) -> None:
        await add(store, *members("g1", "g2", "h1", "h2"))
        await take_one(store, "g1")

        assert await run_all(store) == ["g2", "h1", "h2"]

    async def test_a_turn_is_taken_whatever_becomes_of_the_job(self, store: Store) -> None:
        await add(store, *members("g1", "g2", "h1"))
        (held,) = await claim_jobs(store)
        await settle(store, Outcome.given_back(held))

        assert await run_all(store) == ["h1", "g1", "g2"]

    async def test_names_narrow_the_turns(self, store: Store) -> None:
        await add(
            store,
            member("g1", name="x"),
            member("g2", name="y"),
            member("h1", name="y"),
            member("i1", name="x"),
        )

        assert await run_all(store, names=frozenset({"y"})) == ["g2", "h1"]
        assert await run_all(store) == ["i1", "g1"]

    async def test_a_paused_group_misses_its_turns(self, store: Store) -> None:
        await add(store, *members("g1", "g2", "h1", "h2", "h3"))
        await store.pause("q", Pause(group="g"), now=at(0))
        assert [await run(store), await run(store)] == ["h1", "h2"]

        await store.resume("q", Pause(group="g"), now=at(1))

        assert await run_all(store) == ["g1", "h3", "g2"]

    async def test_each_queue_has_turns_of_its_own(self, store: Store) -> None:
        await add(
            store, *members("g1", "g2", "h1"), *(replace(m, queue="other") for m in members("g1", "h1"))
        )
        assert await run(store) == "g1"

        assert await run(store, queue="other") == "g1"
        assert await run(store) == "h1"

    async def test_a_retried_job_goes_back_to_its_place_in_its_group(self, store: Store) -> None:
        await add(store, *members("g1", "g2", "h1"))
        (held,) = await claim_jobs(store)
        await settle(store, retried(held))

        assert await run_all(store) == ["h1", "g1", "g2"]

    async def test_a_small_group_is_served_within_two_rounds_of_a_large_one(self, store: Store) -> None:
        await add(store, *members(*(f"g{n}" for n in range(500))))
        await claim_jobs(store, 100)
        await add(store, *members("h1"))

        assert "h1" in ids(await claim_jobs(store, 2))

    # ----------------------------------------------------------- forgetting

    async def test_an_idle_group_that_was_served_before_the_others_is_forgotten(self, store: Store) -> None:
        await add(store, *members("g1", "h1", "h2"))
        assert [await run(store), await run(store)] == ["g1", "h1"]
        await store.advance({"q"}, now=at(1))

        await add(store, *members("g2", "i1"))

        assert await run_all(store) == ["g2", "i1", "h2"]

    async def test_without_an_advance_nothing_is_forgotten(self, store: Store) -> None:
        await add(store, *members("g1", "h1", "h2"))
        assert [await run(store), await run(store)] == ["g1", "h1"]

        await add(store, *members("g2", "i1"))

        assert await run_all(store) == ["i1", "g2", "h2"]

    async def test_an_idle_group_served_after_one_that_waits_is_not_forgotten(self, store: Store) -> None:
        await add(store, *members("h1", "h2", "g1"))
        assert [await run(store), await run(store)] == ["h1", "g1"]
        await store.advance({"q"}, now=at(1))

        await add(store, *members("g2"))

        assert await run_all(store) == ["h2", "g2"]

    async def test_jobs_without_a_group_that_wait_count_for_forgetting(self, store: Store) -> None:
        await add(store, *members("-1", "-2", "g1"))
        assert [await run(store), await run(store)] == ["-1", "g1"]
        await store.advance({"q"}, now=at(1))

        await add(store, *members("g2", "i1"))

        assert await run_all(store) == ["i1", "-2", "g2"]

    @pytest.mark.parametrize("state", ["waiting", "delayed", "active"])
    async def test_a_group_that_has_a_job_to_come_is_not_forgotten(self, store: Store, state: str) -> None:
        await add(store, *members("g1", "h1", "h2"))
        assert [await run(store), await run(store)] == ["g1", "h1"]
        await add(store, member("g2", delay=span(60) if state == "delayed" else None))
        if state == "active":
            await take_one(store, "g2")
        await store.advance({"q"}, now=at(1))
        await store.delete(replace(Q, ids=frozenset({"g2"})), limit=1, now=at(2))

        await add(store, *members("g3", "i1"), now=at(3))

        assert await run_all(store, 3) == ["i1", "g3", "h2"]

    async def test_when_nothing_waits_every_idle_group_is_forgotten(self, store: Store) -> None:
        await add(store, *members("g1", "h1"))
        assert await run_all(store) == ["g1", "h1"]
        await store.advance({"q"}, now=at(1))

        await add(store, *members("h2", "g2"))

        assert await run_all(store) == ["h2", "g2"]

    async def test_only_the_advanced_queues_forget(self, store: Store) -> None:
        await add(store, *members("g1", "h1"))
        assert await run_all(store) == ["g1", "h1"]
        await store.advance({"other"}, now=at(1))

        await add(store, *members("h2", "g2"))

        assert await run_all(store) == ["g2", "h2"]

    async def test_a_queue_that_knows_no_group_any_more_begins_anew(self, store: Store) -> None:
        await add(store, *members("g1", "-1"))
        assert await run_all(store) == ["g1", "-1"]
        await store.advance({"q"}, now=at(1))

        await add(store, *members("-2", "g2"))

        assert await run_all(store) == ["-2", "g2"]

    async def test_a_forgotten_queue_has_no_turns(self, store: Store) -> None:
        await add(store, *members("g1", "h1", "h2"))
        assert await run(store) == "g1"
        await store.forget("q", now=at(1))

        await add(store, *members("g2", "h3"))

        assert await run_all(store) == ["g2", "h3"]
