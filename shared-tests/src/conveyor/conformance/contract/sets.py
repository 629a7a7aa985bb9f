"""Sets of jobs: finding, counting, changing and removing them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    DONE,
    LEASE,
    MANY,
    START,
    TICK,
    WRONG,
    add,
    at,
    cancelled,
    child,
    completed,
    everything,
    failed,
    get,
    ids,
    in_state,
    job,
    jobs,
    look,
    normal,
    settle,
    span,
    states,
    take,
    take_one,
)
from conveyor.core.store import (
    Beat,
    Change,
    Feature,
    JobKey,
    JobRecord,
    JobState,
    Order,
    Outcome,
    Retention,
    Store,
    Where,
)

TERMINAL = [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED]
#: The states that need no feature.
PLAIN = [state for state in JobState if state is not JobState.WAITING_CHILDREN]
Q = Where(queue="q")


async def one_in_each_state(store: Store) -> dict[JobState, JobRecord]:
    """A job in each state that needs no feature, its id the state's name."""
    return {state: await in_state(store, state, job(state.value)) for state in PLAIN}


async def found(store: Store, where: Where, **options: object) -> list[str]:
    """The ids of a set, in the order of `find`."""
    return ids(await store.find(where, limit=MANY, **{"now": START, **options}))  # type: ignore[arg-type]


async def finish(store: Store, *names: str, at_second: float, **fields: object) -> None:
    """Complete these jobs at that second, one after the other."""
    for name in names:
        held = await take_one(store, name, now=at(at_second))
        await settle(store, completed(held, **fields), now=at(at_second))


async def pages(store: Store, where: Where, order: Order, size: int) -> list[str]:
    """The ids of a set, read page by page."""
    read: list[JobRecord] = []
    while True:
        after = read[-1] if read else None
        page = await store.find(where, limit=size, after=after, order=order, now=START)
        assert len(page) <= size
        read.extend(page)
        if len(page) < size:
            return ids(read)


