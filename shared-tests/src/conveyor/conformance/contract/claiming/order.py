"""Claiming: in what order."""

from __future__ import annotations

from datetime import timedelta

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    DONE,
    add,
    at,
    claim_jobs,
    completed,
    ids,
    job,
    jobs,
    retried,
    settle,
    span,
    take_one,
)
from conveyor.core.store import Change, Outcome, Store, Where


@area("claiming")
class ClaimOrder:
    """Priority, age and insertion, whatever became of a job since."""

    async def test_the_lowest_priority_goes_first(self, store: Store) -> None:
        await add(store, job("c", priority=5), job("a", priority=-5), job("b"))

        assert ids(await claim_jobs(store, 5)) == ["a", "b", "c"]

    async def test_within_a_priority_the_first_in_goes_first(self, store: Store) -> None:
        await add(store, job("z"), job("y"))
        await add(store, job("x"))

        assert ids(await claim_jobs(store, 5)) == ["z", "y", "x"]

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

        assert ids(await claim_jobs(store, 9)) == ["urgent", "lifo-2", "lifo-1", "fifo-1", "fifo-2", "late"]

    async def test_newest_first_reverses_all_within_a_priority(self, store: Store) -> None:
        await add(store, job("a"), job("b", lifo=True), job("c"), job("d", priority=1), job("e", priority=-1))

        assert ids(await claim_jobs(store, 9, newest_first=True)) == ["e", "c", "b", "a", "d"]

    async def test_newest_first_and_oldest_first_share_a_queue(self, store: Store) -> None:
        await add(store, *jobs("abcd"))

        assert ids(await claim_jobs(store, newest_first=True)) == ["d"]
        assert ids(await claim_jobs(store)) == ["a"]
        assert ids(await claim_jobs(store, newest_first=True)) == ["c"]
        assert ids(await claim_jobs(store)) == ["b"]

    async def test_with_ageing_a_job_that_waits_gains_on_later_ones(self, store: Store) -> None:
        await add(store, job("patient", priority=3, ageing=span(10)), now=at(0))
        await add(store, job("soon", priority=0, ageing=span(10)), now=at(29))
        await add(store, job("late", priority=0, ageing=span(10)), now=at(31))

        assert ids(await claim_jobs(store, 5, now=at(40))) == ["soon", "patient", "late"]

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

        assert ids(await claim_jobs(store, 5, now=at(200))) == ["old", "new"]

    @pytest.mark.parametrize("lifo", [False, True])
    async def test_a_retried_job_keeps_its_place(self, store: Store, *, lifo: bool) -> None:
        await add(store, *jobs("abc", lifo=lifo))
        order = ["c", "b", "a"] if lifo else ["a", "b", "c"]
        held = await take_one(store, "b")
        await settle(store, retried(held))

        assert ids(await claim_jobs(store, 5)) == order

    async def test_a_job_whose_retry_was_delayed_keeps_its_place(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        held = await take_one(store, "a")
        await settle(store, retried(held, delay=5))
        await store.advance({"q"}, now=at(5))

        assert ids(await claim_jobs(store, 5, now=at(6))) == ["a", "b", "c"]

    async def test_a_promoted_job_keeps_its_place(self, store: Store) -> None:
        await add(store, job("a"), job("b", delay=span(60)), job("c"))
        await store.update(Where(queue="q", ids=frozenset("b")), Change(delay=timedelta(0)), now=at(1))

        assert ids(await claim_jobs(store, 5, now=at(1))) == ["a", "b", "c"]

    async def test_a_due_job_keeps_its_place(self, store: Store) -> None:
        await add(store, job("a"), job("b", delay=span(60)), job("c"))
        await store.advance({"q"}, now=at(60))

        assert ids(await claim_jobs(store, 5, now=at(60))) == ["a", "b", "c"]

    async def test_a_due_lifo_job_keeps_its_place(self, store: Store) -> None:
        await add(store, job("a", lifo=True), job("b", lifo=True, delay=span(60)), job("c", lifo=True))
        await store.advance({"q"}, now=at(60))

        assert ids(await claim_jobs(store, 5, now=at(60))) == ["c", "b", "a"]

    async def test_a_stalled_job_keeps_its_place(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        await take_one(store, "b")
        await store.advance({"q"}, now=at(30))

        assert ids(await claim_jobs(store, 5, now=at(31))) == ["a", "b", "c"]

    async def test_a_finished_job_that_is_retried_keeps_its_place(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        await settle(store, Outcome.failed(await take_one(store, "a"), DONE))
        await store.update(Where(queue="q", ids=frozenset("a")), Change(retry=True), now=at(1))

        assert ids(await claim_jobs(store, 5, now=at(1))) == ["a", "b", "c"]

    async def test_a_job_given_back_keeps_its_place(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        (held, _) = await claim_jobs(store, 2)
        await settle(store, Outcome.given_back(held))

        assert ids(await claim_jobs(store, 5)) == ["a", "c"]
