"""Flow behaviour: every way a child can end, under each policy of those above it, and crashes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, many_calls
from conveyor.conformance.kit.bench import Gate, until
from conveyor.conformance.kit.flow_bench import MANY_CALLS, Dying, FlowBench, Illegible, leaf, run_and_die
from conveyor.conformance.kit.make import MANY, claim
from conveyor.conformance.kit.some import some_of
from conveyor.core import FlowJob, Job
from conveyor.core.store import Feature, JobState, Store, Where

POLICIES = ("fail", "ignore", "remove")
End = Callable[[FlowBench, str, str], Awaitable[None]]


async def completed(bench: FlowBench, queue: str, _: str) -> None:
    """It runs well."""
    await bench.run_all(queue)


async def failed(bench: FlowBench, queue: str, _: str) -> None:
    """Its handler raises."""

    async def fail(job: Job[Any]) -> None:
        raise RuntimeError(job.id)

    await bench.run_all(queue, handler=fail)


async def stalled(bench: FlowBench, queue: str, _: str) -> None:
    """Its worker dies, once too often."""
    await bench.store.claim(claim(1, queue=queue))
    await bench.later("31s")
    await bench.run_all(queue, max_stalled=0)


async def timed_out(bench: FlowBench, queue: str, job_id: str) -> None:
    """Its handler takes too long."""
    gate = Gate()
    async with bench.worker_of(queue, gate):
        # Its run has begun, and not only its lease: the time that it may take is counted from there.
        await gate.until_begun()
        await bench.later("11s")
        await until((await bench.job(queue, job_id)).is_failed)


async def cancelled(bench: FlowBench, queue: str, job_id: str) -> None:
    """It is cancelled while it waits."""
    assert await bench.another_queue(queue).cancel(job_id)


async def cancelled_while_it_runs(bench: FlowBench, queue: str, job_id: str) -> None:
    """It is cancelled while it runs."""
    job = await bench.job(queue, job_id)

    async def cancel_itself(_: Job[Any]) -> None:
        await job.cancel()
        await Gate()(job)

    worker = bench.worker_of(queue, cancel_itself)
    async with worker:

        async def over() -> bool:
            await bench.later("1s")
            return (await job.refresh()).state.terminal

        await until(over)


async def removed(bench: FlowBench, queue: str, job_id: str) -> None:
    """It is removed."""
    assert await bench.another_queue(queue).remove(job_id)


async def drained(bench: FlowBench, queue: str, _: str) -> None:
    """Its queue is drained."""
    assert await bench.another_queue(queue).drain() == 1


async def cleaned(bench: FlowBench, queue: str, _: str) -> None:
    """Its queue is cleaned."""
    assert await bench.another_queue(queue).clean("waiting") == 1


async def obliterated(bench: FlowBench, queue: str, _: str) -> None:
    """Its queue is obliterated."""
    await bench.another_queue(queue).obliterate()


async def of_another_type(bench: FlowBench, queue: str, _: str) -> None:
    """Its data does not fit the type of its worker."""
    await bench.run_all(queue, payload=int)


async def illegible(bench: FlowBench, queue: str, job_id: str) -> None:
    """Its row cannot be decoded."""
    bench.store = Illegible(bench.store, {job_id})  # type: ignore[assignment]
    await bench.run_all(queue)


#: How a child ends, whether that is a failure, and its options.
ENDINGS: dict[str, tuple[End, bool, dict[str, Any]]] = {
    "completed": (completed, False, {}),
    "completed, not kept": (completed, False, {"remove_on_complete": True}),
    "failed": (failed, True, {}),
    "failed, not kept": (failed, True, {"remove_on_fail": True}),
    "stalled": (stalled, True, {}),
    "timed out": (timed_out, True, {"timeout": "10s"}),
    "cancelled": (cancelled, True, {}),
    "cancelled, running": (cancelled_while_it_runs, True, {}),
    "removed": (removed, False, {}),
    "drained": (drained, False, {}),
    "cleaned": (cleaned, False, {}),
    "obliterated": (obliterated, False, {}),
    "undecodable": (of_another_type, True, {}),
    "illegible": (illegible, True, {}),
}


def three_levels(n: int, above: str, policy: str, options: dict[str, Any]) -> FlowJob:
    """A root of one policy, in its middle a parent of the other, and below that the child that ends so."""
    return leaf(
        f"root-{n}",
        f"q{n}",
        fail_parent_on_child_failure=above,
        children=[
            leaf(
                f"middle-{n}",
                f"q{n}",
                fail_parent_on_child_failure=policy,
                children=[leaf(f"kid-{n}", f"kids{n}", **options), leaf(f"sibling-{n}", f"q{n}")],
            ),
            leaf(f"aunt-{n}", f"q{n}"),
        ],
    )


def expected(above: str, policy: str, *, bad: bool) -> tuple[str | None, str | None]:
    """What becomes of the middle and of the root."""
    if not bad or policy == "ignore":
        return "completed", "completed"
    if policy == "remove":
        return None, "completed"
    return "failed", {"fail": "failed", "ignore": "completed", "remove": None}[above]


@area("flow behaviour", Feature.FLOWS)
class Endings:
    """No parent is ever stuck, none runs early, each runs once."""

    @pytest.mark.parametrize("policy", POLICIES)
    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_every_ending_of_a_child_under_every_policy_on_three_levels(
        self, store: Store, ending: str, policy: str
    ) -> None:
        """Whatever way a child ends, and whatever policy it has, its parents become what the rules say."""
        end, bad, options = ENDINGS[ending]
        turn = list(ENDINGS).index(ending) + POLICIES.index(policy)
        for n, above in enumerate(some_of(POLICIES, store, turn)):
            bench = FlowBench(store)
            await bench.producer.add(three_levels(n, above, policy, options))

            await end(bench, f"kids{n}", f"kid-{n}")
            waiting = await bench.states(f"q{n}")
            for _ in range(2):
                await bench.run_all(f"q{n}", f"kids{n}")
                await bench.later("2s")

            middle, root = expected(above, policy, bad=bad)
            found = await bench.states(f"q{n}")
            assert (found.get(f"middle-{n}"), found.get(f"root-{n}")) == (middle, root)
            assert found[f"sibling-{n}"] == found[f"aunt-{n}"] == "completed"
            ran = {f"sibling-{n}": 1, f"aunt-{n}": 1}
            ran |= {
                f"{who}-{n}": 1 for who, state in (("middle", middle), ("root", root)) if state == "completed"
            }
            assert {k: v for k, v in bench.runs.items() if k != f"kid-{n}"} == ran
            if bad and policy != "ignore":
                assert waiting.get(f"middle-{n}") == middle, "decided at once, without a worker of its queue"
                if middle == "failed" and above != "ignore":
                    assert waiting.get(f"root-{n}") == root

    @many_calls
    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("policy", POLICIES)
    async def test_a_worker_that_dies_at_any_call_leaves_no_parent_stuck(
        self, store: Store, policy: str, *, after: bool
    ) -> None:
        turn = POLICIES.index(policy)
        for n in some_of(range(1, MANY_CALLS), store, turn):
            bench = FlowBench(store)
            flow = three_levels(n, "fail", policy, {"name": "bad"})
            await bench.producer.add(flow)
            sound, bench.store = bench.store, Dying(bench.store, n, after=after)  # type: ignore[assignment]
            dying: Any = bench.store
            workers = [bench.worker_of(queue, bench.orderly) for queue in (f"kids{n}", f"q{n}")]

            died = await run_and_die(dying, *workers)
            bench.store = sound
            for _ in range(3):
                await bench.later("31s")
                await bench.run_all(f"q{n}", f"kids{n}")

            middle, root = expected("fail", policy, bad=True)
            found = await bench.states(f"q{n}")
            assert (found.get(f"middle-{n}"), found.get(f"root-{n}")) == (middle, root), f"died at call {n}"
            assert found[f"sibling-{n}"] == found[f"aunt-{n}"] == "completed"
            left = await store.find(Where(states=frozenset({JobState.WAITING_CHILDREN})), limit=MANY)
            assert list(left) == []
            if not died:
                return
        pytest.fail("the worker did not come to the end of its calls")
