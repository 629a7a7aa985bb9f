"""Sets: which jobs a `Where` is."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from conveyor.conformance.contract.sets.jobs import (
    PLAIN,
    TERMINAL,
    Q,
    delete_all,
    finish,
    found,
    one_in_each_state,
)
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    START,
    TICK,
    add,
    at,
    cancelled,
    child,
    completed,
    failed,
    get,
    ids,
    in_state,
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
    Store,
    Where,
)


@area("sets")
class Finding:
    """`find`: every field narrows it."""

    async def test_an_empty_where_is_every_job_of_every_queue(self, store: Store) -> None:
        await add(store, job("a", queue="one"), job("b", queue="two"))

        assert await found(store, Where()) == ["a", "b"]

    async def test_find_by_queue(self, store: Store) -> None:
        """A set of a queue has the jobs of that queue, all of them, and no other."""
        await add(store, job("a"), job("b", queue="other"), job("c"))

        assert await found(store, Q) == ["a", "c"]
        assert await found(store, Where(queue="nothing")) == []

    async def test_find_by_ids(self, store: Store) -> None:
        """A set of ids has the jobs with one of them, and an id that there is not does no harm."""
        await add(store, *jobs("abc"), job("a", queue="other"))

        assert await found(store, Where(queue="q", ids=frozenset({"c", "a", "z"}))) == ["a", "c"]
        assert await found(store, Where(ids=frozenset({"a"}))) == ["a", "a"]

    @pytest.mark.parametrize("state", PLAIN)
    async def test_find_by_state(self, store: Store, state: JobState) -> None:
        """A set of a state has the jobs in that state, and no other."""
        await one_in_each_state(store)

        assert await found(store, Where(queue="q", states=frozenset({state}))) == [state.value]

    async def test_find_by_several_states(self, store: Store) -> None:
        """A set of several states has the jobs in any of them."""
        await one_in_each_state(store)

        wanted = frozenset({JobState.FAILED, JobState.WAITING})
        assert set(await found(store, Where(states=wanted))) == {"failed", "waiting"}

    async def test_find_by_names(self, store: Store) -> None:
        """A set of names has the jobs with one of these names."""
        await add(store, job("a", name="x"), job("b", name="y"), job("c", name="z"))

        assert await found(store, Where(queue="q", names=frozenset({"z", "x"}))) == ["a", "c"]

    @needs(Feature.GROUPS)
    async def test_find_by_group(self, store: Store) -> None:
        """A set of a queue and a group has the jobs of that group in that queue."""
        await add(store, job("a", group="g"), job("b", group="h"), job("c"))

        assert await found(store, Where(queue="q", group="g")) == ["a"]

    @needs(Feature.FLOWS)
    async def test_find_by_parent(self, store: Store) -> None:
        """A set of a parent has its children, in whatever queue unless one is given."""
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
