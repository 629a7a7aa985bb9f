"""Flow behaviour: random trees and histories, against a few lines that say what should come of them."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from conveyor.conformance.kit.area import area, patient
from conveyor.conformance.kit.flow_bench import FlowBench
from conveyor.core import FlowJob, Job
from conveyor.core.store import Feature, Store

#: How many histories are played unless told otherwise.
EXAMPLES: Final = 25
POLICIES: Final = ("fail", "ignore", "remove")
LIVE: Final = ("waiting", "waiting-children")
_numbers: Final = itertools.count()


@dataclass(eq=False)
class Node:
    """What a job of the tree should be; `state` None: it was removed."""

    id: str
    queue: str
    policy: str
    parent: Node | None
    children: list[Node] = field(default_factory=list)
    state: str | None = "waiting"
    #: Whether it has released its parent.
    released: bool = False

    def flow(self) -> FlowJob:
        """What is added. Each job has a name of its own, so that a worker may be made for it alone."""
        children = [child.flow() for child in self.children]
        policy: Any = self.policy
        return FlowJob(
            self.id, self.queue, job_id=self.id, children=children, fail_parent_on_child_failure=policy
        )

    def end(self, state: str | None) -> None:
        """End, and release the parent if that waits for this job."""
        self.state = state
        if self.parent is None or self.released:
            return
        self.released = True
        if self.parent.state != "waiting-children":
            return
        if state in ("failed", "cancelled") and self.parent.policy != "ignore":
            self.parent.decide()
        elif all(child.released for child in self.parent.children):
            self.parent.state = "waiting"

    def decide(self) -> None:
        """A child has failed."""
        self.end({"fail": "failed", "remove": None}[self.policy])

    def run(self, *, good: bool) -> None:
        """A worker claims it."""
        failed = any(child.state in ("failed", "cancelled") for child in self.children)
        if failed and self.policy != "ignore":
            self.decide()
        else:
            self.end("completed" if good else "failed")

    def cancel(self) -> None:
        """It, and then what is below it."""
        self.end("cancelled")
        todo: list[Node] = [self]
        while todo:
            for child in todo.pop().children:
                if child.state in LIVE:
                    child.end("cancelled")
                    todo.append(child)

    def retry(self) -> None:
        """Wait again, and have the parent wait again if it waits or has failed."""
        self.state = "waiting"
        node: Node = self
        while node.parent is not None and node.released:
            parent = node.parent
            if parent.state not in ("waiting", "waiting-children", "failed"):
                return
            node.released = False
            reopened = parent.state == "failed"
            parent.state = "waiting-children"
            if not reopened:
                return
            node = parent


def grown(die: random.Random, size: int, prefix: str) -> list[Node]:
    """A random tree of that many jobs, the root first."""
    queues = (f"{prefix}a", f"{prefix}b")
    nodes = [Node(f"{prefix}0", queues[0], die.choice(POLICIES), None)]
    for n in range(1, size):
        parent = die.choice(nodes[-4:] if die.random() < 0.5 else nodes)
        node = Node(f"{prefix}{n}", die.choice(queues), die.choice(POLICIES), parent)
        parent.children.append(node)
        parent.state = "waiting-children"
        nodes.append(node)
    return nodes


async def play(store: Store, seed: int, size: int, steps: list[int]) -> None:
    """Grow a tree, and do to its jobs what the steps say, comparing after each."""
    die = random.Random(seed)
    prefix = f"t{next(_numbers)}-"
    nodes = grown(die, size, prefix)
    bench = FlowBench(store)
    added = await bench.producer.add(nodes[0].flow())
    assert added.job.id == nodes[0].id
    for step in steps:
        await one_step(bench, nodes, random.Random(step))
        await compare(bench, nodes)
    # Whatever has happened: nothing is stuck, for it comes to an end.
    for _ in nodes:
        for node in nodes:
            if node.state == "waiting":
                await run(bench, node, good=True)
    await compare(bench, nodes)
    assert not [node.id for node in nodes if node.state in LIVE]


async def one_step(bench: FlowBench, nodes: list[Node], die: random.Random) -> None:
    """Something that may happen to one of the jobs."""
    node = die.choice([node for node in nodes if node.state == "waiting"] or nodes)
    if die.random() < 0.3:
        node = die.choice(nodes)
    queue = bench.another_queue(node.queue)
    if node.state is None:
        return
    if node.state not in LIVE:
        # Of those that have ended only leaves are retried: a parent retried by hand keeps its policy.
        if not node.children and die.random() < 0.7:
            await (await bench.job(node.queue, node.id)).retry()
            node.retry()
        elif die.random() < 0.2:
            await queue.remove(node.id)
            node.end(None)
        return
    what = die.choices(["run", "fail", "cancel", "remove"], [6, 4, 1, 1])[0]
    if what in ("run", "fail"):
        await run(bench, node, good=what == "run")
    elif what == "cancel":
        assert await queue.cancel(node.id)
        node.cancel()
    else:
        assert await queue.remove(node.id)
        node.end(None)


async def run(bench: FlowBench, node: Node, *, good: bool) -> None:
    """Have a worker run this job, and no other."""

    async def handler(job: Job[Any]) -> str:
        if not good:
            raise RuntimeError(job.id)
        return job.id

    await bench.worker_of(node.queue, {node.id: handler}).run_until_idle()
    if node.state == "waiting":
        node.run(good=good)


async def compare(bench: FlowBench, nodes: list[Node]) -> None:
    """Every job is what it should be."""
    found = await bench.states(*{node.queue for node in nodes})
    assert found == {node.id: node.state for node in nodes if node.state is not None}


@area("flow behaviour", Feature.FLOWS)
class RandomFlows:
    """Trees at random."""

    @patient
    async def test_random_flows_come_to_the_ends_they_should(
        self, store: Store, pytestconfig: pytest.Config
    ) -> None:
        asked_for: Any = pytestconfig.getoption("--conveyor-examples")
        steps: Any = pytestconfig.getoption("--conveyor-steps")
        loop = asyncio.get_running_loop()

        def history(seed: int, size: int, numbers: list[int]) -> None:
            asyncio.run_coroutine_threadsafe(play(store, seed, size, numbers), loop).result()

        number = st.integers(min_value=0, max_value=2**32)
        run_all = settings(
            max_examples=asked_for or EXAMPLES,
            derandomize=asked_for is None,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            print_blob=False,
        )(given(number, st.integers(min_value=1, max_value=14), st.lists(number, max_size=steps))(history))
        await asyncio.to_thread(run_all)
