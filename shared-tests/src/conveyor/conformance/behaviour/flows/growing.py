"""Flow behaviour: children that a running handler adds."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, many_calls, needs
from conveyor.conformance.kit.bench import Gate
from conveyor.conformance.kit.flow_bench import MANY_CALLS, Dying, FlowBench, leaf, run_and_die
from conveyor.conformance.kit.make import claim, span
from conveyor.conformance.kit.some import some_of
from conveyor.core import (
    Deduplication,
    FlowJob,
    InvalidJobStateError,
    InvalidOptionError,
    Job,
    JobExistsError,
    JobState,
    PayloadError,
    RateLimited,
    Retry,
    Snooze,
    Unrecoverable,
)
from conveyor.core.store import Feature, Store
from conveyor.core.testing import WrappedStore

S = JobState


class Grower:
    """A handler that adds children in its first runs, and then returns their results."""

    def __init__(self, bench: FlowBench, *children: FlowJob) -> None:
        """Add these."""
        self._bench = bench
        self._children = children

    async def __call__(self, job: Job[Any]) -> Any:
        """Add them; those that are there are passed over."""
        if job.name != "grow":
            return await self._bench.orderly(job)
        self._bench.runs[job.id] += 1
        await job.add_children(self._children)
        return await job.get_children_values()


class Twice(WrappedStore):
    """A store whose every settle is made twice, and answers for the second time."""

    async def settle(self, outcomes: Any, **kwargs: Any) -> Any:
        """Settle twice."""
        await super().settle(outcomes, **kwargs)
        return await super().settle(outcomes, **kwargs)


@area("flow behaviour", Feature.FLOWS)
class Growing:
    """`add_children`."""

    async def test_a_job_runs_again_when_the_children_it_added_have_ended(self, store: Store) -> None:
        bench = FlowBench(store)
        await bench.producer.add(leaf("top", children=[leaf("root", name="grow", children=[leaf("first")])]))
        grower = Grower(bench, leaf("a", "r", children=[leaf("below")]), leaf("b", delay="1h"))

        await bench.run_all("q", "r", handler=grower)
        root = await bench.job("q", "root")
        assert (root.state, root.return_value) == (S.WAITING_CHILDREN, None)
        assert root.children_ids == ("first", "a", "b")
        assert [child.id for child in await root.get_dependencies()] == ["first", "a", "b"]
        assert (await bench.job("r", "a")).parent_id == "root"
        await bench.later("1h")
        await bench.run_all("q", "r", handler=grower)

        await root.refresh()
        values = {"first": "result of first", "a": "result of a", "b": "result of b"}
        assert (root.state, root.return_value) == (S.COMPLETED, values)
        assert [run.outcome for run in root.attempt_history] == ["completed", "completed"]
        assert root.attempts_made == 0
        assert bench.runs == {"first": 1, "root": 2, "a": 1, "b": 1, "below": 1, "top": 1}

    @pytest.mark.parametrize(
        ("policy", "state", "runs"), [("fail", "failed", 1), ("ignore", "completed", 2), ("remove", None, 1)]
    )
    async def test_the_jobs_policy_holds_for_children_it_added(
        self, store: Store, policy: Any, state: str | None, runs: int
    ) -> None:
        bench = FlowBench(store)
        await bench.queue.add("grow", job_id="root", fail_parent_on_child_failure=policy)

        await bench.run_all("q", handler=Grower(bench, leaf("a", name="bad"), leaf("b")))

        assert ((await bench.states("q")).get("root"), bench.runs["root"]) == (state, runs)

    @pytest.mark.parametrize(
        ("signal", "state"),
        [
            (RuntimeError("broken"), "delayed"),
            (Retry("1m"), "delayed"),
            (Snooze("1m"), "delayed"),
            (RateLimited("1m"), "waiting"),
            (Unrecoverable("no"), "failed"),
        ],
        ids=["error", "retry", "snooze", "rate limited", "unrecoverable"],
    )
    async def test_a_handler_that_raises_has_added_no_children(
        self, store: Store, signal: Exception, state: str
    ) -> None:
        bench = FlowBench(store)
        await bench.queue.add("grow", job_id="root", attempts=3, backoff="1m")

        async def handler(job: Job[Any]) -> None:
            if job.id == "root":
                await job.add_children([leaf("a")])
            if not bench.runs["root"]:
                bench.runs["root"] += 1
                raise signal

        await bench.run_all("q", handler=handler)
        assert await bench.states("q") == {"root": state}
        await bench.later("1m")
        await bench.run_all("q", handler=handler)

        found = {"root": state} if state == "failed" else {"root": "completed", "a": "completed"}
        assert await bench.states("q") == found

    async def test_a_later_run_that_was_asked_for_wins_over_children(self, store: Store) -> None:
        bench = FlowBench(store)
        await bench.queue.add("grow", job_id="root")

        async def handler(job: Job[Any]) -> None:
            await job.add_children([leaf("a")])
            await job.move_to_delayed("1h")

        await bench.run_all("q", handler=handler)

        assert await bench.states("q") == {"root": "delayed"}

    async def test_a_cancelled_or_stopped_handler_has_added_no_children(self, store: Store) -> None:
        bench = FlowBench(store)
        gate = Gate()

        async def handler(job: Job[Any]) -> None:
            await job.add_children([leaf(f"child of {job.id}")])
            await gate(job)

        for end, state in (("cancel", "cancelled"), ("close", "waiting")):
            gate.begun.clear()
            job = await bench.queue.add("grow", job_id=end)
            worker = bench.worker(handler, lock_duration="1h")
            await worker.start()
            await gate.until_begun()
            if end == "cancel":
                await job.cancel()
                while not (await job.refresh()).state.terminal:
                    await bench.later("1s")
            await worker.close(0)
            assert (await bench.states("q"))[end] == state

        assert await bench.states("q") == {"cancel": "cancelled", "close": "waiting"}

    async def test_a_handler_that_lost_its_job_adds_no_children(self, store: Store) -> None:
        bench = FlowBench(store)
        await bench.queue.add("grow", job_id="root")

        async def handler(job: Job[Any]) -> None:
            bench.runs[job.id] += 1
            await job.add_children([leaf(f"child-{bench.runs['root']}")])
            if bench.runs["root"] == 1:
                await bench.later("31s")
                await bench.store.advance({"q"})
                await bench.store.claim(claim(1, lease=span(60)))

        await bench.run(handler)

        assert await bench.states("q") == {"root": "active"}

    async def test_children_that_the_job_has_already_are_passed_over(self, store: Store) -> None:
        bench = FlowBench(store)
        await bench.queue.add("grow", job_id="root")
        rounds = itertools.count()

        async def handler(job: Job[Any]) -> object:
            if job.id != "root":
                return await bench.orderly(job)
            number = next(rounds)
            kids = [leaf(str(n), children=[leaf(f"{n}-below")]) for n in range(min(number, 2) + 1)]
            await job.add_children(kids)
            return number

        await bench.run_all("q", handler=handler)

        root = await bench.job("q", "root")
        # One child is new in the first three runs, and none in the last.
        assert (root.return_value, root.children_ids) == (3, ("0", "1", "2"))
        assert set(bench.runs.values()) == {1}

    async def test_what_cannot_be_added_is_refused_at_the_call(self, store: Store) -> None:
        bench = FlowBench(store)
        await bench.queue.add("work", job_id="taken", delay="1h")
        await bench.queue.add("grow", job_id="root")
        raised: list[Exception] = []

        async def handler(job: Job[Any]) -> None:
            if job.id != "root" or raised:
                return
            for bad in (
                [leaf("x", children=[FlowJob("a", "q", attempts=0)])],
                [FlowJob("a", "q", object())],
                [leaf("ok"), leaf("y", children=[leaf("taken")])],
                [FlowJob("a", "")],
                "text",
                leaf("alone"),
            ):
                with pytest.raises((InvalidOptionError, PayloadError, JobExistsError)) as refused:
                    await job.add_children(bad)  # type: ignore[arg-type]
                raised.append(refused.value)
            await job.add_children([leaf("kid")])
            with pytest.raises(InvalidOptionError, match="this run has added"):
                await job.add_children([leaf("kid")])

        await bench.run_all("q", handler=handler)

        assert [type(error) for error in raised] == [
            InvalidOptionError,
            PayloadError,
            JobExistsError,
            *(InvalidOptionError,) * 3,
        ]
        assert raised[0].option == "children[0].children[0].attempts"  # type: ignore[attr-defined]
        assert raised[2].path == "children[1].children[0]"  # type: ignore[attr-defined]
        assert await bench.states("q") == {"taken": "delayed", "root": "completed", "kid": "completed"}

    async def test_only_a_jobs_own_handler_may_add_children(self, store: Store) -> None:
        bench = FlowBench(store)
        job = await bench.queue.add("work")

        with pytest.raises(InvalidJobStateError, match="add_children is for the job's own handler"):
            await job.add_children([leaf("a")])

    async def test_a_handler_in_a_thread_adds_children(self, store: Store) -> None:
        bench = FlowBench(store)
        await bench.queue.add("grow", job_id="root")

        def handler(job: Job[Any]) -> object:
            if job.id != "root":
                return 1
            job.add_children([leaf("a"), leaf("b")])
            return job.get_children_values()

        await bench.run_all("q", handler=handler)

        assert (await bench.job("q", "root")).return_value == {"a": 1, "b": 1}

    @needs(Feature.UNIQUE_KEYS)
    async def test_a_job_none_of_whose_children_is_new_runs_again_at_once(self, store: Store) -> None:
        bench = FlowBench(store)
        await bench.queue.add("work", job_id="holder", deduplication=Deduplication("k"), delay="1h")
        await bench.queue.add("grow", job_id="root")

        async def handler(job: Job[Any]) -> str:
            bench.runs[job.id] += 1
            if not job.children_ids:
                await job.add_children([FlowJob("kid", "q", deduplication=Deduplication("k"))])
            return "done"

        await bench.run_all("q", handler=handler)

        assert await bench.states("q") == {"holder": "delayed", "root": "completed"}
        assert bench.runs["root"] == 2

    async def test_a_retried_job_that_had_added_children_has_them_still(self, store: Store) -> None:
        bench = FlowBench(store)
        await bench.queue.add("grow", job_id="root")
        await bench.run_all("q", handler=Grower(bench, leaf("a")))
        root = await bench.job("q", "root")

        await root.retry()
        await bench.run_all("q", handler=Grower(bench, leaf("a")))

        await root.refresh()
        assert (root.state, root.children_ids) == (S.COMPLETED, ("a",))
        assert bench.runs == {"root": 3, "a": 1}

    async def test_a_cancelled_job_that_waits_for_what_it_added_cancels_that(self, store: Store) -> None:
        bench = FlowBench(store)
        root = await bench.queue.add("grow", job_id="root")
        await bench.run_all("q", handler=Grower(bench, leaf("a", "r", children=[leaf("b", "r")])))

        await root.cancel()

        assert await bench.states("q", "r") == dict.fromkeys(["root", "a", "b"], "cancelled")

    @many_calls
    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    async def test_a_worker_that_dies_at_any_call_adds_each_child_once(
        self, store: Store, *, after: bool
    ) -> None:
        for n in some_of(range(1, MANY_CALLS), store, int(after)):
            bench = FlowBench(store)
            queue = f"q{n}"
            grower = Grower(bench, leaf("a", queue, children=[leaf("c", queue)]), leaf("b", queue))
            await bench.another_queue(queue).add("grow", job_id="root")
            sound, bench.store = bench.store, Dying(bench.store, n, after=after)  # type: ignore[assignment]
            dying: Any = bench.store

            died = await run_and_die(dying, bench.worker_of(queue, grower))
            bench.store = sound
            for _ in range(3):
                await bench.later("31s")
                await bench.run_all(queue, handler=grower)

            assert await bench.states(queue) == dict.fromkeys(["root", "a", "b", "c"], "completed"), n
            root = await bench.job(queue, "root")
            assert root.return_value == {"a": "result of a", "b": "result of b"}
            if not died:
                return
        pytest.fail("the worker did not come to the end of its calls")

    async def test_the_outcome_of_a_run_that_added_children_may_be_written_twice(self, store: Store) -> None:
        """The answer to the first was lost: the worker repeats it."""
        bench = FlowBench(store)
        await bench.queue.add("grow", job_id="root")
        repeated = Twice(bench.store)
        bench.store = repeated  # type: ignore[assignment]

        await bench.run_all("q", handler=Grower(bench, leaf("a"), leaf("b", name="bad")))

        assert await bench.states("q") == {"root": "failed", "a": "completed", "b": "failed"}
        assert bench.runs == {"root": 1, "a": 1, "b": 1}
