"""Flow behaviour: what parents read of their children, retrying, cancelling and removing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Gate, Watcher, fail, until
from conveyor.conformance.kit.flow_bench import FlowBench, every, leaf
from conveyor.conformance.kit.make import claim
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
from conveyor.core.events import JobDelayed, JobRemoved, JobWaiting, JobWaitingChildren, QueuePaused
from conveyor.core.store import Change, Claimed, Feature, Outcome, Release, Store, Where
from conveyor.core.testing import WrappedStore

S = JobState


async def sweep(bench: FlowBench, *queues: str) -> None:
    """Do what workers do now and then for these queues."""
    for queue in queues:
        await bench.worker_of(queue, fail)._maintenance.tick()  # noqa: SLF001 - as `Worker` does


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
        (held,) = (await bench.store.claim(claim(1, queue="r", ids=frozenset({"a"})))).jobs
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

        class Deaf(WrappedStore):
            times = 2

            async def count(self, where: Where, **kwargs: Any) -> Any:
                if where.parent is not None and self.times:
                    self.times -= 1
                    raise OSError("not now")
                return await super().count(where, **kwargs)

        await bench.producer.add(leaf("root", children=[leaf("a")]))
        bench.store = Deaf(bench.store)  # type: ignore[assignment]
        await bench.run_all("q")
        for _ in range(3):
            await bench.later("1s")
            await bench.run_all("q")

        assert (await bench.states("q"), bench.runs["root"]) == ({"a": "completed", "root": "completed"}, 1)


@area("flow behaviour", Feature.FLOWS)
class Retrying:
    """Taking back an end."""

    @pytest.mark.parametrize("how", ["job", "queue"])
    async def test_retrying_a_failed_child_reopens_what_failed_for_it(self, store: Store, how: str) -> None:
        bench = FlowBench(store)
        kid = leaf("kid", "kids", name="bad")
        added = await bench.producer.add(
            leaf("root", children=[leaf("middle", children=[kid]), leaf("aunt")])
        )
        await bench.run_all("q", "kids")
        assert await bench.state(added.job) is S.FAILED

        async with Watcher(bench.queue, bench.store) as watcher:
            if how == "job":
                await (await bench.job("kids", "kid")).retry()
            else:
                assert await bench.another_queue("kids").retry_jobs() == 1
            told = await watcher.until(JobWaitingChildren)
            assert told[-1].job_id == "middle"  # type: ignore[attr-defined]
        assert await bench.states("q", "kids") == {
            "kid": "waiting",
            "middle": "waiting-children",
            "aunt": "completed",
            "root": "waiting-children",
        }
        bench.runs.clear()

        async def good(job: Job[Any]) -> str:
            bench.runs[job.id] += 1
            return job.id

        await bench.run_all("q", "kids", handler=good)
        assert set((await bench.states("q", "kids")).values()) == {"completed"}
        assert bench.runs == {"kid": 1, "middle": 1, "root": 1}

    async def test_a_parent_with_another_failed_child_fails_again(self, store: Store) -> None:
        bench = FlowBench(store)
        kids = [leaf("a", name="bad"), leaf("b", name="bad")]
        await bench.producer.add(leaf("root", children=kids))
        await bench.run_all("q")

        await (await bench.job("q", "a")).retry()

        async def good(job: Job[Any]) -> str:
            return job.id

        await bench.run_all("q", handler=good)
        root = await bench.job("q", "root")
        assert (root.state, root.failed_reason) == (
            S.FAILED,
            "child failed: job 'b' (bad) of queue 'q': b went wrong",
        )

    async def test_a_parent_retried_by_itself_keeps_its_policy(self, store: Store) -> None:
        bench = FlowBench(store)
        await bench.producer.add(leaf("root", children=[leaf("a", name="bad")]))
        await bench.run_all("q")
        root = await bench.job("q", "root")

        await root.retry()
        await bench.run_all("q")
        assert await bench.state(root) is S.FAILED

        await bench.queue.remove("a")
        await root.retry()
        await bench.run_all("q")
        assert await bench.state(root) is S.COMPLETED


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
        held = (await bench.store.claim(claim(1, ids=frozenset({"root"})))).jobs
        await bench.store.settle([Outcome.cancelled(one, one.report) for one in held])

        assert not await added.job.cancel()

        assert set((await bench.states("q")).values()) == {"cancelled"}

    async def test_hundreds_of_children_are_cancelled(self, store: Store) -> None:
        bench = FlowBench(store)
        added = await bench.producer.add(leaf("root", children=[leaf(str(n)) for n in range(250)]))

        await added.job.cancel()

        assert (await bench.queue.get_job_counts())[S.CANCELLED] == 251

    async def test_a_child_retried_while_its_parents_fate_is_decided_leaves_nothing_stuck(
        self, store: Store
    ) -> None:
        """A retry and the fate of a parent, at once: whoever comes first, the parent ends in the end."""
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
    async def test_removing_the_last_children_tells_of_their_parent(
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
            told = await watcher.until(kind)

        assert [event.job_id for event in told if isinstance(event, kind)] == ["root"]
        assert (await bench.states("q"))["root"] == ("delayed" if options else "waiting")

    async def test_draining_parents_with_their_children_tells_of_none(self, store: Store) -> None:
        bench = FlowBench(store)
        await bench.producer.add(leaf("root", children=[leaf("a"), leaf("b", children=[leaf("c")])]))

        async with Watcher(bench.queue, bench.store) as watcher:
            assert await bench.queue.drain() == 4
            await bench.queue.pause()
            told = await watcher.until(QueuePaused)

        # Each of them is told as removed, and no parent as free of its children.
        assert [type(event) for event in told] == [JobRemoved] * 4 + [QueuePaused]


async def take_first(bench: FlowBench) -> Claimed:
    """Hold the job of "r" that is to go first."""
    return await bench.store.claim(claim(1, queue="r"))
