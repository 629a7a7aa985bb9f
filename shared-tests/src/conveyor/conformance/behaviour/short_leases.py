"""Queue and flow behaviour: what is held to be decided about is held for a moment, and charged nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, many_calls, needs
from conveyor.conformance.kit.bench import Bench, fail
from conveyor.conformance.kit.flow_bench import MANY_CALLS, Dying, FlowBench, leaf, run_and_die
from conveyor.conformance.kit.make import MANY, span
from conveyor.conformance.kit.some import some_of
from conveyor.core import FlowJob, Queue
from conveyor.core._queue_names import schedules_of
from conveyor.core.store import Feature, JobRecord, JobState, Outcome, Settled, Store, Where
from conveyor.core.testing import WrappedStore

S = JobState
#: A worker's lease, and longer than anybody holds a job to decide about it.
LEASE = span(10)
#: What a parent does about a child that failed.
POLICIES = ("fail", "ignore", "remove")


async def all_of(store: Store, *queues: str) -> list[JobRecord]:
    """Every job of these queues."""
    return [one for queue in queues for one in await store.find(Where(queue=queue), limit=MANY)]


def check_leases(bench: Bench, records: Sequence[JobRecord]) -> None:
    """Nothing is held for longer than a lease, and nothing was charged."""
    latest = bench.clock.now() + LEASE
    assert [one.id for one in records if one.lease_until is not None and one.lease_until > latest] == []
    assert [(one.id, one.stalled) for one in records if one.stalled] == []


#: What holds jobs to decide about them, given the queues "q" and "dead".
ACTS: dict[str, Callable[[Queue[Any], Queue[Any]], Awaitable[object]]] = {
    "cancel": lambda queue, _: queue.cancel("root"),
    "redrive": lambda _, dead: dead.redrive(),
    "change a schedule": lambda queue, _: queue.pause_schedule("key"),
}


@area("queue behaviour")
class ShortLeases:
    """Whoever decides and dies leaves nothing held for long."""

    @needs(Feature.FLOWS)
    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("act", ACTS)
    async def test_a_call_that_dies_at_any_moment_holds_no_job_for_long(
        self, store: Store, act: str, *, after: bool
    ) -> None:
        for n in itertools.count(1):
            bench = FlowBench(store)
            await bench.queue.obliterate(force=True)
            await bench.another_queue("dead").obliterate(force=True)
            await bench.queue.add("bad", job_id="letter", dead_letter="dead", remove_on_fail=n % 2 == 0)
            await bench.run(fail)
            await bench.queue.every("1h", "hourly", key="key")
            await bench.producer.add(leaf("root", children=[leaf("a", children=[leaf("b")]), leaf("c")]))
            dying = Dying(bench.store, n, after=after)
            queue, dead = (Queue[Any](name, dying, clock=bench.clock) for name in ("q", "dead"))
            calling = asyncio.ensure_future(ACTS[act](queue, dead))
            waiting = asyncio.ensure_future(dying.dead.wait())

            await asyncio.wait([calling, waiting], return_when=asyncio.FIRST_COMPLETED)

            died = dying.dead.is_set()
            queues = ("q", "dead", schedules_of("q"))
            check_leases(bench, await all_of(store, *queues))
            await bench.later(LEASE)
            await bench.store.advance(queues)
            found = await all_of(store, *queues)
            assert [one.id for one in found if one.state is S.ACTIVE] == []
            check_leases(bench, found)
            for task in (calling, waiting):
                task.cancel()
            await asyncio.wait([calling, waiting])
            if not died:
                break


@area("flow behaviour", Feature.FLOWS)
class Deciding:
    """Parents, between the end of a child and what that means for them."""

    @many_calls
    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("policy", POLICIES)
    async def test_a_worker_that_dies_while_a_parent_is_decided_charges_it_nothing(
        self, store: Store, policy: Any, *, after: bool
    ) -> None:
        turn = POLICIES.index(policy) + after
        for n in some_of(range(1, MANY_CALLS), store, turn):
            bench = FlowBench(store)
            kids = [leaf(f"kid-{n}", f"kids-{n}", name="bad"), leaf(f"other-{n}", f"kids-{n}")]
            root = leaf(f"root-{n}", f"q-{n}", children=kids, fail_parent_on_child_failure=policy)
            await bench.producer.add(root)
            sound = bench.store
            dying = Dying(sound, n, after=after)
            bench.store = dying  # type: ignore[assignment]

            died = await run_and_die(dying, bench.worker_of(f"kids-{n}", bench.orderly, lock_duration=LEASE))

            bench.store = sound
            check_leases(bench, await all_of(store, f"q-{n}"))
            await bench.later(LEASE)
            await bench.run_all(f"q-{n}", f"kids-{n}", max_stalled=0)
            found = await all_of(store, f"q-{n}")
            check_leases(bench, found)
            states = {"fail": [S.FAILED], "ignore": [S.COMPLETED], "remove": []}
            assert [one.state for one in found] == states[policy], f"died at call {n}"
            if not died:
                return
        pytest.fail("the worker did not come to the end of its calls")

    async def test_a_decision_that_came_too_late_is_made_again(self, store: Store) -> None:
        """What it was made under was taken back meanwhile, and no worker of its queue looks at the parent."""
        bench = FlowBench(store)
        kid = FlowJob("bad", "kids", job_id="kid")
        await bench.producer.add(leaf("root", children=[leaf("middle", children=[kid])]))

        class Slow(WrappedStore):
            late = 3

            async def settle(self, outcomes: Sequence[Outcome], **kwargs: Any) -> Settled:
                if self.late and any(one.lease.id == "middle" for one in outcomes):
                    self.late -= 1
                    await bench.later(LEASE)
                    await super().advance({"q"})
                return await super().settle(outcomes, **kwargs)

        slow = Slow(bench.store)
        bench.store = slow  # type: ignore[assignment]
        await bench.run_all("kids")

        assert slow.late == 0
        assert await bench.states("q") == {"middle": "failed", "root": "failed"}
