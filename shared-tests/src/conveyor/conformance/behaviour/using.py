"""Blocks of `using`: what is added in one exists wholly or not at all, in a user's transaction or without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from functools import partial
from operator import methodcaller
from typing import Any, Final

import pytest

from conveyor.conformance.behaviour.lifecycle import CALLS
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import add, at, everything, in_state, job, normal, span
from conveyor.core import NewJob, Queue
from conveyor.core.errors import GroupFullError, StoreError
from conveyor.core.events import JobWaiting
from conveyor.core.store import Feature, Inserted, JobKey, JobRecord, JobState, Order, Store, Where
from conveyor.store.memory import MemoryStore

#: Begins a transaction of a user's, and gives the connection for `using`; None for a store without any.
Transaction = Callable[[], AbstractAsyncContextManager[Any]]

Q: Final = Where(queue="q")
READS: Final = {"find", "count"}
ADDS: Final = {"insert", "insert of nothing"}


@area("using")
class Using:
    """`Store.using`."""

    async def test_what_a_block_adds_is_there_once_it_has_ended(
        self, store: Store, transaction: Transaction
    ) -> None:
        outside = Queue("q", store)

        async with store.bus.subscribe({"q"}) as events:
            async with transaction() as connection, store.using(connection) as inside:
                queue = Queue("q", inside)
                first = await queue.add("work", 1)
                others = await queue.add_bulk([NewJob("work", n) for n in (2, 3)])
                within = [found.id for found in await queue.get_jobs()]
                assert await outside.count() == 0
            received = await anext(events)

        added = [first.id, *(other.id for other in others)]
        assert within == added
        assert [found.id for found in await outside.get_jobs()] == added
        assert isinstance(received, JobWaiting)
        assert received.job_id == first.id
        assert await first.cancel()  # a job of the block is followed and acted upon like any other
        assert (await first.refresh()).state is JobState.CANCELLED

    async def test_a_block_that_raises_adds_nothing(self, store: Store, transaction: Transaction) -> None:
        async with store.bus.subscribe({"q"}) as events:
            with pytest.raises(ZeroDivisionError):
                await _add_and_fail(store, transaction)
            later = await Queue("q", store).add("work")
            received = await anext(events)

        assert [found.id for found in await everything(store)] == [later.id]
        assert isinstance(received, JobWaiting)
        assert received.job_id == later.id

    async def test_within_a_block_all_is_as_if_it_were_stored(
        self, store: Store, transaction: Transaction
    ) -> None:
        steps = _steps(store.features)
        async with MemoryStore() as model:
            for one in (store, model):
                for state in (JobState.WAITING, JobState.DELAYED, JobState.COMPLETED, JobState.ACTIVE):
                    await in_state(one, state, job(state.value, priority=1))
                await add(one, *_held(store.features))
            async with transaction() as connection, store.using(connection) as inside:
                for what, step in steps.items():
                    assert await _answer(step, inside) == await _answer(step, model), what

            assert _comparable(await everything(store)) == _comparable(await everything(model))

    async def test_a_block_is_for_adding_and_reading_and_ends(
        self, store: Store, transaction: Transaction
    ) -> None:
        async with transaction() as connection, store.using(connection) as inside:
            for name in CALLS.keys() - READS - ADDS:
                with pytest.raises(StoreError, match="added and read"):
                    await CALLS[name](inside)
            await inside.insert([job("a")], now=at(0))

        with pytest.raises(StoreError, match="ended"):
            await inside.insert([job("b")], now=at(0))
        assert [key.id for key in (await inside.delete(Q, limit=9, now=at(0))).removed] == ["a"]
        assert await inside.count(Q, now=at(0)) == {}

    async def test_a_block_in_a_block_is_part_of_it(self, store: Store, transaction: Transaction) -> None:
        async with transaction() as connection, store.using(connection) as outer:
            async with outer.using() as inner:
                await inner.insert([job("a")], now=at(0))
                assert await outer.count(Q, now=at(0)) == {}
            with pytest.raises(ZeroDivisionError):
                await _add_and_fail(outer, nullcontext)
            assert [found.id for found in await everything(outer)] == ["a"]
            assert await everything(store) == []

        assert [found.id for found in await everything(store)] == ["a"]


async def _add_and_fail(store: Store, transaction: Transaction) -> None:
    async with transaction() as connection, store.using(connection) as inside:
        await Queue("q", inside).add("work")
        raise ZeroDivisionError


def _held(features: frozenset[Feature]) -> list[JobRecord]:
    keyed = {"unique_key": "held"} if Feature.UNIQUE_KEYS in features else {}
    grouped = {"group": "g"} if Feature.GROUPS in features else {}
    return [job("holder", priority=2, **keyed), job("member", priority=2, **grouped)]


Step = Callable[[Store], Any]


def _steps(features: frozenset[Feature]) -> Mapping[str, Step]:
    """Calls on a store that has jobs already; those that read come after those that add."""
    adds: dict[str, tuple[list[JobRecord], dict[str, Any]]] = {
        "some": ([job("a", priority=1), job("b", priority=1, lifo=True), job("c", delay=span(9))], {}),
        "ids that exist": ([job("completed"), job("a", delay=span(1)), job("d", run_at=at(-1))], {}),
        "ids that exist, new ones only": ([job("e"), job("a")], {"new_only": True}),
        "two queues, and ageing": ([job("f", ageing=span(60)), job("a", queue="other")], {}),
    }
    if Feature.UNIQUE_KEYS in features:
        adds["keys"] = (
            [
                job("g", unique_key="held"),
                job("h", unique_key="k", unique_for=span(9)),
                job("i", unique_key="k"),
            ],
            {},
        )
        adds["a key of the block"] = ([job("j", unique_key="k")], {})
    if Feature.GROUPS in features:
        adds["a group"] = ([job("k", group="g", group_max_size=2)], {})
        adds["a full group"] = ([job("l", group="g", group_max_size=2)], {})
    if Feature.FLOWS in features:
        adds["a flow"] = ([job("child", parent=JobKey("q", "parent")), job("parent", delay=span(5))], {})
    steps: dict[str, Step] = {
        name: methodcaller("insert", jobs, now=at(1), **more) for name, (jobs, more) in adds.items()
    }
    wheres = {
        "all": Q,
        "a state": Where(queue="q", states=frozenset({JobState.WAITING})),
        "ids": Where(queue="q", ids=frozenset({"a", "holder", "none"})),
        "old ones": Where(queue="q", older_than=span(2)),
        "names": Where(queue="q", names=frozenset({"none"})),
        "what has expired": Where(queue="q", expired=True),
        "what nobody says to keep": Where(queue="q", unretained=True),
        "a report": Where(queue="q", report="[]"),
    }
    if Feature.UNIQUE_KEYS in features:
        wheres["a key"] = Where(queue="q", unique_key="k")
    if Feature.GROUPS in features:
        wheres["a group"] = Where(queue="q", group="g")
    if Feature.FLOWS in features:
        wheres["a parent"] = Where(queue="q", parent=JobKey("q", "parent"))
    for name, where in wheres.items():
        steps[f"{name}, counted"] = methodcaller("count", where, most=3, now=at(2))
        steps[f"{name}, found"] = methodcaller("find", where, limit=99, now=at(2))
    steps["counted by group"] = methodcaller("count", Q, by_group=True, now=at(2))
    for order in Order:
        steps[f"pages, {order}"] = partial(
            _pages, wheres["a state" if order is Order.CLAIM else "all"], order
        )
    return steps


async def _pages(where: Where, order: Order, store: Store) -> Sequence[JobRecord]:
    """All jobs of a set, found two at a time."""
    found: list[JobRecord] = []
    while page := await store.find(
        where, limit=2, after=found[-1] if found else None, order=order, now=at(2)
    ):
        found += page
    return found


async def _answer(step: Step, store: Store) -> Any:
    try:
        answer = await step(store)
    except GroupFullError as error:
        return str(error)
    if isinstance(answer, Mapping):
        return dict(answer)
    return [one if isinstance(one, Inserted) else _comparable([one]) for one in answer]


def _comparable(records: Sequence[JobRecord]) -> list[JobRecord]:
    """What is the same on every store; the token is drawn."""
    return [normal(replace(record, seq=0, token=None)) for record in records]
