"""Limits: never more active jobs than they say, and pauses beside them."""

from __future__ import annotations

from typing import Final

import pytest

from conveyor.conformance.contract.limits.jobs import Q, active, fill
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    add,
    at,
    claim_jobs,
    completed,
    get,
    ids,
    job,
    jobs,
    retried,
    settle,
    take_by_id,
    take_one,
)
from conveyor.core.store import (
    Change,
    Feature,
    JobRecord,
    JobState,
    Outcome,
    Pause,
    Stalled,
    Store,
    Where,
)

#: The ways in which a job stops being active.
WAYS_OUT: Final = ["completed", "retried", "given back", "deleted", "stalled"]


async def be_over(store: Store, held: JobRecord, way: str) -> None:
    """Let one active job not be active any more."""
    match way:
        case "completed":
            await settle(store, completed(held), now=at(1))
        case "retried":
            await settle(store, retried(held), now=at(1))
        case "given back":
            await settle(store, Outcome.given_back(held), now=at(1))
        case "deleted":
            await store.delete(Where(ids=frozenset({held.id})), limit=1, now=at(1))
        case _:
            await store.advance({"q"}, limit=1, now=at(60))


@area("limits", Feature.ACTIVE_LIMITS)
class Active:
    """`Limit.active`."""

    async def test_a_claim_returns_no_more_than_the_limit_leaves(self, store: Store) -> None:
        await fill(store)

        assert len(await claim_jobs(store, 9, limit=active(3))) == 3
        assert await claim_jobs(store, 9, limit=active(3)) == []
        assert len(await claim_jobs(store, 9, limit=active(5))) == 2

    async def test_every_active_job_counts_however_it_was_claimed(self, store: Store) -> None:
        await fill(store)
        await take_one(store, "07")
        await claim_jobs(store)
        await claim_jobs(store, names=frozenset({"work"}), worker="another")

        assert len(await claim_jobs(store, 9, limit=active(4))) == 1

    async def test_more_active_jobs_than_a_limit_leave_nothing(self, store: Store) -> None:
        await fill(store)
        await claim_jobs(store, 5)

        assert await claim_jobs(store, 9, limit=active(2)) == []

    async def test_a_claim_without_a_limit_is_not_bound(self, store: Store) -> None:
        await fill(store)
        await claim_jobs(store, 3, limit=active(3))

        assert len(await claim_jobs(store, 4)) == 4

    @pytest.mark.parametrize("way", WAYS_OUT)
    async def test_there_is_room_again_when_a_job_is_not_active_any_more(
        self, store: Store, way: str
    ) -> None:
        await fill(store)
        held, _ = await claim_jobs(store, 2, limit=active(2))
        await be_over(store, held, way)

        assert len(await claim_jobs(store, 9, limit=active(2), now=at(60))) == 1

    async def test_a_lease_that_ran_out_counts_until_it_is_taken_back(self, store: Store) -> None:
        await fill(store)
        await claim_jobs(store, 2, limit=active(2))

        assert await claim_jobs(store, 9, limit=active(2), now=at(1_000)) == []

        await store.advance({"q"}, now=at(1_000))
        assert len(await claim_jobs(store, 9, limit=active(2), now=at(1_000))) == 2

    async def test_a_claim_by_ids_passes_over_the_limit(self, store: Store) -> None:
        await fill(store)
        await claim_jobs(store, 2, limit=active(2))

        found = await take_by_id(store, ["05", "06"])

        assert ids(found) == ["05", "06"]

    async def test_a_queue_has_a_limit_of_its_own(self, store: Store) -> None:
        await fill(store, 3)
        await fill(store, 3, queue="other")
        await claim_jobs(store, 2, limit=active(2))

        assert len(await claim_jobs(store, 9, queue="other", limit=active(2))) == 2

    async def test_jobs_that_are_left_because_one_has_stalled_do_not_count(self, store: Store) -> None:
        await fill(store)
        await take_one(store, "02")
        await store.advance({"q"}, now=at(30))

        found = [
            ids(await claim_jobs(store, 9, stalled=Stalled.ALONE, limit=active(4), now=at(31)))
            for _ in range(4)
        ]

        assert found == [["00", "01"], ["02"], ["03"], []]

    async def test_a_limit_does_not_change_the_order(self, store: Store) -> None:
        await add(store, job("a"), job("b", lifo=True), job("c", priority=-1), job("d"))

        assert ids(await claim_jobs(store, 3, limit=active(3))) == ["c", "b", "a"]

    async def test_a_limit_counts_jobs_of_every_name(self, store: Store) -> None:
        await add(store, job("a", name="x"), job("b", name="y"))
        await claim_jobs(store, names=frozenset({"x"}))

        assert await claim_jobs(store, 9, names=frozenset({"y"}), limit=active(1)) == []

    @needs(Feature.ACTIVE_LIMITS, Feature.GROUPS)
    async def test_a_group_limit_binds_each_group_by_itself(self, store: Store) -> None:
        await add(store, *jobs("abc", group="g"), *jobs("def", group="h"))

        found = ids(await claim_jobs(store, 9, group_limit=active(2)))

        assert found == ["a", "d", "b", "e"]
        assert await claim_jobs(store, 9, group_limit=active(2)) == []

    @needs(Feature.ACTIVE_LIMITS, Feature.GROUPS)
    async def test_jobs_without_a_group_have_no_group_limit(self, store: Store) -> None:
        await add(store, *jobs("abc"), *jobs("de", group="g"))

        assert set(ids(await claim_jobs(store, 9, group_limit=active(1)))) == {"a", "b", "c", "d"}

    @pytest.mark.parametrize("way", WAYS_OUT)
    @needs(Feature.ACTIVE_LIMITS, Feature.GROUPS)
    async def test_a_group_with_room_again_goes_on(self, store: Store, way: str) -> None:
        await add(store, *jobs("abcd", group="g"))
        held, _ = await claim_jobs(store, 9, group_limit=active(2))
        assert await claim_jobs(store, 9, group_limit=active(2)) == []

        await be_over(store, held, way)

        assert len(await claim_jobs(store, 9, group_limit=active(2), now=at(60))) == 1

    @needs(Feature.ACTIVE_LIMITS, Feature.GROUPS)
    async def test_a_saturated_group_does_not_hold_up_the_others(self, store: Store) -> None:
        await add(store, *jobs((f"g{n}" for n in range(50)), group="g", priority=-1), job("h", group="h"))

        assert ids(await claim_jobs(store, 2, group_limit=active(1))) == ["g0", "h"]

    @needs(Feature.ACTIVE_LIMITS, Feature.GROUPS)
    async def test_every_active_job_of_a_group_counts_for_it(self, store: Store) -> None:
        await add(store, *jobs("abcd", group="g"))
        await take_one(store, "d")
        await claim_jobs(store)

        assert ids(await claim_jobs(store, 9, group_limit=active(3))) == ["b"]

    @needs(Feature.ACTIVE_LIMITS, Feature.GROUPS)
    async def test_the_limits_of_the_queue_and_of_its_groups_both_bind(self, store: Store) -> None:
        await add(store, *jobs("abc", group="g"), *jobs("def", group="h"))

        assert ids(await claim_jobs(store, 9, limit=active(3), group_limit=active(2))) == ["a", "d", "b"]

    async def test_a_job_counts_while_it_is_active_and_not_longer(self, store: Store) -> None:
        await fill(store)
        for second in range(10):
            held = await claim_jobs(store, 9, limit=active(2), now=at(second))
            assert len(held) == 2
            await settle(store, *(completed(one) for one in held), now=at(second))


@area("limits", Feature.ACTIVE_LIMITS)
class LimitsAndPauses:
    """Limits beside everything else that narrows a claim."""

    async def test_paused_jobs_use_up_no_limit(self, store: Store) -> None:
        await add(store, job("a", name="x"), job("b"), job("c"))
        await store.pause("q", Pause(name="x"), now=at(0))

        assert ids(await claim_jobs(store, 9, limit=active(2))) == ["b", "c"]

    async def test_jobs_that_a_limit_held_back_keep_their_places(self, store: Store) -> None:
        await fill(store, 6)
        held = await claim_jobs(store, 9, limit=active(2))
        await store.update(Q, Change(priority=1), now=at(1))
        await settle(store, *(completed(one) for one in held), now=at(2))

        assert ids(await claim_jobs(store, 9, limit=active(2))) == ["02", "03"]
        assert (await get(store, "05")).state is JobState.WAITING
