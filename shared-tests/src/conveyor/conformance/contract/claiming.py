"""Claiming: who gets which job, in what order, and what the claim leaves on it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    DONE,
    LEASE,
    add,
    at,
    child,
    claim,
    completed,
    get,
    ids,
    in_state,
    job,
    jobs,
    new_token,
    retried,
    settle,
    span,
    take,
    take_one,
)
from conveyor.core.store import Change, Feature, JobState, Lease, Outcome, Pause, Stalled, Store, Where

NOT_WAITING = [
    JobState.DELAYED,
    JobState.ACTIVE,
    JobState.COMPLETED,
    JobState.FAILED,
    JobState.CANCELLED,
]


@area("claiming")
class Claiming:
    """`Store.claim`, without limits and groups."""

    async def test_a_claimed_job_carries_the_lease(self, store: Store) -> None:
        await add(store, job("a"))
        before = await get(store, "a")
        request = claim(lease=span(12), worker="ada")

        (held,) = (await store.claim(request, now=at(5))).jobs

        assert held == replace(
            before,
            state=JobState.ACTIVE,
            token=request.token,
            lease_until=at(17),
            locked_by="ada",
            attempt=1,
            started=True,
            processed_at=at(5),
        )
        assert held.lease == Lease("q", "a", request.token)
        assert await get(store, "a") == held

    async def test_each_claim_raises_attempt_by_one_and_takes_a_token_of_its_own(self, store: Store) -> None:
        await add(store, job("a"))

        tokens: set[str | None] = set()
        for run in range(1, 4):
            (held,) = await take(store, now=at(run))
            assert (held.attempt, held.processed_at) == (run, at(run))
            tokens.add(held.token)
            await settle(store, retried(held), now=at(run))

        assert len(tokens) == 3

    async def test_fewer_than_asked_or_none_is_not_an_error(self, store: Store) -> None:
        await add(store, job("a"))

        assert ids(await take(store, 5)) == ["a"]
        assert ids(await take(store, 5)) == []
        assert ids(await take(store, 5, queue="never heard of")) == []

    async def test_no_more_than_asked_are_claimed(self, store: Store) -> None:
        await add(store, *jobs("abcde"))

        assert ids(await take(store, 2)) == ["a", "b"]
        assert ids(await take(store, 2)) == ["c", "d"]
        assert ids(await take(store, 2)) == ["e"]

    async def test_a_job_is_claimed_once(self, store: Store) -> None:
        await add(store, job("a"))
        await take(store)

        assert await take(store, now=at(1)) == []

    async def test_queues_are_apart(self, store: Store) -> None:
        await add(store, job("a", queue="one"), job("b", queue="two"))

        assert ids(await take(store, 5, queue="two")) == ["b"]
        assert (await get(store, "a", queue="one")).state is JobState.WAITING

    async def test_claimed_tells_the_stores_time(self, store: Store) -> None:
        assert (await store.claim(claim(), now=at(7))).now == at(7)

        real = (await store.claim(claim())).now

        assert abs(real - datetime.now(UTC)) < timedelta(minutes=10)
        assert real.utcoffset() == timedelta(0)

    @pytest.mark.parametrize("state", NOT_WAITING)
    async def test_only_waiting_jobs_are_claimed(self, store: Store, state: JobState) -> None:
        before = await in_state(store, state, job("a"))

        assert await take(store, 5, now=at(1)) == []
        assert await get(store, "a") == before

    async def test_a_delayed_job_is_not_claimed_before_its_time(self, store: Store) -> None:
        await add(store, job("a", delay=span(10)))

        await store.advance({"q"}, now=at(9.999999))
        assert await take(store, now=at(9.999999)) == []

        await store.advance({"q"}, now=at(10))
        assert ids(await take(store, now=at(10))) == ["a"]

    async def test_what_time_has_done_shows_at_the_next_advance(self, store: Store) -> None:
        await add(store, job("held"), job("due", delay=span(10)))
        await take_one(store, "held")

        assert await take(store, 5, now=at(100)) == []

    # ------------------------------------------------------------------ order

    async def test_the_lowest_priority_goes_first(self, store: Store) -> None:
        await add(store, job("c", priority=5), job("a", priority=-5), job("b"))

        assert ids(await take(store, 5)) == ["a", "b", "c"]

    async def test_within_a_priority_the_first_in_goes_first(self, store: Store) -> None:
        await add(store, job("z"), job("y"))
        await add(store, job("x"))

        assert ids(await take(store, 5)) == ["z", "y", "x"]

    async def test_lifo_jobs_go_ahead_of_their_priority_newest_first(self, store: Store) -> None:
        await add(
            store,
            job("fifo-1"),
            job("lifo-1", lifo=True),
            job("fifo-2"),
            job("lifo-2", lifo=True),
            job("urgent", priority=-1),
            job("late", priority=1, lifo=True),
        )

        assert ids(await take(store, 9)) == ["urgent", "lifo-2", "lifo-1", "fifo-1", "fifo-2", "late"]

    async def test_newest_first_reverses_all_within_a_priority(self, store: Store) -> None:
        await add(store, job("a"), job("b", lifo=True), job("c"), job("d", priority=1), job("e", priority=-1))

        assert ids(await take(store, 9, newest_first=True)) == ["e", "c", "b", "a", "d"]

    async def test_newest_first_and_oldest_first_share_a_queue(self, store: Store) -> None:
        await add(store, *jobs("abcd"))

        assert ids(await take(store, newest_first=True)) == ["d"]
        assert ids(await take(store)) == ["a"]
        assert ids(await take(store, newest_first=True)) == ["c"]
        assert ids(await take(store)) == ["b"]

    async def test_with_ageing_a_job_that_waits_gains_on_later_ones(self, store: Store) -> None:
        await add(store, job("patient", priority=3, ageing=span(10)), now=at(0))
        await add(store, job("soon", priority=0, ageing=span(10)), now=at(29))
        await add(store, job("late", priority=0, ageing=span(10)), now=at(31))

        assert ids(await take(store, 5, now=at(40))) == ["soon", "patient", "late"]

    @pytest.mark.parametrize("way", ["retried", "given back", "stalled", "retried by hand"])
    async def test_with_ageing_a_job_that_waits_again_keeps_its_age(self, store: Store, way: str) -> None:
        await add(store, job("old", priority=1, ageing=span(10)), now=at(0))
        await add(store, job("new", priority=0, ageing=span(10)), now=at(30))
        held = await take_one(store, "old", now=at(60))
        match way:
            case "retried":
                await settle(store, retried(held), now=at(61))
            case "given back":
                await settle(store, Outcome.given_back(held), now=at(61))
            case "stalled":
                await store.advance({"q"}, now=at(200))
            case _:
                await settle(store, completed(held), now=at(61))
                await store.update(Where(queue="q"), Change(retry=True), now=at(62))

        assert ids(await take(store, 5, now=at(200))) == ["old", "new"]

    @pytest.mark.parametrize("lifo", [False, True])
    async def test_a_retried_job_keeps_its_place(self, store: Store, *, lifo: bool) -> None:
        await add(store, *jobs("abc", lifo=lifo))
        order = ["c", "b", "a"] if lifo else ["a", "b", "c"]
        held = await take_one(store, "b")
        await settle(store, retried(held))

        assert ids(await take(store, 5)) == order

    async def test_a_job_whose_retry_was_delayed_keeps_its_place(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        held = await take_one(store, "a")
        await settle(store, retried(held, delay=5))
        await store.advance({"q"}, now=at(5))

        assert ids(await take(store, 5, now=at(6))) == ["a", "b", "c"]

    async def test_a_promoted_job_keeps_its_place(self, store: Store) -> None:
        await add(store, job("a"), job("b", delay=span(60)), job("c"))
        await store.update(Where(queue="q", ids=frozenset("b")), Change(delay=timedelta(0)), now=at(1))

        assert ids(await take(store, 5, now=at(1))) == ["a", "b", "c"]

    async def test_a_due_job_keeps_its_place(self, store: Store) -> None:
        await add(store, job("a"), job("b", delay=span(60)), job("c"))
        await store.advance({"q"}, now=at(60))

        assert ids(await take(store, 5, now=at(60))) == ["a", "b", "c"]

    async def test_a_due_lifo_job_keeps_its_place(self, store: Store) -> None:
        await add(store, job("a", lifo=True), job("b", lifo=True, delay=span(60)), job("c", lifo=True))
        await store.advance({"q"}, now=at(60))

        assert ids(await take(store, 5, now=at(60))) == ["c", "b", "a"]

    async def test_a_stalled_job_keeps_its_place(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        await take_one(store, "b")
        await store.advance({"q"}, now=at(30))

        assert ids(await take(store, 5, now=at(31))) == ["a", "b", "c"]

    async def test_a_finished_job_that_is_retried_keeps_its_place(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        await settle(store, Outcome.failed(await take_one(store, "a"), DONE))
        await store.update(Where(queue="q", ids=frozenset("a")), Change(retry=True), now=at(1))

        assert ids(await take(store, 5, now=at(1))) == ["a", "b", "c"]

    async def test_a_job_given_back_keeps_its_place(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        (held, _) = await take(store, 2)
        await settle(store, Outcome.given_back(held))

        assert ids(await take(store, 5)) == ["a", "c"]

    # ----------------------------------------------------------- names and ids

    async def test_names_narrow_a_claim(self, store: Store) -> None:
        await add(store, job("a", name="x"), job("b", name="y"), job("c", name="z"), job("d", name="y"))

        assert ids(await take(store, 5, names=frozenset({"y", "z"}))) == ["b", "c", "d"]
        assert ids(await take(store, 5)) == ["a"]

    async def test_names_do_not_change_the_order(self, store: Store) -> None:
        await add(
            store,
            job("a", name="x"),
            job("b", name="y", priority=-1),
            job("c", name="x", lifo=True),
            job("d", name="y", lifo=True),
        )

        assert ids(await take(store, 5, names=frozenset({"x", "y"}))) == ["b", "d", "c", "a"]

    async def test_names_that_no_job_has_claim_nothing(self, store: Store) -> None:
        await add(store, job("a", name="x"))

        assert await take(store, 5, names=frozenset({"X", "y"})) == []
        assert await take(store, 5, names=frozenset()) == []

    async def test_ids_claim_exactly_these(self, store: Store) -> None:
        await add(store, *jobs("abcd"))

        assert ids(await take(store, 9, ids=frozenset({"d", "b", "missing"}))) == ["b", "d"]
        assert await take(store, 9, ids=frozenset()) == []
        assert ids(await take(store, 9)) == ["a", "c"]

    async def test_ids_are_looked_for_in_the_claims_queue_only(self, store: Store) -> None:
        await add(store, job("a", queue="other"))

        assert await take(store, 5, ids=frozenset("a")) == []

    async def test_ids_claim_no_more_than_asked_most_urgent_first(self, store: Store) -> None:
        await add(store, job("a"), job("b", lifo=True), job("c", priority=-1), job("d"))

        assert ids(await take(store, 3, ids=frozenset("abd"))) == ["b", "a", "d"]

        await add(store, job("e"), job("f", priority=-1))
        assert ids(await take(store, 2, ids=frozenset("cef"))) == ["c", "f"]

    async def test_a_claim_by_ids_does_not_look_at_names(self, store: Store) -> None:
        await add(store, job("a", name="x"))

        assert ids(await take(store, ids=frozenset("a"), names=frozenset({"y"}))) == ["a"]

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

        assert ids(await take(store, 5)) == []
        assert ids(await take(store, 5, ids=frozenset("ab"))) == ["a", "b"]

    @pytest.mark.parametrize(
        "state", [JobState.ACTIVE, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED]
    )
    async def test_a_claim_by_ids_leaves_active_and_finished_jobs_alone(
        self, store: Store, state: JobState
    ) -> None:
        before = await in_state(store, state, job("a"))

        assert await take(store, ids=frozenset("a"), now=at(1)) == []
        assert await get(store, "a") == before

    # -------------------------------------------------- jobs that have stalled

    @pytest.mark.parametrize("how", [{}, {"newest_first": True}, {"names": frozenset({"work", "other"})}])
    async def test_jobs_that_have_stalled_come_alone_or_are_left_if_that_is_asked_for(
        self, store: Store, how: dict[str, Any]
    ) -> None:
        await add(store, *jobs("abcdef"))
        await take(store, 9, ids=frozenset("cd"))
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
        by_ids = await store.claim(claim(9, ids=frozenset("abc"), stalled=Stalled.LEFT), now=at(31))

        assert ids(held) == ids(by_ids) == ["a", "b", "c"]
        assert not held.cut_short
        assert not by_ids.cut_short

    # -------------------------------------------------------------------- wait

    async def test_a_claim_waits_for_nothing_with_nothing_in_sight(self, store: Store) -> None:
        await add(store, job("a"))
        await take(store)

        assert (await store.claim(claim(), now=at(1))).wait is None

    async def test_a_claim_by_ids_waits_for_nothing(self, store: Store) -> None:
        await add(store, job("a"), job("b", delay=span(60)))
        await store.pause("q", Pause(name="x"), for_=span(30), now=at(0))

        # Whatever passes with time (due times, pauses, limits) it does not look at.
        assert (await store.claim(claim(5, ids=frozenset("a")), now=at(1))).wait is None
        assert (await store.claim(claim(5, ids=frozenset()), now=at(2))).wait is None

    async def test_wait_is_none_when_as_many_as_asked_were_returned(self, store: Store) -> None:
        await add(store, job("a"), job("b", delay=span(60)))

        assert (await store.claim(claim(1), now=at(1))).wait is None

    async def test_wait_is_no_longer_than_it_takes_until_the_next_is_due(self, store: Store) -> None:
        await add(store, job("a", delay=span(60)), job("b", delay=span(20)), job("c"))

        claimed = await store.claim(claim(5), now=at(5))

        assert ids(claimed) == ["c"]
        assert claimed.wait is not None
        assert timedelta(0) <= claimed.wait <= span(15)

    async def test_wait_is_no_longer_than_zero_for_a_job_that_is_overdue(self, store: Store) -> None:
        await add(store, job("a", delay=span(5)))

        assert (await store.claim(claim(), now=at(9))).wait == timedelta(0)

    # ----------------------------------------------------------------- fencing

    async def test_the_token_of_a_claim_is_what_the_caller_made_for_it(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        first, second = new_token(), new_token()

        one = await take(store, 2, token=first)
        two = await take(store, 2, token=second)

        assert [(held.id, held.token) for held in [*one, *two]] == [("a", first), ("b", first), ("c", second)]

    async def test_one_worker_may_hold_several_jobs_by_different_claims(self, store: Store) -> None:
        await add(store, job("a"), job("b"))
        (a,) = await take(store, worker="same")
        (b,) = await take(store, worker="same")

        renewed = await store.renew([], LEASE, now=at(1))
        await settle(store, Outcome.completed(a, DONE), now=at(1))

        assert renewed.held == frozenset()
        assert await get(store, "b") == b
