"""Flow behaviour: what parents read of their children."""

from __future__ import annotations

from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import fail
from conveyor.conformance.kit.flow_bench import FlowBench, leaf
from conveyor.conformance.kit.make import take_by_id
from conveyor.core import (
    Deduplication,
    FlowJob,
    FlowProducer,
    Job,
    JobFailedError,
    JobRemovedError,
    JobState,
    Keep,
    Worker,
)
from conveyor.core.store import Feature, Outcome, Release, Store, Where
from conveyor.core.testing import WrappedStore, run_maintenance

S = JobState


async def sweep(bench: FlowBench, *queues: str) -> None:
    """Do what workers do now and then for these queues."""
    for queue in queues:
        await run_maintenance(bench.worker_of(queue, fail))


@area("flow behaviour", Feature.FLOWS)
class Reading:
    """What parents read of their children."""

    async def test_a_removed_childs_result_can_be_read_by_its_parent(self, store: Store) -> None:
        bench = FlowBench(store)
        options: dict[str, Any] = {"remove_on_complete": True, "remove_on_fail": True}
        kids = [
            leaf("a", **options),
            leaf("b", "r", remove_on_complete="1s"),
            leaf("bad", name="bad", **options),
        ]
        kids += [leaf("c", remove_on_complete=Keep(count=0))]
        await bench.queue.add("plain", remove_on_complete="1s", job_id="plain")
        await bench.producer.add(leaf("root", children=kids, fail_parent_on_child_failure="ignore"))
        await bench.run_all("r")
        await bench.later("1h")

        seen: dict[str, Any] = {}

        async def parent(job: Job[Any]) -> None:
            if job.id != "root":
                return await bench.orderly(job)  # type: ignore[return-value]
            await bench.later("1h")
            await sweep(bench, "q", "r")
            seen["values"] = await job.get_children_values()
            seen["failed"] = await job.get_failed_children()
            return None

        await bench.run_all("q", handler=parent)

        assert seen["values"] == {"a": "result of a", "b": "result of b", "c": "result of c"}
        assert seen["failed"] == {"bad": "bad went wrong"}
        await bench.later("1s")
        await sweep(bench, "q", "r")
        assert await bench.states("q", "r") == {"root": "completed"}

    @pytest.mark.parametrize("how", ["a child", "by hand", "redriven"])
    async def test_a_parent_that_is_run_again_reads_what_its_removed_children_left(
        self, store: Store, how: str
    ) -> None:
        bench = FlowBench(store)
        kids = [
            leaf("kept", keep="forever"),
            leaf("a", remove_on_complete=True),
            leaf("b", "r", remove_on_complete="1m"),
        ]
        if how == "a child":
            kids.append(leaf("bad", name="bad"))
        await bench.producer.add(leaf("root", children=kids, dead_letter="dead", keep="forever"))
        failed, values = False, dict[str, Any]()

        async def handler(job: Job[Any]) -> str:
            nonlocal failed, values
            await bench.later("1s")
            if not failed and job.name == "bad":
                failed = True
                raise RuntimeError("for now")
            if job.id == "root":
                values = await job.get_children_values()
                if not failed:
                    failed = True
                    raise RuntimeError("for now")
            return job.id

        await bench.run_all("r", "q", handler=handler)
        root = await bench.job("q", "root")
        assert root.state is S.FAILED
        for _ in range(3):
            await bench.later("1h")
            await sweep(bench, "q", "r")
        if how == "a child":
            await (await bench.job("q", "bad")).retry()
        elif how == "by hand":
            await root.retry()
        else:
            assert await bench.another_queue("dead").redrive() == 1
        await bench.run_all("q", handler=handler)

        assert await bench.state(root) is S.COMPLETED
        assert {**values, "bad": "bad"} == {"kept": "kept", "a": "a", "b": "b", "bad": "bad"}
        await bench.later("1d")
        await sweep(bench, "q", "r")
        assert (await bench.states("q", "r")).keys() - {"bad"} == {"kept", "root"}

    async def test_children_of_a_failed_parent_go_when_it_has_gone(self, store: Store) -> None:
        bench = FlowBench(store)
        kids = [leaf("a", remove_on_complete=True), leaf("bad", name="bad", remove_on_fail=True)]
        await bench.producer.add(leaf("root", children=kids, remove_on_fail="1h"))
        await bench.run_all("q")
        await bench.later("1s")
        await sweep(bench, "q")
        assert await bench.states("q") == {"a": "completed", "bad": "failed", "root": "failed"}

        for _ in range(3):
            await bench.later("1h")
            await sweep(bench, "q")

        assert await bench.states("q") == {}

    async def test_children_that_are_not_kept_go_when_their_parent_was_removed(self, store: Store) -> None:
        bench = FlowBench(store)
        await bench.producer.add(
            leaf("root", children=[leaf("a", remove_on_complete=True), leaf("b", delay="1d")])
        )
        await bench.run_all("q")
        await bench.later("1s")
        await sweep(bench, "q")
        assert (await bench.states("q"))["a"] == "completed"

        await bench.queue.remove("root")
        await sweep(bench, "q")

        assert await bench.states("q") == {"b": "delayed"}

    async def test_the_reason_of_a_failure_climbs_to_the_root(self, store: Store) -> None:
        bench = FlowBench(store)
        flow = leaf("kid", name="bad")
        for n in range(50):
            flow = leaf(f"{n}", children=[flow])
        await bench.producer.add(flow)

        await bench.run_all("q")

        assert set((await bench.states("q")).values()) == {"failed"}
        root = await bench.job("q", "49")
        assert root.failed_reason == "child failed: job 'kid' (bad) of queue 'q': kid went wrong"
        assert root.attempts_made == 0
        assert await root.get_failed_children() == {"48": root.failed_reason}
        with pytest.raises(JobFailedError, match="kid went wrong"):
            await root.wait_until_finished()

    async def test_why_children_failed_can_be_read(self, store: Store) -> None:
        bench = FlowBench(store)
        kids = [leaf("bad", name="bad"), leaf("good"), leaf("gone")]
        added = await bench.producer.add(leaf("root", children=kids, fail_parent_on_child_failure="ignore"))
        await bench.queue.cancel("gone")

        await bench.run_all("q")

        root = await added.job.refresh()
        assert root.state is S.COMPLETED
        assert await root.get_failed_children() == {"bad": "bad went wrong", "gone": "cancelled"}
        assert await root.get_children_values() == {"good": "result of good"}

    async def test_a_result_of_a_parent_is_waited_for(self, store: Store) -> None:
        producer = FlowProducer(store)
        added = await producer.add(FlowJob("sum", "q", children=[FlowJob("one", "r"), FlowJob("one", "r")]))

        async def total(job: Job[Any]) -> int:
            return sum((await job.get_children_values()).values())

        async with Worker("q", total, store), Worker("r", lambda _: 1, store):
            assert await added.job.wait_until_finished(15) == 2

    async def test_waiting_for_a_parent_that_is_removed_ends(self, store: Store) -> None:
        producer = FlowProducer(store)
        kid = FlowJob("bad", "r")
        added = await producer.add(FlowJob("sum", "q", children=[kid], fail_parent_on_child_failure="remove"))

        async with Worker("r", fail, store):
            with pytest.raises(JobRemovedError):
                await added.job.wait_until_finished(15)

    @needs(Feature.UNIQUE_KEYS)
    async def test_a_parent_that_is_removed_gives_up_its_key(self, store: Store) -> None:
        bench = FlowBench(store)
        flow = FlowJob(
            "root",
            "q",
            deduplication=Deduplication("k", ttl="1h"),
            fail_parent_on_child_failure="remove",
            children=[FlowJob("bad", "r")],
        )
        await bench.producer.add(flow)

        await bench.run_all("r")

        assert await bench.states("q") == {}
        assert not (await bench.queue.add("other", deduplication=Deduplication("k"))).deduplicated

    async def test_a_parent_released_too_early_does_not_run_before_its_children_have_ended(
        self, store: Store
    ) -> None:
        bench = FlowBench(store)
        await bench.producer.add(leaf("root", children=[leaf("a", "r"), leaf("b", "r")]))
        (held,) = await take_by_id(bench.store, "a", queue="r", now=None)
        await bench.store.settle([Outcome.failed(held, "{}", release=Release.ALL)])
        # A moment before the parent is looked at, somebody removes what has failed.
        await bench.store.delete(Where(queue="r", ids=frozenset({"a"})), limit=1)

        await bench.run_all("q")
        assert await bench.states("q") == {"root": "delayed"}
        await bench.run_all("r")
        await bench.later("1s")
        await bench.run_all("q")

        assert (await bench.states("q"), bench.runs["root"]) == ({"root": "completed"}, 1)
        assert (await bench.job("q", "root")).attempts_made == 0

    async def test_a_parent_whose_children_cannot_be_read_now_is_looked_at_again(self, store: Store) -> None:
        bench = FlowBench(store)

        class NoNotifications(WrappedStore):
            times = 2

            async def count(self, where: Where, **kwargs: Any) -> Any:
                if where.parent is not None and self.times:
                    self.times -= 1
                    raise OSError("not now")
                return await super().count(where, **kwargs)

        await bench.producer.add(leaf("root", children=[leaf("a")]))
        bench.store = NoNotifications(bench.store)  # type: ignore[assignment]
        await bench.run_all("q")
        for _ in range(3):
            await bench.later("1s")
            await bench.run_all("q")

        assert (await bench.states("q"), bench.runs["root"]) == ({"a": "completed", "root": "completed"}, 1)
