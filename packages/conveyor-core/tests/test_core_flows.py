"""Flows: what core alone decides about them; how they behave on a store is in the conformance suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from conveyor.core import (
    Feature,
    FlowJob,
    FlowProducer,
    InvalidOptionError,
    Job,
    JobOptions,
    JobState,
    Queue,
    UnsupportedFeatureError,
    Worker,
)
from conveyor.core._jobs.report import Report
from conveyor.core.testing import ClockedStore, FaultyStore, ManualClock, WrappedStore, run_maintenance
from conveyor.store.memory import MemoryStore

MakeWorker = Callable[..., Worker[Any]]


@pytest.fixture
def producer(store: FaultyStore, clock: ManualClock) -> FlowProducer:
    return FlowProducer(store, clock=clock)


async def done(job: Job[Any]) -> str:
    return job.name


@pytest.mark.parametrize("children", [[1], ["text"], "text", 7, None, [None], FlowJob("b", "q")])
def test_children_are_flow_jobs(children: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"^children="):
        FlowJob("a", "q", children=children)


def test_a_flow_job_shows_no_data_and_is_short_however_deep() -> None:
    flow = FlowJob("a", "q", "secret")
    for _ in range(5_000):
        flow = FlowJob("b", "q", "secret", children=[flow])

    assert repr(flow) == "<FlowJob 'b' of 'q', 1 children>"


async def test_a_producer_refuses_what_it_cannot_use(store: FaultyStore) -> None:
    queue: Queue[Any] = Queue("q", store)
    for queues in ([queue, Queue("q", store)], ["q"], [None]):
        with pytest.raises(InvalidOptionError, match=r"^queues="):
            FlowProducer(store, queues=queues)  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match=r"^max_payload_bytes="):
        FlowProducer(store, max_payload_bytes=0)
    for flow in (None, "text", [FlowJob("a", "q")]):
        with pytest.raises(InvalidOptionError, match=r"^flow="):
            await FlowProducer(store).add(flow)  # type: ignore[arg-type]
    for flows in (FlowJob("a", "q"), [1], None):
        with pytest.raises(InvalidOptionError, match=r"^flows="):
            await FlowProducer(store).add_bulk(flows)  # type: ignore[arg-type]


async def test_queues_of_another_store_give_their_types_and_defaults_alone(
    store: FaultyStore, producer: FlowProducer, clock: ManualClock
) -> None:
    async with ClockedStore(MemoryStore(), clock) as other:
        queue = Queue("q", other, payload=int, default_job_options={"attempts": 3}, clock=clock)
        producer = FlowProducer(store, queues=[queue, queue], clock=clock)

        added = await producer.add(FlowJob("root", "q", "1", children=[FlowJob("kid", "q", 2)]))

        assert (added.job.data, added.job.options.attempts) == (1, 3)
        assert (await added.job.refresh()).state is JobState.WAITING_CHILDREN
        assert await queue.count() == 0


async def test_nothing_is_asked_of_the_store_for_a_bad_flow(
    store: FaultyStore, producer: FlowProducer
) -> None:
    store.calls.clear()

    with pytest.raises(InvalidOptionError):
        await producer.add(FlowJob("a", "q", children=[FlowJob("b", "q", priority=1.5)]))  # type: ignore[arg-type]

    assert store.calls == []


async def test_a_store_without_flows_is_refused(store: FaultyStore, worker: MakeWorker) -> None:
    class Flat(WrappedStore):
        @property
        def features(self) -> frozenset[Feature]:
            return super().features - {Feature.FLOWS}

    flat = Flat(store)
    with pytest.raises(UnsupportedFeatureError):
        FlowProducer(flat)
    queue: Queue[Any] = Queue("q", flat)
    job = await queue.add("a")

    async def grow(job: Job[Any]) -> None:
        await job.add_children([FlowJob("b", "q")])

    await worker(grow, store=flat).run_until_idle()

    assert "does not offer flows" in str((await job.refresh()).failed_reason)


async def test_only_parents_pay_for_the_look_at_their_children(
    store: FaultyStore, queue: Queue[Any], producer: FlowProducer, worker: MakeWorker
) -> None:
    for _ in range(5):
        await queue.add("plain")
    await worker(done).run_until_idle()
    assert "count" not in store.calls
    assert store.calls.count("find") == 1, "for schedules, once"

    await producer.add(FlowJob("root", "q", children=[FlowJob("kid", "q") for _ in range(5)]))
    store.calls.clear()
    await worker(done, concurrency=10).run_until_idle()

    assert store.calls.count("count") == 1
    assert store.calls.count("find") == 1, "for schedules, once"


async def test_children_kept_for_a_parent_that_failed_are_looked_at_less_and_less_often(
    store: FaultyStore, clock: ManualClock, producer: FlowProducer, worker: MakeWorker
) -> None:
    kids = [FlowJob("good", "q", remove_on_complete=True), FlowJob("bad", "q", priority=1)]
    await producer.add(FlowJob("root", "q", children=kids))

    async def handler(job: Job[Any]) -> None:
        await clock.advance(1)
        if job.name == "bad":
            raise RuntimeError

    runner = worker(handler)
    await runner.run_until_idle()
    changes = []
    for _ in range(24 * 60):
        store.calls.clear()
        await run_maintenance(runner)
        changes.append(store.calls.count("update"))
        await clock.advance("1m")

    assert changes[0] == 1
    assert sum(changes) <= 10
    assert len(await Queue("q", store, clock=clock).get_jobs()) == 3


async def test_the_policy_of_a_parent_is_told_to_its_children(producer: FlowProducer) -> None:
    for policy, ends in (("fail", True), ("ignore", False), ("remove", True)):
        kid = FlowJob("kid", "q")
        flow = FlowJob("root", "q", children=[kid], fail_parent_on_child_failure=policy)  # type: ignore[arg-type]

        added = await producer.add(flow)

        [child] = added.children
        assert child.job.options.fails_parent is ends
        assert added.job.options.fail_parent_on_child_failure == policy
        assert (added.job.options.children, added.job.options.fails_parent) == ((child.job.id,), False)


def test_options_of_flows_are_stored_and_come_back() -> None:
    options = JobOptions(fail_parent_on_child_failure="remove", children=("a", "b"), fails_parent=True)

    assert JobOptions.decode(options.encode()) == options


def test_children_outlive_a_retry_by_hand() -> None:
    text = Report(children=["a"], failures=3).encode(final=True)

    again = Report.decode(text)

    assert (again.children, again.failures, again.final) == (["a"], 0, True)


async def test_a_flow_of_one_job_is_a_job(producer: FlowProducer, worker: MakeWorker) -> None:
    added = await producer.add(FlowJob("a", "q", {"n": 1}))

    assert (added.job.state, added.job.children_ids, added.children) == (JobState.WAITING, (), ())
    await worker(done).run_until_idle()
    assert (await added.job.refresh()).return_value == "a"


async def test_an_unexpected_error_of_the_look_holds_up_no_other_job(
    store: FaultyStore, producer: FlowProducer, queue: Queue[Any], worker: MakeWorker
) -> None:
    added = await producer.add(FlowJob("root", "q", children=[FlowJob("kid", "q")]))
    await worker({"kid": done}).run_until_idle()
    plain = await queue.add("plain", priority=1)
    store.fail("count", RuntimeError("a bug"))

    await worker(done, concurrency=2).run_until_idle()

    assert await plain.is_completed()
    assert (await added.job.refresh()).attempts_made == 0
