"""Queue behaviour: every way of removing publishes what it removed, and whom that released."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from conveyor.conformance.concurrency.interleavings.held_store import HeldStore
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import SOON, Bench, Watcher, until
from conveyor.conformance.kit.make import claim
from conveyor.core import FlowJob, FlowProducer, Job, JobRemovedError, Keep, NewJob, Queue
from conveyor.core.events import JobRemoved, JobWaiting, QueueObliterated
from conveyor.core.store import Deleted, Feature
from conveyor.core.testing import FaultyStore, WrappedStore


async def each(bench: Bench, jobs: list[Job[Any]]) -> None:
    """Remove jobs one by one."""
    for job in jobs:
        await bench.queue.remove(job.id)


async def expired(bench: Bench, _: list[Job[Any]]) -> None:
    """Let jobs finish, and their retention end."""
    await bench.run()

    async def swept() -> bool:
        await bench.later("1 minute")
        return not await bench.queue.get_jobs()

    async with bench.worker():
        await until(swept)


#: Every way in which a queue's jobs are removed, and how they are added for it.
WAYS: dict[str, tuple[Callable[[Bench, list[Job[Any]]], Awaitable[object]], dict[str, Any]]] = {
    "remove": (each, {}),
    "drain": (lambda bench, _: bench.queue.drain(), {}),
    "clean": (lambda bench, _: bench.queue.clean("waiting"), {}),
    "at once": (lambda bench, _: bench.run(), {"remove_on_complete": True}),
    "retention": (expired, {"remove_on_complete": Keep(age="1 minute")}),
}


@area("queue behaviour")
class Removals:
    """What is published of removed jobs."""

    @pytest.mark.parametrize("way", WAYS)
    async def test_every_removed_job_has_one_event_whatever_removes_it(self, bench: Bench, way: str) -> None:
        remove, options = WAYS[way]

        async with Watcher(bench.queue, bench.store) as watching:
            jobs = [await bench.queue.add("work", **options) for _ in range(3)]
            await remove(bench, jobs)
            received = await watching.several(JobRemoved, 3)

        assert sorted(getattr(event, "job_id", "") for event in received) == sorted(job.id for job in jobs)
        assert await bench.queue.get_jobs() == []

    async def test_an_obliterated_queue_makes_one_event(self, bench: Bench) -> None:
        async with Watcher(bench.queue, bench.store) as watching:
            for _ in range(3):
                await bench.queue.add("work")
            await bench.queue.obliterate()
            received = await watching.until(QueueObliterated)

        assert [type(event) for event in received if not isinstance(event, JobWaiting)][
            -1
        ] is QueueObliterated
        assert not any(isinstance(event, JobRemoved) for event in received)

    async def test_who_follows_a_job_of_an_obliterated_queue_receives_its_end(self, bench: Bench) -> None:
        """At once: the clock stands still, so that nobody looks by himself."""
        job = await bench.queue.add("work")
        waiting = asyncio.create_task(job.wait_until_finished())
        observed: list[object] = []

        async def observe() -> None:
            observed.extend([event async for event in job.observe()])

        observing = asyncio.create_task(observe())
        await bench.clock.settle()
        await bench.queue.obliterate()

        async with asyncio.timeout(SOON):
            with pytest.raises(JobRemovedError, match=job.id):
                await waiting
            await observing
        assert type(observed[-1]) is JobRemoved

    async def test_who_reads_a_job_while_its_queue_is_obliterated_receives_its_end(
        self, bench: Bench
    ) -> None:
        """What was read is not true any more when the event is received: it has to be read again."""
        job = await bench.queue.add("work")
        store = HeldStore(bench.store, "q", "find", 1, "end")
        observer: Queue[Any] = Queue("q", store, clock=bench.clock)
        observed: list[object] = []

        async def observe() -> None:
            observed.extend([event async for event in observer.observe(job.id)])

        async with Watcher(bench.queue, bench.store) as watching:
            observing = asyncio.create_task(observe())
            await store.reached.wait()
            await bench.queue.obliterate()
            await watching.until(QueueObliterated)
            await bench.clock.settle()
        store.let_go.set()

        async with asyncio.timeout(SOON):
            await observing
        assert type(observed[-1]) is JobRemoved

    async def test_many_jobs_are_removed_unread_and_published_in_batches(self, bench: Bench) -> None:
        store = FaultyStore(bench.store)
        bench.store = store  # type: ignore[assignment]
        queue = bench.another_queue("q")
        async with Watcher(queue, store) as watching:
            await queue.add_bulk([NewJob("work", n) for n in range(2_500)])
            store.calls.clear()

            assert await queue.drain() == 2_500

            assert len(await watching.several(JobRemoved, 2_500)) == 2_500
        assert store.calls.count("delete") == 4
        assert store.calls.count("find") == store.calls.count("count") == 0

    @needs(Feature.FLOWS)
    async def test_a_parent_that_a_removal_releases_has_an_event(self, bench: Bench) -> None:
        flow = FlowJob("parent", "q", children=[FlowJob("child", "kids")])
        made = await FlowProducer(bench.store, clock=bench.clock).add(flow)

        async with Watcher(bench.queue, bench.store) as watching:
            await bench.another_queue("kids").drain()
            received = await watching.until(JobWaiting)

        assert getattr(received[-1], "job_id", None) == made.job.id

    @needs(Feature.FLOWS)
    async def test_a_released_parent_may_be_claimed_before_its_event(self, bench: Bench) -> None:
        class Eager(WrappedStore):
            """A store where a worker claims what a removal releases before the removal returns."""

            async def delete(self, *args: Any, **options: Any) -> Deleted:
                deleted = await super().delete(*args, **options)
                await super().claim(claim(9))
                return deleted

        flow = FlowJob("parent", "q", children=[FlowJob("child", "q")])
        made = await FlowProducer(bench.store, clock=bench.clock).add(flow)
        bench.store = Eager(bench.store)  # type: ignore[assignment]
        queue = bench.another_queue("q")

        async with Watcher(queue, bench.store) as watching:
            assert await queue.remove(made.children[0].job.id)
            [received] = await watching.several(JobRemoved, 1)

        assert getattr(received, "job_id", None) == made.children[0].job.id