@area("sets")
class Finding:
    """`Store.find` and the meaning of `Where`."""

    async def test_an_empty_where_is_every_job_of_every_queue(self, store: Store) -> None:
        await add(store, job("a", queue="one"), job("b", queue="two"))

        assert await found(store, Where()) == ["a", "b"]

    async def test_find_by_queue(self, store: Store) -> None:
        await add(store, job("a"), job("b", queue="other"), job("c"))

        assert await found(store, Q) == ["a", "c"]
        assert await found(store, Where(queue="nothing")) == []

    async def test_find_by_ids(self, store: Store) -> None:
        await add(store, *jobs("abc"), job("a", queue="other"))

        assert await found(store, Where(queue="q", ids=frozenset({"c", "a", "z"}))) == ["a", "c"]
        assert await found(store, Where(ids=frozenset({"a"}))) == ["a", "a"]

    @pytest.mark.parametrize("state", PLAIN)
    async def test_find_by_state(self, store: Store, state: JobState) -> None:
        await one_in_each_state(store)

        assert await found(store, Where(queue="q", states=frozenset({state}))) == [state.value]

    async def test_find_by_several_states(self, store: Store) -> None:
        await one_in_each_state(store)

        wanted = frozenset({JobState.FAILED, JobState.WAITING})
        assert set(await found(store, Where(states=wanted))) == {"failed", "waiting"}

    async def test_find_by_names(self, store: Store) -> None:
        await add(store, job("a", name="x"), job("b", name="y"), job("c", name="z"))

        assert await found(store, Where(queue="q", names=frozenset({"z", "x"}))) == ["a", "c"]

    @needs(Feature.GROUPS)
    async def test_find_by_group(self, store: Store) -> None:
        await add(store, job("a", group="g"), job("b", group="h"), job("c"))

        assert await found(store, Where(queue="q", group="g")) == ["a"]

    @needs(Feature.FLOWS)
    async def test_find_by_parent(self, store: Store) -> None:
        await add(
            store,
            child("a", of="one"),
            child("b", of="one", queue="other"),
            child("c", of="two"),
            job("one"),
            job("two"),
        )

        assert await found(store, Where(parent=JobKey("q", "one"))) == ["a", "b"]
        assert await found(store, Where(queue="other", parent=JobKey("q", "one"))) == ["b"]
        assert await found(store, Where(parent=JobKey("other", "one"))) == []

    @needs(Feature.UNIQUE_KEYS)
    async def test_find_by_unique_key_is_only_the_holder(self, store: Store) -> None:
        await add(store, job("old", unique_key="k"))
        await finish(store, "old", at_second=1)
        await add(store, job("new", unique_key="k"), job("other", unique_key="l"))

        assert await found(store, Where(queue="q", unique_key="k")) == ["new"]
        assert await found(store, Where(queue="q", unique_key="m")) == []

    @needs(Feature.UNIQUE_KEYS)
    async def test_find_by_unique_key_is_nobody_once_it_has_lapsed(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)))
        where = Where(queue="q", unique_key="k")

        assert await found(store, where, now=at(10) - TICK) == ["a"]
        assert await found(store, where, now=at(10)) == []

    async def test_find_by_the_exact_text_of_the_report(self, store: Store) -> None:
        """Not by what it says: what has been written in between, if the same, has been written."""
        await add(store, *jobs("ab", report='{"n":[1]}'), job("c"))
        read = (await get(store, "a")).report

        assert await found(store, Where(queue="q", report=read)) == ["a", "b"]
        assert await found(store, Where(ids=frozenset("ac"), report=read)) == ["a"]
        for another in (f"{read} ", f" {read}", read.replace("1", "1.0"), read.replace("n", "N"), "{}", ""):
            assert await found(store, Where(ids=frozenset("ab"), report=another)) == []

    async def test_every_given_field_must_match(self, store: Store) -> None:
        await add(store, job("a", name="x"), job("b", name="y"), job("a", name="x", queue="other"))
        ab = frozenset("ab")

        assert await found(store, Where(queue="q", names=frozenset("x"), ids=ab)) == ["a"]
        assert await found(store, Where(queue="q", names=frozenset("x"), ids=frozenset("b"))) == []

    @pytest.mark.parametrize("field", ["ids", "states", "names"])
    async def test_an_empty_set_matches_nothing(self, store: Store, field: str) -> None:
        await add(store, job("a"))
        where = replace(Q, **{field: frozenset()})  # type: ignore[arg-type]

        assert await found(store, where) == []
        assert await store.count(where, now=START) == {}
        assert await store.update(where, Change(priority=1), now=START) == frozenset()
        assert await delete_all(store, where) == []
        assert await found(store, Q) == ["a"]

    @pytest.mark.parametrize("state", [JobState.WAITING, JobState.DELAYED, JobState.ACTIVE])
    async def test_the_age_of_an_unfinished_job_counts_from_its_creation(
        self, store: Store, state: JobState
    ) -> None:
        await in_state(store, state, job("a"), now=at(10))
        where = replace(Q, older_than=span(5), states=frozenset({state}))

        assert await found(store, where, now=at(15) - TICK) == []
        assert await found(store, where, now=at(15)) == ["a"]

    @pytest.mark.parametrize("state", TERMINAL)
    async def test_the_age_of_a_finished_job_counts_from_its_end(self, store: Store, state: JobState) -> None:
        await add(store, job("a"), now=at(0))
        held = await take_one(store, "a", now=at(10))
        outcome = {"completed": completed, "failed": failed, "cancelled": cancelled}[state.value](held)
        await settle(store, outcome, now=at(20))

        assert await found(store, replace(Q, older_than=span(5)), now=at(25) - TICK) == []
        assert await found(store, replace(Q, older_than=span(5)), now=at(25)) == ["a"]

    async def test_older_than_nothing_is_every_job(self, store: Store) -> None:
        await add(store, job("a"))

        assert await found(store, replace(Q, older_than=timedelta(0))) == ["a"]

    async def test_find_returns_no_more_than_limit(self, store: Store) -> None:
        await add(store, *jobs("abcde"))

        assert ids(await store.find(Q, limit=3, now=START)) == ["a", "b", "c"]

    # ------------------------------------------------------------------ expiry

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

    # ------------------------------------------------------------------- order

    async def in_a_mess(self, store: Store) -> None:
        """Twelve jobs of several priorities and states, that finished in another order than they came."""
        for n in range(12):
            await add(store, job(f"{n:02}", priority=(7 * n) % 3, lifo=n % 4 == 1), now=at(n))
        for second, name in enumerate(["08", "02", "05"]):
            await finish(store, name, at_second=20 + second)
        await finish(store, "11", at_second=22, retention=Retention(age=span(900)))
        await finish(store, "00", at_second=22, retention=Retention(count=9))

    @pytest.mark.parametrize("size", [1, 2, 3, 5, 12, 13])
    @pytest.mark.parametrize("order", list(Order))
    async def test_pages_of_any_size_give_the_same_jobs_in_the_same_order(
        self, store: Store, order: Order, size: int
    ) -> None:
        await self.in_a_mess(store)
        whole = await found(store, Q, order=order)

        assert sorted(whole) == [f"{n:02}" for n in range(12)]
        assert await pages(store, Q, order, size) == whole

    async def test_the_order_of_adding(self, store: Store) -> None:
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

        assert order == ids(await take(store, 99))

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

        a, b, c = await take(store, 3)
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


