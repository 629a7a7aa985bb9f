"""Sets: which jobs have been kept for long enough."""

from __future__ import annotations

from dataclasses import replace

from conveyor.conformance.contract.sets.jobs import TERMINAL, Q, finish, found, one_in_each_state
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    TICK,
    add,
    at,
    child,
    completed,
    everything,
    failed,
    ids,
    job,
    jobs,
    settle,
    span,
    take_one,
)
from conveyor.core.store import (
    Change,
    Feature,
    JobKey,
    JobState,
    Order,
    Retention,
    Store,
    Where,
)


@area("sets")
class Expiring:
    """`expired` and `unretained`."""

    async def test_a_job_expires_when_its_age_is_over(self, store: Store) -> None:
        await add(store, job("a"), job("kept"))
        await finish(store, "a", at_second=10, retention=Retention(age=span(60)))
        await finish(store, "kept", at_second=10)
        where = replace(Q, expired=True)

        assert await found(store, where, now=at(70) - TICK) == []
        assert await found(store, where, now=at(70)) == ["a"]

    async def test_a_job_expires_when_as_many_later_ones_finished_as_are_kept(self, store: Store) -> None:
        await add(store, *jobs("abcd"))
        where = replace(Q, expired=True)

        for second, name in enumerate("cabd"):
            await finish(store, name, at_second=second, retention=Retention(count=2))

        assert set(await found(store, where, now=at(9))) == {"c", "a"}

    async def test_jobs_that_finished_at_one_moment_expire_in_the_order_they_were_added(
        self, store: Store
    ) -> None:
        await add(store, *jobs("abc"))
        await finish(store, "c", "b", "a", at_second=5, retention=Retention(count=1))

        assert set(await found(store, replace(Q, expired=True), now=at(9))) == {"a", "b"}

    async def test_only_jobs_of_the_queue_and_state_that_have_a_count_are_counted(self, store: Store) -> None:
        await add(store, *jobs("abcd"), job("x", queue="other"))
        keep = Retention(count=1)
        await finish(store, "a", at_second=1, retention=keep)
        await settle(store, failed(await take_one(store, "b"), retention=keep), now=at(2))
        await finish(store, "c", at_second=3)
        held = await take_one(store, "x", queue="other")
        await settle(store, completed(held, retention=keep), now=at(4))

        assert await found(store, Where(expired=True), now=at(9)) == []

        await finish(store, "d", at_second=5, retention=keep)
        assert await found(store, Where(expired=True), now=at(9)) == ["a"]

    async def test_each_job_is_kept_by_its_own_count(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        await finish(store, "a", at_second=1, retention=Retention(count=5))
        await finish(store, "b", at_second=2, retention=Retention(count=1))
        await finish(store, "c", at_second=3, retention=Retention(count=5))

        assert await found(store, replace(Q, expired=True), now=at(9)) == ["b"]

    @needs(Feature.UNIQUE_KEYS)
    async def test_a_job_that_holds_its_key_is_kept_whatever_its_count(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(60)), job("b"))
        await finish(store, "a", "b", at_second=1, retention=Retention(count=0))
        where = replace(Q, expired=True)

        assert await found(store, where, now=at(60) - TICK) == ["b"]
        assert set(await found(store, where, now=at(60))) == {"a", "b"}

    async def test_a_count_of_zero_keeps_none(self, store: Store) -> None:
        await add(store, job("a"))
        await finish(store, "a", at_second=1, retention=Retention(count=0))

        assert await found(store, replace(Q, expired=True), now=at(1)) == ["a"]

    async def test_of_age_and_count_the_first_that_is_over_expires_the_job(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        both = Retention(age=span(60), count=1)
        await finish(store, "a", at_second=1, retention=both)
        await finish(store, "b", at_second=2, retention=both)

        assert await found(store, replace(Q, expired=True), now=at(3)) == ["a"]
        assert await found(store, replace(Q, expired=True), now=at(62)) == ["a", "b"]

    async def test_unretained_are_the_finished_jobs_for_which_no_retention_was_given(
        self, store: Store
    ) -> None:
        """With `older_than` and `Order.EARLIEST`, as workers sweep: earliest first, and not one too young."""
        await one_in_each_state(store)
        await add(store, *jobs("abcdefg"))
        for second, name in enumerate("dabc", start=10):
            await finish(store, name, at_second=second)
        await finish(store, "e", at_second=1, retention=Retention(age=span(900)))
        await finish(store, "f", at_second=1, retention=Retention(count=9))
        where = replace(Q, unretained=True)

        assert set(await found(store, where, now=at(60))) == {*"abcd", *(one.value for one in TERMINAL)}
        old = replace(where, states=frozenset({JobState.COMPLETED}), older_than=span(48))
        assert await found(store, old, now=at(60), order=Order.EARLIEST) == ["completed", "d", "a", "b"]
        first = await store.find(old, limit=2, order=Order.EARLIEST, now=at(60))
        rest = await store.find(old, limit=9, after=first[-1], order=Order.EARLIEST, now=at(60))
        assert (ids(first), ids(rest)) == (["completed", "d"], ["a", "b"])

        await store.update(replace(Q, ids=frozenset("a")), Change(retention=Retention(count=9)), now=at(60))
        await store.update(replace(Q, ids=frozenset("b")), Change(retry=True), now=at(60))
        few = replace(old, ids=frozenset("abcdef"))
        assert list((await store.delete(few, limit=9, now=at(60))).removed) == [JobKey("q", "d")]
        assert await found(store, old, now=at(60)) == ["completed"]

    async def test_only_finished_jobs_expire(self, store: Store) -> None:
        await one_in_each_state(store)

        assert await found(store, Where(expired=True), now=at(1_000_000)) == []

    async def test_expiry_and_another_field_must_both_match(self, store: Store) -> None:
        await add(store, *jobs("ab"))
        await finish(store, "a", "b", at_second=1, retention=Retention(age=span(5)))

        where = Where(queue="q", ids=frozenset("b"), expired=True)
        assert await found(store, where, now=at(9)) == ["b"]

    @needs(Feature.FLOWS)
    async def test_among_a_few_jobs_those_expire_that_would_among_all(self, store: Store) -> None:
        kids = [child(one, queue=queue) for queue in ("q", "r") for one in "abc"]
        await add(store, *kids, job("parent"), *jobs("xy"))
        for second, name in enumerate("abxc"):
            await finish(store, name, at_second=second, retention=Retention(count=2))
        await finish(store, "y", at_second=4, retention=Retention(age=span(0.5), count=9))
        for one, retention in zip("abc", (Retention(count=1), Retention(age=span(2)), None), strict=True):
            held = await take_one(store, one, queue="r")
            await settle(store, completed(held, retention=retention), now=at(5))

        few = frozenset("ay")
        assert await found(store, Where(queue="q", ids=few, expired=True), now=at(6)) == ["a", "y"]
        assert await found(store, Where(ids=few, expired=True), now=at(6)) == ["a", "y"]
        family = Where(parent=JobKey("q", "parent"), expired=True)
        assert await found(store, family, now=at(6)) == ["a", "b"]
        assert await found(store, family, now=at(7)) == ["a", "b", "b"]
        assert len((await store.delete(family, limit=9, now=at(7))).removed) == 3
        assert ids(await everything(store, "r")) == ["a", "c"]
