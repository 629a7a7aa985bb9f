"""Sets: removing them."""

from __future__ import annotations

from dataclasses import replace

from conveyor.conformance.contract.sets.jobs import Q, delete_all, finish, one_in_each_state
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    DONE,
    START,
    WRONG,
    add,
    at,
    claim_jobs,
    everything,
    ids,
    job,
    jobs,
    look,
    span,
    states,
)
from conveyor.core.store import (
    JobKey,
    JobState,
    Outcome,
    Retention,
    Store,
    Where,
)


@area("sets")
class Removing:
    """`Store.delete`, without parents, and `Store.forget`."""

    async def test_jobs_are_removed_in_whatever_state(self, store: Store) -> None:
        there = await one_in_each_state(store)

        assert await delete_all(store) == [found.key for found in there.values()]

        assert await everything(store) == []
        assert await store.count(Where(), now=START) == {}

    async def test_no_more_than_limit_are_removed_the_longest_there_first(self, store: Store) -> None:
        await add(store, job("a", priority=9), *jobs("bcd"))

        assert ids(await delete_all(store, limit=2)) == ["a", "b"]
        assert ids(await everything(store)) == ["c", "d"]
        assert ids(await delete_all(store, limit=5)) == ["c", "d"]
        assert await delete_all(store, limit=5) == []

    async def test_what_was_removed_is_reported_in_the_order_in_which_it_was_added(
        self, store: Store
    ) -> None:
        await add(store, job("d", queue="other"), job("c", priority=9), job("a"), job("b", delay=span(60)))
        await add(store, job("d"))
        await finish(store, "d", at_second=1)
        some = Where(ids=frozenset("abcd"), names=frozenset({"work"}))

        removed = await delete_all(store, some)

        assert removed == [JobKey("other", "d"), *(JobKey("q", id) for id in "cabd")]

    async def test_only_the_set_is_removed(self, store: Store) -> None:
        await one_in_each_state(store)
        await add(store, job("failed", queue="other"))

        where = replace(Q, states=frozenset({JobState.FAILED, JobState.DELAYED}))
        assert set(ids(await delete_all(store, where))) == {"failed", "delayed"}

        assert set(await states(store)) == {"waiting", "active", "completed", "cancelled"}
        assert await look(store, "failed", queue="other") is not None

    async def test_a_removed_job_is_not_claimed(self, store: Store) -> None:
        await add(store, *jobs("abc"), job("d", delay=span(5)))
        await delete_all(store, replace(Q, ids=frozenset("ad")))
        await store.advance({"q"}, now=at(9))

        assert ids(await claim_jobs(store, 9, now=at(9))) == ["b", "c"]

    async def test_expired_jobs_are_removed_as_found(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        for second, name in enumerate("abc"):
            await finish(store, name, at_second=second, retention=Retention(count=1))

        assert ids(await delete_all(store, replace(Q, expired=True), at_second=9)) == ["a", "b"]
        assert ids(await everything(store)) == ["c"]
        assert await delete_all(store, replace(Q, expired=True), at_second=9) == []

    async def test_forgetting_a_queue_removes_every_job_of_it(self, store: Store) -> None:
        await one_in_each_state(store)
        await add(store, job("a", queue="other"))

        assert list(await store.forget("q", now=at(1))) == []

        assert await everything(store) == []
        assert ids(await everything(store, "other")) == ["a"]

    async def test_forgetting_a_queue_that_is_not_known_does_nothing(self, store: Store) -> None:
        assert list(await store.forget("never heard of", now=at(1))) == []

    async def test_a_forgotten_queue_begins_anew(self, store: Store) -> None:
        await add(store, job("a", name="x"))
        (held,) = await claim_jobs(store)
        await store.forget("q", now=at(1))
        await add(store, job("a", name="x"), now=at(2))

        assert (await store.settle([Outcome.completed(held, DONE)], now=at(3))).applied == frozenset()
        assert (await store.settle([Outcome.failed(held, WRONG)], now=at(3))).applied == frozenset()
        assert ids(await claim_jobs(store, 9, now=at(3))) == ["a"]
