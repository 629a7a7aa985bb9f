"""The form of `using` that every store has: what is added is kept until the block ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conveyor.core import Deduplication, FlowJob, FlowProducer, Queue, Worker
from conveyor.core.errors import StoreClosedError, StoreError, StoreFullError, UnsupportedFeatureError
from conveyor.core.store import Feature, JobKey, JobRecord
from conveyor.core.testing import ClockedStore, FaultyStore, ManualClock, run_until_idle
from conveyor.store.memory import MemoryStore


async def test_code_that_is_given_a_connection_runs_without_a_server() -> None:
    class Connection:
        """What a test has in the place of one; nothing of it is used."""

    async def order(store: MemoryStore, connection: Any) -> Any:
        async with store.using(connection) as inside:
            return await FlowProducer(inside).add(
                FlowJob("ship", "orders", children=[FlowJob("pay", "orders")])
            )

    async with MemoryStore() as store:
        added = await order(store, Connection())
        await run_until_idle(Worker("orders", lambda job: job.name, store))

        assert await added.job.wait_until_finished(timeout=1) == "ship"


async def test_of_many_adds_of_one_key_at_once_one_adds_its_job() -> None:
    async with MemoryStore() as store:
        async with store.using() as inside:
            queue = Queue("q", inside)
            added = await asyncio.gather(
                *(queue.add("x", deduplication=Deduplication("k")) for _ in range(9))
            )

        assert {job.id for job in added} == {job.id for job in await Queue("q", store).get_jobs()}


async def test_children_of_a_job_of_an_earlier_call_are_refused() -> None:
    # Added in one step, the earlier job would wait for it.
    async with MemoryStore() as store, store.using() as inside:
        await inside.insert([JobRecord(queue="q", id="parent", name="x")])
        with pytest.raises(StoreError, match="in one call"):
            await inside.insert([JobRecord(queue="q", id="child", name="x", parent=JobKey("q", "parent"))])


@pytest.mark.parametrize(
    ("feature", "fields"),
    [
        (Feature.UNIQUE_KEYS, {"unique_key": "k"}),
        (Feature.GROUPS, {"group": "g"}),
        (Feature.FLOWS, {"parent": JobKey("q", "parent")}),
    ],
)
async def test_what_the_store_does_not_offer_is_refused_by_the_call(
    feature: Feature, fields: dict[str, Any]
) -> None:
    class Plain(MemoryStore):
        @property
        def features(self) -> frozenset[Feature]:
            return super().features - {feature}

    async with Plain() as store, store.using() as inside:
        with pytest.raises(UnsupportedFeatureError, match="Plain"):
            await inside.insert([JobRecord(queue="q", id="a", name="x", **fields)])


async def test_a_block_that_cannot_be_added_raises_as_it_ends() -> None:
    async with MemoryStore() as store:
        block = store.using()
        inside = await block.__aenter__()
        await Queue("q", inside).add("work")
        await store.close()
        with pytest.raises(StoreClosedError):
            await block.__aexit__(None, None, None)


async def test_a_wrapped_store_is_what_it_is_within_a_block_too() -> None:
    async with FaultyStore(MemoryStore()) as faulty, faulty.using() as inside:
        faulty.fail("insert", StoreFullError("full"))
        with pytest.raises(StoreFullError):
            await Queue("q", inside).add("work")

    clock = ManualClock()
    async with ClockedStore(MemoryStore(), clock) as store:
        async with store.using() as inside:
            queue = Queue("q", inside, clock=clock)
            job = await queue.add("work", delay="1 hour")
        await clock.advance("1 hour")
        await run_until_idle(Worker("q", lambda job: job.id, store, clock=clock))

        assert (await job.refresh()).state == "completed"