#: What each plain change is, and the states of the jobs to which it applies.
LIVE = {JobState.WAITING, JobState.DELAYED, JobState.ACTIVE}
CHANGES: dict[str, tuple[Change, set[JobState]]] = {
    "payload": (Change(payload="9"), LIVE),
    "priority": (Change(priority=5), LIVE),
    "delay": (Change(delay=span(500)), {JobState.WAITING, JobState.DELAYED}),
    "no delay": (Change(delay=timedelta(0)), {JobState.WAITING, JobState.DELAYED}),
    "run_at": (Change(run_at=at(500)), {JobState.WAITING, JobState.DELAYED}),
    "cancel": (Change(cancel=True), {JobState.ACTIVE}),
    "retry": (Change(retry=True), set(TERMINAL)),
    "retention": (Change(retention=Retention(count=1)), set(TERMINAL)),
}


@area("sets")
class Changing:
    """`Store.update`, without keys and parents."""

    @pytest.mark.parametrize("kind", CHANGES)
    async def test_a_change_leaves_alone_the_jobs_to_which_it_does_not_apply(
        self, store: Store, kind: str
    ) -> None:
        change, wanted = CHANGES[kind]
        before = await one_in_each_state(store)

        changed = await store.update(Q, change, now=at(1))

        assert changed == {JobKey("q", state.value) for state in wanted}
        for state in set(PLAIN) - wanted:
            assert await get(store, state.value) == before[state]

    async def test_the_payload_is_replaced(self, store: Store) -> None:
        before = await in_state(store, JobState.WAITING, job("a", payload="1"))

        await store.update(Q, Change(payload='{"n":2}'), now=at(1))

        assert normal(await get(store, "a")) == replace(before, payload='{"n": 2}')

    async def test_a_changed_priority_shifts_rank_by_the_difference(self, store: Store) -> None:
        await add(store, job("plain", priority=2), job("ageing", priority=2, ageing=span(3_600)), now=at(60))
        before = {one.id: one for one in await everything(store)}

        await store.update(Q, Change(priority=-5), now=at(9))

        for one in await everything(store):
            assert one.priority == -5
            assert one.rank == before[one.id].rank - 7

    async def test_a_changed_priority_changes_the_place(self, store: Store) -> None:
        await add(store, *jobs("abc"))

        await store.update(replace(Q, ids=frozenset("c")), Change(priority=-1), now=at(1))
        await store.update(replace(Q, ids=frozenset("a")), Change(priority=1), now=at(1))

        assert ids(await take(store, 9)) == ["c", "b", "a"]

    async def test_a_priority_changed_back_gives_the_old_place_back(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        b = replace(Q, ids=frozenset("b"))

        await store.update(b, Change(priority=1), now=at(1))
        await store.update(b, Change(priority=0), now=at(1))

        assert ids(await take(store, 9)) == ["a", "b", "c"]

    async def test_a_changed_priority_holds_for_an_active_job_that_waits_again(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        held = await take_one(store, "c")
        await store.update(replace(Q, ids=frozenset("c")), Change(priority=-1), now=at(1))
        await settle(store, Outcome.given_back(held))

        assert ids(await take(store, 9)) == ["c", "a", "b"]

    async def test_a_waiting_job_can_be_delayed(self, store: Store) -> None:
        await add(store, *jobs("abc"))

        await store.update(replace(Q, ids=frozenset("a")), Change(delay=span(60)), now=at(10))
        await store.update(replace(Q, ids=frozenset("b")), Change(run_at=at(99)), now=at(10))

        found = await everything(store)
        assert [one.run_at for one in found] == [at(70), at(99), None]
        assert [one.state.value for one in found] == ["delayed", "delayed", "waiting"]
        assert ids(await take(store, 9, now=at(11))) == ["c"]

    async def test_a_delayed_job_can_be_delayed_anew(self, store: Store) -> None:
        await add(store, *jobs("ab", delay=span(60)))

        await store.update(replace(Q, ids=frozenset("a")), Change(delay=span(5)), now=at(10))
        await store.update(replace(Q, ids=frozenset("b")), Change(run_at=at(500)), now=at(10))

        assert [one.run_at for one in await everything(store)] == [at(15), at(500)]
        assert ids((await store.advance({"q"}, now=at(15))).due) == ["a"]

    @pytest.mark.parametrize(
        "change", [Change(delay=timedelta(0)), Change(run_at=at(10)), Change(run_at=at(-5))]
    )
    async def test_a_job_can_be_promoted(self, store: Store, change: Change) -> None:
        await add(store, job("a", delay=span(60)))

        assert await store.update(Q, change, now=at(10)) == {JobKey("q", "a")}

        found = await get(store, "a")
        assert (found.state, found.run_at) == (JobState.WAITING, None)
        assert ids(await take(store, now=at(10))) == ["a"]

    async def test_cancelling_asks_the_holder(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await take(store)

        await store.update(Q, Change(cancel=True), now=at(1))

        assert await get(store, "a") == replace(held, cancel_requested=True)
        beats = [Beat(lease=held.lease)]
        assert (await store.renew(beats, LEASE, now=at(2))).cancelled == {held.lease}

    @pytest.mark.parametrize("state", TERMINAL)
    async def test_a_finished_job_can_be_retried(self, store: Store, state: JobState) -> None:
        await add(store, job("a", payload="1", options="2", priority=3))
        await take(store)
        await store.advance({"q"}, now=at(30))
        held = await take_one(store, "a", now=at(31))
        await store.update(Q, Change(cancel=True), now=at(32))
        ended = {"completed": completed, "failed": failed, "cancelled": cancelled}[state.value](
            held, retention=Retention(age=span(60), count=5)
        )
        await settle(store, replace(ended, report="4"), now=at(40))
        before = await get(store, "a")

        assert await store.update(Q, Change(retry=True), now=at(50)) == {JobKey("q", "a")}

        assert await get(store, "a") == replace(
            before,
            state=JobState.WAITING,
            attempt=0,
            stalled=0,
            processed_at=None,
            finished_at=None,
            expires_at=None,
            keep_count=None,
            locked_by=None,
        )
        assert (before.payload, before.options, before.report) == ("1", "2", "4")

    async def test_a_retried_job_runs_and_settles_again(self, store: Store) -> None:
        await add(store, job("a"))
        await finish(store, "a", at_second=1)
        await store.update(Q, Change(retry=True), now=at(2))

        (held,) = await take(store, now=at(3))
        assert (held.attempt, held.cancel_requested) == (1, False)

        await settle(store, failed(held), now=at(4))
        assert await states(store) == {"a": JobState.FAILED}

    async def test_the_old_lease_of_a_retried_job_is_stale(self, store: Store) -> None:
        await add(store, job("a"))
        (old,) = await take(store)
        await settle(store, completed(old), now=at(1))
        await store.update(Q, Change(retry=True), now=at(2))

        assert (await store.settle([failed(old)], now=at(3))).applied == frozenset()
        assert (await store.renew([Beat(lease=old.lease)], LEASE, now=at(3))).held == frozenset()
        assert await states(store) == {"a": JobState.WAITING}

    async def test_a_changed_retention_counts_from_the_jobs_end(self, store: Store) -> None:
        await add(store, job("a"))
        await finish(store, "a", at_second=10)

        await store.update(Q, Change(retention=Retention(age=span(60), count=4)), now=at(50))

        found = await get(store, "a")
        assert (found.expires_at, found.keep_count) == (at(70), 4)

    @pytest.mark.parametrize("state", PLAIN)
    async def test_the_report_of_a_job_that_nobody_holds_can_be_replaced(
        self, store: Store, state: JobState
    ) -> None:
        before = await in_state(store, state, job("a", report='{"n":1}'))

        changed = await store.update(Q, Change(report='{"n":2}'), now=at(1))

        found = normal(await get(store, "a"))
        held = state is JobState.ACTIVE
        assert changed == (frozenset() if held else {before.key})
        assert found == normal(before if held else replace(before, report='{"n":2}'))

    @needs(Feature.FLOWS)
    async def test_the_report_of_a_job_that_waits_for_children_can_be_replaced(self, store: Store) -> None:
        before = await in_state(store, JobState.WAITING_CHILDREN, job("a"))
        where = Where(queue="q", ids=frozenset("a"), report=before.report)

        assert await store.update(where, Change(report='{"n":2}'), now=at(1)) == {before.key}

        assert normal(await get(store, "a")) == normal(replace(before, report='{"n":2}'))

    async def test_a_report_is_replaced_by_one_of_those_who_have_read_it(self, store: Store) -> None:
        await add(store, job("a", report='{"n":1}'))
        read = await get(store, "a")
        where = Where(queue="q", ids=frozenset("a"), report=read.report)

        first = await store.update(where, Change(report='{"n":2}'), now=at(1))
        second = await store.update(where, Change(report='{"n":3}'), now=at(1))

        assert first == {read.key}
        assert second == frozenset()
        assert normal(await get(store, "a")) == normal(replace(read, report='{"n":2}'))

    async def test_several_changes_in_one(self, store: Store) -> None:
        await add(store, job("waiting"), job("held"))
        await take_one(store, "held")

        changed = await store.update(
            Q, Change(payload="9", priority=4, delay=span(60), cancel=True), now=at(10)
        )

        waiting, held = await everything(store)
        assert changed == {waiting.key, held.key}
        assert (waiting.payload, waiting.priority, waiting.run_at) == ("9", 4, at(70))
        assert (waiting.state, waiting.cancel_requested) == (JobState.DELAYED, False)
        assert (held.payload, held.priority, held.run_at) == ("9", 4, None)
        assert (held.state, held.cancel_requested) == (JobState.ACTIVE, True)

    async def test_a_change_of_nothing_changes_nothing(self, store: Store) -> None:
        await one_in_each_state(store)
        before = await everything(store)

        assert await store.update(Q, Change(), now=at(1)) == frozenset()
        assert await everything(store) == before

    async def test_jobs_outside_the_set_are_left_alone(self, store: Store) -> None:
        await add(store, *jobs("ab"), job("a", queue="other"))

        changed = await store.update(replace(Q, ids=frozenset("a")), Change(payload="9"), now=at(1))

        assert changed == {JobKey("q", "a")}
        assert [one.payload for one in await everything(store)] == ["9", "null"]
        assert (await get(store, "a", queue="other")).payload == "null"


async def delete_all(
    store: Store, where: Where = Q, *, limit: int = MANY, at_second: float = 1
) -> list[JobKey]:
    """Delete a whole set, or so many, and return what was removed. Without parents nobody is released."""
    deleted = await store.delete(where, limit=limit, now=at(at_second))
    assert list(deleted.released) == []
    return list(deleted.removed)


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

    async def test_what_was_removed_is_told_in_the_order_in_which_it_was_added(self, store: Store) -> None:
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

        assert ids(await take(store, 9, now=at(9))) == ["b", "c"]

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
        (held,) = await take(store)
        await store.forget("q", now=at(1))
        await add(store, job("a", name="x"), now=at(2))

        assert (await store.settle([Outcome.completed(held, DONE)], now=at(3))).applied == frozenset()
        assert (await store.settle([Outcome.failed(held, WRONG)], now=at(3))).applied == frozenset()
        assert ids(await take(store, 9, now=at(3))) == ["a"]


#: Sets of some of the jobs of `family`.
SOME: Final = {
    "ids": Where(queue="q", ids=frozenset({"a", "d", "missing"})),
    "states": Where(queue="q", states=frozenset({JobState.DELAYED, JobState.FAILED})),
    "names": Where(queue="q", names=frozenset({"y"})),
    "report": Where(report=WRONG),
    "age": Where(queue="q", older_than=span(30)),
    "no queue": Where(names=frozenset({"x"})),
    "nothing": Where(queue="q", names=frozenset()),
}
SOME_OF: Final = {
    Feature.GROUPS: Where(queue="q", group="g"),
    Feature.FLOWS: Where(parent=JobKey("q", "parent")),
    Feature.UNIQUE_KEYS: Where(queue="q", unique_key="k"),
}


async def family(store: Store) -> None:
    """Jobs that differ in everything a `Where` can ask for and the store offers."""

    def some(feature: Feature, **fields: object) -> dict[str, Any]:
        return fields if feature in store.features else {}

    key = some(Feature.UNIQUE_KEYS, unique_key="k")
    kid = some(Feature.FLOWS, parent=JobKey("q", "parent"))
    group = some(Feature.GROUPS, group="g")
    await add(store, job("a", name="x", **key), job("b", name="y", delay=span(99), **group, **kid))
    await add(store, job("parent", name="p"), job("c", name="x", queue="other", **kid))
    held = await take_one(store, "a")
    await settle(store, failed(held), now=at(1))
    await add(store, job("d", name="y", **key, **group), job("e", name="x"), now=at(40))


@area("sets")
class Alike:
    """A set is the same to every call that takes one."""

    @pytest.mark.parametrize("which", [*SOME, *SOME_OF])
    async def test_a_set_is_counted_changed_and_removed_as_it_is_found(
        self, store: Store, which: str | Feature
    ) -> None:
        where = SOME_OF[which] if isinstance(which, Feature) else SOME[which]
        await family(store)
        wanted = await store.find(where, limit=MANY, now=at(60))
        rest = {record.key for record in await store.find(Where(), limit=MANY, now=at(60))} - {
            record.key for record in wanted
        }

        counts = await store.count(where, now=at(60))
        both = Change(payload="7", retention=Retention(count=7))  # one or the other applies to any job
        changed = await store.update(where, both, now=at(60))

        assert sum(counts.values()) == len(wanted)
        assert changed == {record.key for record in wanted}
        everybody = await store.find(Where(), limit=MANY, now=at(60))
        assert {r.key for r in everybody if r.payload == "7" or r.keep_count == 7} == changed
        deleted = await store.delete(where, limit=MANY, now=at(60))
        assert list(deleted.removed) == [record.key for record in wanted]
        assert {record.key for record in await store.find(Where(), limit=MANY, now=at(60))} == rest

    async def test_a_large_set_is_taken_whole(self, store: Store) -> None:
        """Stores bind parameters, and read pages: neither is the end of a set."""
        names = [f"{n:04}" for n in range(1_234)]
        await add(store, *jobs(names), job("more"))
        large = Where(queue="q", ids=frozenset(names))

        assert await found(store, large) == names
        assert await store.count(large, now=START) == {("q", JobState.WAITING): 1_234}
        assert len(await store.update(large, Change(payload="7"), now=START)) == 1_234
        held = await take(store, 2_000, ids=large.ids)
        assert ids(held) == names
        assert {one.payload for one in held} == {"7"}
        renewed = await store.renew([Beat(lease=one.lease, report="1") for one in held], LEASE, now=at(1))
        assert (len(renewed.held), renewed.lost) == (1_234, frozenset())
        assert {one.report for one in await store.find(large, limit=MANY, now=at(1))} == {"1"}
        await settle(store, *(completed(one) for one in held), now=at(2))
        assert ids(await delete_all(store, large, limit=2_000, at_second=3)) == names
        assert ids(await everything(store)) == ["more"]


class Sets(Alike, Finding, Counting, Changing, Removing):
    """Sets of jobs."""
