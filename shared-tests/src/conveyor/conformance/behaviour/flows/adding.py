"""Flow behaviour: adding flows, in one step or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Watcher
from conveyor.conformance.kit.flow_bench import FlowBench, every, leaf
from conveyor.conformance.kit.make import at
from conveyor.core import (
    Backoff,
    Deduplication,
    FlowJob,
    FlowProducer,
    Group,
    GroupFullError,
    InvalidOptionError,
    Job,
    JobExistsError,
    JobState,
    Keep,
    PayloadError,
    Queue,
)
from conveyor.core.events import JobCompleted, JobWaiting, JobWaitingChildren
from conveyor.core.job_options import AddOptions
from conveyor.core.store import Feature, Store, Where

#: As many jobs as a flow is tested with.
LARGE = 10_000


@dataclass
class Page:
    """Typed data."""

    number: int


@area("flow behaviour", Feature.FLOWS)
class AddingFlows:
    """One step, with all that adding a single job offers."""

    async def test_a_flow_across_queues_runs_from_its_leaves_to_its_root(self, store: Store) -> None:
        bench = FlowBench(store)
        flow = FlowJob(
            "assemble",
            "q",
            {"id": 42},
            children=[
                FlowJob("fetch", "q", {"source": "sales"}),
                FlowJob("fetch", "r", {"source": "stock"}, children=[FlowJob("log in", "q")]),
            ],
        )

        added = await bench.producer.add(flow)
        jobs = {job.data and job.data.get("source", "root"): job for job in every(added)}
        await bench.run_all("q", "r")

        root = await added.job.refresh()
        assert (root.state, root.return_value) == (JobState.COMPLETED, f"result of {root.id}")
        assert list(bench.runs.values()) == [1, 1, 1, 1]
        assert list(bench.runs)[-1] == root.id
        assert root.children_ids == (jobs["sales"].id, jobs["stock"].id)
        assert await root.get_children_values() == {
            jobs["sales"].id: f"result of {jobs['sales'].id}",
            jobs["stock"].id: f"result of {jobs['stock'].id}",
        }
        assert list(await root.get_children_values()) == list(root.children_ids)
        assert [child.id for child in await root.get_dependencies()] == list(root.children_ids)
        parent = await jobs["stock"].get_parent()
        assert parent is not None
        assert (parent.id, jobs["stock"].parent_id, jobs["stock"].parent_queue_name) == (
            root.id,
            root.id,
            "q",
        )

    async def test_what_adding_a_flow_returns_is_what_is_stored(self, store: Store) -> None:
        bench = FlowBench(store)

        added = await bench.producer.add(
            FlowJob(
                "root",
                "q",
                delay="1h",
                children=[
                    FlowJob("a", "q", delay="1m", priority=3, attempts=2),
                    FlowJob("b", "r", lifo=True),
                ],
            )
        )

        assert [one.job.state for one in added.children] == [JobState.DELAYED, JobState.WAITING]
        assert added.job.state is JobState.WAITING_CHILDREN
        for job in every(added):
            stored = await bench.job(job.queue_name, job.id)
            assert stored.to_dict() == job.to_dict()

    @needs(Feature.UNIQUE_KEYS, Feature.GROUPS)
    async def test_every_option_holds_for_every_job_of_a_flow(self, store: Store) -> None:
        bench = FlowBench(store)

        def options(key: str) -> AddOptions:
            return {
                "attempts": 4,
                "backoff": Backoff("exponential", "2s", max_delay="1m"),
                "delay": "1h",
                "priority": -2,
                "lifo": True,
                "timeout": "30s",
                "deduplication": Deduplication(key, ttl="1d"),
                "group": Group("g", max_size=9),
                "remove_on_complete": Keep(age="1h", count=3),
                "remove_on_fail": "2h",
                "fail_parent_on_child_failure": "ignore",
                "dead_letter": "dead",
            }

        alone = await bench.queue.add("work", **options("alone"))
        flow = FlowJob("work", "q", **options("leaf"))
        for key in ("middle", "root"):
            flow = FlowJob("work", "q", children=[flow], **options(key))
        jobs = list(every(await bench.producer.add(flow)))

        def kept(job: Job[Any]) -> object:
            record = job._record  # noqa: SLF001 - what is stored
            settings = replace(job.options, children=(), fails_parent=False)
            ordering = (record.priority, record.lifo, record.group, record.group_max_size, record.unique_for)
            return (settings, *ordering, record.delay or (record.run_at and record.run_at - at(0)))

        found = [await bench.job("q", job.id) for job in (alone, *jobs)]
        assert [job.deduplication_key for job in found] == ["alone", "root", "middle", "leaf"]
        assert [kept(job) for job in found] == [kept(found[0])] * 4

    async def test_ten_thousand_jobs_are_added_in_one_step_however_deep(self, store: Store) -> None:
        bench = FlowBench(store)
        half = LARGE // 2
        deep = leaf("deep-0")
        for n in range(1, half):
            deep = leaf(f"deep-{n}", children=[deep])
        wide = [leaf(f"wide-{n}") for n in range(LARGE - half - 1)]

        added = await bench.producer.add(leaf("root", children=[deep, *wide]))

        assert sum(1 for _ in every(added)) == LARGE
        counts = await bench.queue.get_job_counts()
        assert (counts[JobState.WAITING], counts[JobState.WAITING_CHILDREN]) == (LARGE - half, half)
        assert len(added.job.children_ids) == LARGE - half
        with pytest.raises(JobExistsError):
            await bench.producer.add(leaf("new", children=[leaf("deep-7")]))

    async def test_flows_are_added_together_or_not_at_all(self, store: Store) -> None:
        bench = FlowBench(store)

        first, second = await bench.producer.add_bulk(
            [leaf("a", children=[leaf("a1")]), leaf("b", children=[leaf("b1"), leaf("b2")])]
        )

        assert [job.id for job in every(first)] == ["a", "a1"]
        assert len(second.children) == 2
        assert await bench.producer.add_bulk([]) == []
        with pytest.raises(JobExistsError):
            await bench.producer.add_bulk([leaf("c", children=[leaf("c1")]), leaf("b1")])
        assert set(await bench.states("q")) == {"a", "a1", "b", "b1", "b2"}

    @pytest.mark.parametrize("taken", ["root", "kid", "grandkid"])
    async def test_an_id_that_exists_refuses_the_whole_flow(self, store: Store, taken: str) -> None:
        bench = FlowBench(store)
        before = await bench.queue.add("work", 1, job_id=taken)
        flow = leaf("root", children=[leaf("other"), leaf("kid", children=[leaf("grandkid")])])

        with pytest.raises(JobExistsError) as raised:
            await bench.producer.add(flow)

        paths = {"root": "", "kid": "children[1]", "grandkid": "children[1].children[0]"}
        assert (raised.value.job_id, raised.value.path) == (taken, paths[taken])
        assert await bench.states("q") == {taken: "waiting"}
        assert (await before.refresh()).data == 1

    async def test_bad_jobs_are_named_by_their_path_and_nothing_is_stored(self, store: Store) -> None:
        bench = FlowBench(store)
        bad: list[tuple[FlowJob, str]] = [
            (FlowJob("a", "q", attempts=0), "attempts"),
            (FlowJob("", "q"), "name"),
            (FlowJob("a", ""), "queue_name"),
            (FlowJob("a", "conveyor:q"), "queue_name"),
            (FlowJob("a", "q", fail_parent_on_child_failure="never"), "fail_parent_on_child_failure"),  # type: ignore[arg-type]
            (FlowJob("a", "q", colour="red"), "colour"),  # type: ignore[call-arg]
            (leaf("twice"), "job_id"),
        ]
        for job, option in bad:
            flow = leaf("root", children=[leaf("twice"), leaf("kid", children=[job])])

            with pytest.raises(InvalidOptionError) as raised:
                await bench.producer.add(flow)

            assert raised.value.option == f"children[1].children[0].{option}"
        with pytest.raises(PayloadError) as refused:
            await bench.producer.add_bulk(
                [leaf("x"), leaf("y", children=[FlowJob("a", "q", {"n": float("nan")})])]
            )
        assert refused.value.path == "flows[1].children[0].data.n"
        with pytest.raises(InvalidOptionError, match=r"^children\[1\]\.job_id="):
            await bench.producer.add(leaf("root", children=[leaf("same"), leaf("same", "r")]))
        assert await bench.states("q", "r") == {}

    @needs(Feature.UNIQUE_KEYS)
    async def test_a_job_whose_key_is_held_counts_as_done(self, store: Store) -> None:
        bench = FlowBench(store)
        holder = await bench.queue.add("work", 1, deduplication=Deduplication("k", mode="replace"))
        held = FlowJob(
            "kid", "q", 2, deduplication=Deduplication("k", mode="replace"), children=[leaf("grandkid")]
        )

        added = await bench.producer.add(leaf("root", children=[held, leaf("other")]))

        assert [one.job.id for one in added.children] == [holder.id, "other"]
        assert [one.job.deduplicated for one in added.children] == [True, False]
        assert added.children[0].children == ()
        assert (await holder.refresh()).data == 2
        assert set(await bench.states("q")) == {holder.id, "root", "other"}
        await bench.run_all("q")
        assert (await bench.states("q"))["root"] == "completed"

    @needs(Feature.UNIQUE_KEYS)
    async def test_a_root_whose_key_is_held_adds_nothing(self, store: Store) -> None:
        bench = FlowBench(store)
        flow = FlowJob("root", "q", deduplication=Deduplication("k"), children=[FlowJob("kid", "q")])
        first = await bench.producer.add(flow)

        again = await bench.producer.add(flow)

        assert (again.job.id, again.job.deduplicated, again.children) == (first.job.id, True, ())
        assert again.job.state is JobState.WAITING_CHILDREN
        assert await bench.queue.count() == 2

    @needs(Feature.GROUPS)
    async def test_a_full_group_refuses_the_whole_flow(self, store: Store) -> None:
        bench = FlowBench(store)
        kids = [leaf(str(n), group=Group("g", max_size=2)) for n in range(3)]

        with pytest.raises(GroupFullError):
            await bench.producer.add(leaf("root", children=kids))

        assert await bench.states("q") == {}
        await bench.producer.add(leaf("root", children=kids[:2]))

    async def test_queues_give_their_types_and_defaults(self, store: Store) -> None:
        bench = FlowBench(store)
        pages: Queue[Any] = bench.another_queue("pages", payload=Page, default_job_options={"attempts": 4})
        producer = FlowProducer(bench.store, queues=[pages], clock=bench.clock)

        added = await producer.add(leaf("book", children=[leaf("page", "pages", data=Page(1))]))

        assert added.children[0].job.data == Page(1)
        assert added.children[0].job.options.attempts == 4
        with pytest.raises(PayloadError, match=r"^children\[0\]\.data\.number: "):
            await producer.add(leaf("other", children=[leaf("x", "pages", data={"number": "many"})]))

    async def test_a_parents_delay_counts_from_the_end_of_its_last_child(self, store: Store) -> None:
        bench = FlowBench(store)
        added = await bench.producer.add(
            leaf("root", delay="1h", children=[leaf("a"), leaf("b", delay="1m")])
        )

        await bench.run_all("q")
        await bench.later("60s")
        await bench.run_all("q")

        root = await added.job.refresh()
        assert (root.state, root.delay_until) == (JobState.DELAYED, at(3660))
        await bench.later("1h")
        await bench.run_all("q")
        assert await bench.state(added.job) is JobState.COMPLETED

    async def test_a_flows_events_are_published(self, store: Store) -> None:
        bench = FlowBench(store)
        async with Watcher(bench.queue, bench.store) as watcher:
            await bench.producer.add(leaf("root", children=[leaf("kid", "r")]))
            await bench.run_all("r")
            await bench.run_all("q")

            received = await watcher.until(JobCompleted)

        kinds = [type(event) for event in received]
        assert kinds[0] is JobWaitingChildren
        assert JobWaiting in kinds

    async def test_a_flow_leaves_nothing_but_its_jobs(self, store: Store) -> None:
        bench = FlowBench(store)

        await bench.producer.add(leaf("root", children=[leaf("kid", "r")]))

        assert sum((await store.count(Where())).values()) == 2
