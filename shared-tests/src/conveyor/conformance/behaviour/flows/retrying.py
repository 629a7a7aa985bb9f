"""Flow behaviour: retrying children and parents."""

from __future__ import annotations

from typing import Any

import pytest

from conveyor.conformance.behaviour.flows.reading import S
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import Watcher
from conveyor.conformance.kit.flow_bench import FlowBench, leaf
from conveyor.core import (
    Job,
)
from conveyor.core.events import JobWaitingChildren
from conveyor.core.store import Feature, Store


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
            received = await watcher.until(JobWaitingChildren)
            assert received[-1].job_id == "middle"  # type: ignore[attr-defined]
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
