"""Flows: what changes a family otherwise."""

from __future__ import annotations

from dataclasses import replace

from conveyor.conformance.contract.flows.family import PARENT, Q, end, family
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    AT_ONCE,
    add,
    at,
    cancelled,
    get,
    job,
    settle,
    span,
    states,
    take_one,
)
from conveyor.core.store import (
    Change,
    Feature,
    JobKey,
    JobState,
    Store,
)


@area("flows", Feature.FLOWS)
class Changing:
    """What `update` does to jobs that wait for their children."""

    async def test_a_job_that_waits_for_children_takes_a_new_payload_and_priority_but_no_delay(
        self, store: Store
    ) -> None:
        await family(store, "a", delay=span(60))
        before = await get(store, "parent")
        where = replace(Q, ids=frozenset({"parent"}))

        changed = await store.update(where, Change(payload="9", priority=4, delay=span(5)), now=at(1))

        assert changed == {PARENT}
        assert await get(store, "parent") == replace(before, payload="9", priority=4, sort_key=4.0)
        for change in (Change(delay=span(5)), Change(run_at=at(99)), Change(cancel=True), Change(retry=True)):
            assert await store.update(where, change, now=at(2)) == frozenset()

    async def test_a_parent_that_is_removed_as_it_ends_leaves_its_children_alone(self, store: Store) -> None:
        await family(store, "a")
        held = await take_one(store, "parent")

        settled = await settle(store, cancelled(held, retention=AT_ONCE), now=at(1))

        assert (list(settled.removed), list(settled.released)) == ([PARENT], [])
        assert await states(store) == {"a": JobState.WAITING}
        assert await end(store, "a", second=2) == []

    async def test_a_child_counts_by_its_own_queue_and_id(self, store: Store) -> None:
        await add(
            store,
            job("a", parent=JobKey("one", "parent")),
            job("parent", queue="one"),
            job("b", parent=JobKey("two", "parent")),
            job("parent", queue="two"),
        )

        assert await end(store, "b") == [JobKey("two", "parent")]
        assert (await get(store, "parent", queue="one")).pending == 1
