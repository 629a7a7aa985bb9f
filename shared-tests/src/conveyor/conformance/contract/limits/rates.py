"""Limits: never more starts in a window than they say."""

from __future__ import annotations

from datetime import timedelta

import pytest

from conveyor.conformance.contract.limits.jobs import fill, rate
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    AT_ONCE,
    TICK,
    add,
    at,
    claim,
    claim_jobs,
    completed,
    ids,
    job,
    jobs,
    retried,
    settle,
    span,
    take_by_id,
    take_one,
)
from conveyor.core.store import (
    Feature,
    Limit,
    Outcome,
    Rate,
    Stalled,
    Store,
    Where,
)


@area("limits", Feature.RATE_LIMITS)
class Rates:
    """`Limit.rate`."""

    async def test_no_more_start_in_a_window_than_the_rate_says(self, store: Store) -> None:
        await fill(store)

        assert len(await claim_jobs(store, 9, limit=rate(3, 10))) == 3
        assert await claim_jobs(store, 9, limit=rate(3, 10), now=at(5)) == []

    async def test_a_start_counts_up_to_and_not_including_the_end_of_its_window(self, store: Store) -> None:
        await fill(store)
        await claim_jobs(store, 9, limit=rate(3, 10), now=at(5))

        assert await claim_jobs(store, 9, limit=rate(3, 10), now=at(15) - TICK) == []
        assert len(await claim_jobs(store, 9, limit=rate(3, 10), now=at(15))) == 3

    async def test_the_window_slides(self, store: Store) -> None:
        """A start is out of a rate's window exactly one period after it, and makes way for another."""
        await fill(store)
        started = []
        for second in range(24):
            found = await claim_jobs(store, 1, limit=rate(3, 10), now=at(second))
            started += [second for _ in found]

        assert started == [0, 1, 2, 10, 11, 12, 20, 21, 22]

    async def test_no_window_however_placed_has_more_starts_than_the_rate_says(self, store: Store) -> None:
        await fill(store, 60)
        starts: list[float] = []
        for tenth in range(0, 120, 3):
            found = await claim_jobs(store, 2, limit=rate(4, 2.5), now=at(tenth / 10))
            starts += [tenth / 10] * len(found)

        assert len(starts) > 12
        for first in starts:
            assert sum(first <= start < first + 2.5 for start in starts) <= 4

    async def test_every_job_that_a_claim_returns_is_a_start_a_re_claim_included(self, store: Store) -> None:
        await add(store, job("a"))
        for second in range(3):
            (held,) = await claim_jobs(store, limit=rate(3, 60), now=at(second))
            await settle(store, Outcome.given_back(held), now=at(second))

        assert await claim_jobs(store, limit=rate(3, 60), now=at(4)) == []

    async def test_jobs_that_are_left_because_one_has_stalled_are_no_start(self, store: Store) -> None:
        await fill(store)
        await take_one(store, "02")
        await store.advance({"q"}, now=at(30))

        found = [
            ids(await claim_jobs(store, 9, stalled=Stalled.ALONE, limit=rate(4, 60), now=at(31)))
            for _ in range(4)
        ]

        assert found == [["00", "01"], ["02"], ["03"], []]

    async def test_a_claim_that_finds_no_job_is_no_start(self, store: Store) -> None:
        for second in range(5):
            assert await claim_jobs(store, 9, limit=rate(1, 60), now=at(second)) == []
        await fill(store)

        assert len(await claim_jobs(store, 9, limit=rate(1, 60), now=at(6))) == 1

    async def test_claims_without_a_rate_start_nothing(self, store: Store) -> None:
        await fill(store)
        await claim_jobs(store, 5, now=at(0))

        assert len(await claim_jobs(store, 9, limit=rate(3, 60), now=at(1))) == 3

    async def test_a_claim_by_ids_is_not_bound_and_starts_nothing(self, store: Store) -> None:
        await fill(store)
        await claim_jobs(store, 9, limit=rate(2, 60), now=at(0))
        bound = rate(3, 60)

        assert len(await take_by_id(store, ["08", "09"], now=at(1))) == 2
        assert len(await claim_jobs(store, 9, limit=bound, now=at(2))) == 1

    @pytest.mark.parametrize("way", ["completed", "removed", "deleted", "retried"])
    async def test_a_start_counts_whatever_became_of_the_job(self, store: Store, way: str) -> None:
        await fill(store)
        (held,) = await claim_jobs(store, 9, limit=rate(1, 60), now=at(0))
        match way:
            case "completed":
                await settle(store, completed(held), now=at(1))
            case "removed":
                await settle(store, completed(held, retention=AT_ONCE), now=at(1))
            case "deleted":
                await store.delete(Where(ids=frozenset({held.id})), limit=1, now=at(1))
            case _:
                await settle(store, retried(held), now=at(1))

        assert await claim_jobs(store, 9, limit=rate(1, 60), now=at(59)) == []

    async def test_a_start_counts_for_every_rate_whatever_its_numbers(self, store: Store) -> None:
        await fill(store)
        await claim_jobs(store, 2, limit=rate(5, 60), now=at(0))
        await claim_jobs(store, 2, limit=rate(10, 10), now=at(1))

        assert len(await claim_jobs(store, 9, limit=rate(5, 30), now=at(2))) == 1
        assert await claim_jobs(store, 9, limit=rate(5, 3), now=at(2)) == []
        assert len(await claim_jobs(store, 9, limit=rate(5, 1), now=at(2))) == 4

    async def test_a_short_window_does_not_make_a_long_one_forget(self, store: Store) -> None:
        await fill(store)
        await claim_jobs(store, 4, limit=rate(4, 60), now=at(0))

        assert len(await claim_jobs(store, 1, limit=rate(2, 1), now=at(20))) == 1
        assert len(await claim_jobs(store, 1, limit=rate(2, 1), now=at(40))) == 1

        assert await claim_jobs(store, 9, limit=rate(4, 60), now=at(60) - TICK) == []
        assert len(await claim_jobs(store, 9, limit=rate(4, 60), now=at(60))) == 2

    async def test_two_rates_used_in_turn_are_both_exact(self, store: Store) -> None:
        await fill(store, 90)
        starts: list[int] = []
        for second in range(60):
            for most, per in ((6, 20), (2, 3)):
                room = most - sum(second - per < start <= second for start in starts)

                found = await claim_jobs(store, 5, limit=rate(most, per), now=at(second))

                assert len(found) == max(0, min(5, room))
                starts += [second] * len(found)

    async def test_an_advance_forgets_no_start_that_counts(self, store: Store) -> None:
        await fill(store)
        await claim_jobs(store, 2, limit=rate(2, 60), now=at(0))

        for second in (1, 30, 59):
            await store.advance({"q"}, now=at(second))
            assert await claim_jobs(store, 9, limit=rate(2, 60), now=at(second)) == []

    async def test_a_queue_has_a_rate_of_its_own(self, store: Store) -> None:
        await fill(store, 3)
        await fill(store, 3, queue="other")
        await claim_jobs(store, 2, limit=rate(2, 60))

        assert len(await claim_jobs(store, 9, queue="other", limit=rate(2, 60))) == 2

    async def test_a_forgotten_queue_has_had_no_starts(self, store: Store) -> None:
        await fill(store)
        await claim_jobs(store, 2, limit=rate(2, 60))
        await store.forget("q", now=at(1))
        await fill(store)

        assert len(await claim_jobs(store, 9, limit=rate(2, 60), now=at(2))) == 2

    async def test_wait_is_no_longer_than_until_the_window_lets_another_start(self, store: Store) -> None:
        await fill(store)
        await claim_jobs(store, 1, limit=rate(2, 10), now=at(0))
        await claim_jobs(store, 1, limit=rate(2, 10), now=at(3))

        claimed = await store.claim(claim(5, limit=rate(2, 10)), now=at(4))

        assert ids(claimed) == []
        assert claimed.wait is not None
        assert timedelta(0) < claimed.wait <= span(6)

    async def test_wait_is_given_when_the_rate_cut_the_claim_short(self, store: Store) -> None:
        await fill(store)

        claimed = await store.claim(claim(5, limit=rate(2, 10)), now=at(4))

        assert len(claimed.jobs) == 2
        assert claimed.wait is not None
        assert timedelta(0) < claimed.wait <= span(10)

    @needs(Feature.RATE_LIMITS, Feature.ACTIVE_LIMITS)
    async def test_a_rate_and_a_number_of_active_jobs_both_bind(self, store: Store) -> None:
        await fill(store)
        both = Limit(active=2, rate=Rate(max=3, per=span(10)))

        first = await claim_jobs(store, 9, limit=both, now=at(0))
        await settle(store, *(completed(one) for one in first), now=at(1))
        second = await claim_jobs(store, 9, limit=both, now=at(1))

        assert (len(first), len(second)) == (2, 1)

    # ------------------------------------------------------------------ groups

    @needs(Feature.RATE_LIMITS, Feature.GROUPS)
    async def test_a_group_rate_binds_each_group_by_itself(self, store: Store) -> None:
        await add(store, *jobs("abc", group="g"), *jobs("def", group="h"), *jobs("xyz"))

        found = await claim_jobs(store, 9, group_limit=rate(1, 10), now=at(0))
        assert set(ids(found)) == {"a", "d", "x", "y", "z"}

        assert await claim_jobs(store, 9, group_limit=rate(1, 10), now=at(10) - TICK) == []
        assert ids(await claim_jobs(store, 9, group_limit=rate(1, 10), now=at(10))) == ["b", "e"]

    @needs(Feature.RATE_LIMITS, Feature.GROUPS)
    async def test_the_starts_of_the_queue_and_of_its_groups_are_counted_apart(self, store: Store) -> None:
        await add(store, *jobs("abcdef", group="g"))
        await claim_jobs(store, 2, limit=rate(9, 60), now=at(0))
        assert len(await claim_jobs(store, 9, group_limit=rate(2, 60), now=at(1))) == 2

        assert len(await claim_jobs(store, 9, limit=rate(3, 60), now=at(2))) == 1

    @needs(Feature.RATE_LIMITS, Feature.GROUPS)
    async def test_wait_is_no_longer_than_until_a_group_may_start_again(self, store: Store) -> None:
        await add(store, *jobs("ab", group="g"))
        await claim_jobs(store, 9, group_limit=rate(1, 10), now=at(0))

        claimed = await store.claim(claim(5, group_limit=rate(1, 10)), now=at(4))

        assert claimed.wait is not None
        assert timedelta(0) < claimed.wait <= span(6)

    @needs(Feature.RATE_LIMITS, Feature.GROUPS)
    async def test_a_short_group_window_does_not_make_a_long_one_forget(self, store: Store) -> None:
        await add(store, *jobs("abcdef", group="g"))
        await claim_jobs(store, 2, group_limit=rate(2, 60), now=at(0))
        await claim_jobs(store, 1, group_limit=rate(1, 1), now=at(30))

        assert await claim_jobs(store, 9, group_limit=rate(3, 60), now=at(59)) == []
        assert len(await claim_jobs(store, 9, group_limit=rate(3, 60), now=at(60))) == 2

    @needs(Feature.RATE_LIMITS, Feature.GROUPS)
    async def test_the_rate_of_a_group_outlives_its_last_job(self, store: Store) -> None:
        await add(store, job("a", group="g"))
        (held,) = await claim_jobs(store, group_limit=rate(1, 60), now=at(0))
        await settle(store, completed(held, retention=AT_ONCE), now=at(1))
        await store.advance({"q"}, now=at(2))
        await add(store, job("b", group="g"), now=at(3))

        assert await claim_jobs(store, group_limit=rate(1, 60), now=at(4)) == []
