"""Flow behaviour: cancelling and removing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conveyor.conformance.behaviour.flows.reading import S
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import Gate, Watcher, until
from conveyor.conformance.kit.flow_bench import FlowBench, every, leaf
from conveyor.conformance.kit.make import claim, take_by_id
from conveyor.core import (
    FlowJob,
    FlowProducer,
    Worker,
)
from conveyor.core.events import JobDelayed, JobRemoved, JobWaiting, QueuePaused
from conveyor.core.store import Change, Claimed, Feature, Outcome, Store, Where


@area("flow behaviour", Feature.FLOWS)
class Cancelling:
    """Cancelling a parent, and so what it waits for."""

    async def test_a_cancelled_parent_cancels_its_unfinished_children_and_theirs(self, store: Store) -> None:
        bench = FlowBench(store)
        middle = leaf("middle", "r", children=[leaf("a", "r"), leaf("b", delay="1h")])
        added = await bench.producer.add(
            leaf("root", children=[middle, leaf("done", name="done"), leaf("c")])
        )
        outsider = await bench.queue.add("work")
        await bench.run_all("q", handler={"done": bench.orderly})

        assert await added.job.cancel()

        found = await bench.states("q", "r")
        assert (found.pop("done"), found.pop(outsider.id)) == ("completed", "waiting")
        assert set(found.values()) == {"cancelled"}
        assert set(found) == {"root", "middle", "a", "b", "c"}
        assert not await added.job.cancel()

    async def test_children_that_run_are_stopped(self, store: Store) -> None:
        gate = Gate()
        added = await FlowProducer(store).add(FlowJob("root", "q", children=[FlowJob("kid", "r")]))

        async with Worker("r", gate, store):
            await gate.until_begun()
            await added.job.cancel()

            async def over() -> bool:
                return all([(await job.refresh()).state is S.CANCELLED for job in every(added)])

            await until(over)

    async def test_cancelling_again_goes_on_where_a_call_has_failed(self, store: Store) -> None:
        bench = FlowBench(store)
        kids = [leaf(str(n), children=[leaf(f"{n}-{m}") for m in range(2)]) for n in range(3)]
        added = await bench.producer.add(leaf("root", children=kids))
        held = await take_by_id(bench.store, ["root"], now=None)
        await bench.store.settle([Outcome.cancelled(one, one.report) for one in held])

        assert not await added.job.cancel()

        assert set((await bench.states("q")).values()) == {"cancelled"}

    async def test_hundreds_of_children_are_cancelled(self, store: Store) -> None:
        bench = FlowBench(store)
        added = await bench.producer.add(leaf("root", children=[leaf(str(n)) for n in range(250)]))

        await added.job.cancel()

        assert (await bench.queue.get_job_counts())[S.CANCELLED] == 251

    async def test_a_child_retried_while_its_parents_outcome_is_decided_leaves_nothing_stuck(
        self, store: Store
    ) -> None:
        """A retry and the outcome of a parent, at once: whoever comes first, the parent ends in the end."""
        for n in range(5):
            bench = FlowBench(store)
            queue, kids = f"q{n}", f"kids{n}"
            flow = leaf("root", queue, children=[leaf("a", kids, name="bad"), leaf("b", kids, delay="10s")])
            await bench.producer.add(flow)

            async def retry(queue: str = kids, bench: FlowBench = bench, turns: int = n) -> None:
                for _ in range(turns):
                    await asyncio.sleep(0)
                where = Where(queue=queue, ids=frozenset({"a"}))
                await until(lambda: bench.store.update(where, Change(retry=True)))

            retrying = asyncio.create_task(retry())
            while not retrying.done():  # a claim may pass over a job that the retry is looking at
                await bench.worker_of(kids, bench.orderly).run_until_idle()
                await asyncio.sleep(0)  # a store in memory never waits, and the retry is to have its turn
            await retrying
            for _ in range(4):
                await bench.run_all(queue, kids)
                await bench.later("10s")

            found = await bench.states(queue, kids)
            assert found == {"a": "failed", "b": "completed", "root": "failed"}

    @pytest.mark.parametrize("kind", [JobWaiting, JobDelayed])
    @pytest.mark.parametrize("how", ["remove", "drain", "clean", "obliterate", "obliterate by force"])
    async def test_removing_the_last_children_publishes_their_parents_event(
        self, store: Store, how: str, kind: type[JobWaiting | JobDelayed]
    ) -> None:
        bench = FlowBench(store)
        options: dict[str, Any] = {"delay": "1h"} if kind is JobDelayed else {}
        kids = [leaf("a", "r"), leaf("b", "r"), leaf("done", "r", priority=-1)]
        await bench.producer.add(leaf("root", children=kids, **options))
        await bench.producer.add(leaf("other", "elsewhere", children=[leaf("c")]))
        queue = bench.another_queue("r")
        await bench.store.settle([Outcome.completed(one, "{}") for one in (await take_first(bench)).jobs])

        async with Watcher(bench.queue, bench.store) as watcher:
            match how:
                case "remove":
                    assert await queue.remove("a")
                    assert await queue.remove("b")
                case "drain":
                    assert await queue.drain() == 2
                case "clean":
                    assert await queue.clean("waiting", limit=1) == 1
                    assert (await bench.states("q"))["root"] == "waiting-children"
                    assert await queue.clean("waiting") == 1
                case "obliterate":
                    await queue.obliterate()
                case _:
                    await take_first(bench)
                    await queue.obliterate(force=True)
            received = await watcher.until(kind)

        assert [event.job_id for event in received if isinstance(event, kind)] == ["root"]
        assert (await bench.states("q"))["root"] == ("delayed" if options else "waiting")

    async def test_draining_parents_with_their_children_publishes_no_event_of_them(
        self, store: Store
    ) -> None:
        bench = FlowBench(store)
        await bench.producer.add(leaf("root", children=[leaf("a"), leaf("b", children=[leaf("c")])]))

        async with Watcher(bench.queue, bench.store) as watcher:
            assert await bench.queue.drain() == 4
            await bench.queue.pause()
            received = await watcher.until(QueuePaused)

        # Each of them is published as removed, and no parent as free of its children.
        assert [type(event) for event in received] == [JobRemoved] * 4 + [QueuePaused]


async def take_first(bench: FlowBench) -> Claimed:
    """Hold the job of "r" that is to go first."""
    return await bench.store.claim(claim(1, queue="r"))
