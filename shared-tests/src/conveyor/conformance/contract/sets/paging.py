"""Sets: orders, and reading page by page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conveyor.conformance.contract.sets.jobs import Q, finish, found, pages
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    MANY,
    START,
    add,
    at,
    claim_jobs,
    ids,
    job,
    jobs,
    span,
    take_one,
)
from conveyor.core.store import (
    JobState,
    Order,
    Retention,
    Store,
    Where,
)


@area("sets")
class Paging:
    """`find` with `order` and `after`."""

    async def in_a_mess(self, store: Store) -> None:
        """Twelve jobs of several priorities and states, that finished in another order than they came."""
        for n in range(12):
            await add(store, job(f"{n:02}", priority=(7 * n) % 3, lifo=n % 4 == 1), now=at(n))
        for second, name in enumerate(["08", "02", "05"]):
            await finish(store, name, at_second=20 + second)
        await finish(store, "11", at_second=22, retention=Retention(age=span(900)))
        await finish(store, "00", at_second=22, retention=Retention(count=9))

    async def test_pages_of_any_size_give_the_same_jobs_in_the_same_order(self, store: Store) -> None:
        await self.in_a_mess(store)
        for order in Order:
            whole = await found(store, Q, order=order)

            assert sorted(whole) == [f"{n:02}" for n in range(12)], order
            for size in (1, 2, 3, 5, 12, 13):
                assert await pages(store, Q, order, size) == whole, (order, size)

    async def test_the_order_of_adding(self, store: Store) -> None:
        """In the order of adding, the oldest job is first, or with `NEWEST` the last one."""
        await self.in_a_mess(store)

        assert await found(store, Q, order=Order.ADDED) == [f"{n:02}" for n in range(12)]
        assert await found(store, Q, order=Order.NEWEST) == [f"{n:02}" for n in reversed(range(12))]

    async def test_the_order_of_finishing_is_latest_first_and_then_the_unfinished_newest_first(
        self, store: Store
    ) -> None:
        await self.in_a_mess(store)

        assert await found(store, Q, order=Order.FINISHED) == [
            *("11", "05", "00", "02", "08"),
            *("10", "09", "07", "06", "04", "03", "01"),
        ]
        assert await found(store, Q, order=Order.EARLIEST) == [
            *("08", "02", "00", "05", "11"),
            *("01", "03", "04", "06", "07", "09", "10"),
        ]

    async def test_the_order_of_claiming_is_the_order_in_which_jobs_are_claimed(self, store: Store) -> None:
        await self.in_a_mess(store)
        where = replace(Q, states=frozenset({JobState.WAITING}))

        order = await found(store, where, order=Order.CLAIM)

        assert order == ids(await claim_jobs(store, 99))

    async def test_the_order_of_claiming_holds_for_jobs_in_any_state(self, store: Store) -> None:
        await add(store, job("a"), job("b", lifo=True), job("c", priority=-1), job("d", delay=span(9)))
        await take_one(store, "c")

        assert await found(store, Q, order=Order.CLAIM) == ["c", "b", "a", "d"]

    @pytest.mark.parametrize("order", list(Order))
    async def test_a_page_starts_behind_a_job_that_is_there_no_more(self, store: Store, order: Order) -> None:
        await self.in_a_mess(store)
        whole = await store.find(Q, limit=MANY, order=order, now=START)
        gone = whole[4]
        await store.delete(replace(Q, ids=frozenset({gone.id})), limit=1, now=START)

        page = await store.find(Q, limit=3, after=gone, order=order, now=START)

        assert list(page) == list(whole[5:8])

    @pytest.mark.parametrize("order", [Order.ADDED, Order.NEWEST])
    async def test_a_page_starts_behind_a_job_whatever_became_of_it(self, store: Store, order: Order) -> None:
        await add(store, *jobs("abcd"))
        last = (await store.find(Q, limit=2, order=order, now=START))[-1]
        await finish(store, last.id, at_second=5)

        rest = ids(await store.find(Q, limit=9, after=last, order=order, now=START))

        assert rest == (["c", "d"] if order is Order.ADDED else ["b", "a"])

    async def test_paging_holds_across_queues(self, store: Store) -> None:
        await add(store, *(job(str(n), queue=f"q{n % 3}") for n in range(7)))

        assert await pages(store, Where(), Order.ADDED, 2) == [str(n) for n in range(7)]
