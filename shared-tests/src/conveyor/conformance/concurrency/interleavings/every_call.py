"""Interleavings: what else happens in a worker's life while any of its calls to the store is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import product
from typing import Any, Final

import pytest

from conveyor.conformance.concurrency.interleavings.happenings import EVENTS, WHILE_WRITING, live
from conveyor.conformance.concurrency.interleavings.held_store import HeldStore, until_true
from conveyor.conformance.concurrency.interleavings.lives import MOMENT, WRITTEN, Life, begin
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import SOON, Bench, Watcher, nothing, until, until_finished
from conveyor.conformance.kit.some import some_of
from conveyor.core import Batch, FlowJob, FlowProducer, Job, JobState, NewJob, Queue, RateLimited, Worker
from conveyor.core.events import CancelRequested
from conveyor.core.store import Feature, Store, Where

#: For a call that not every worker makes.
TIMEOUT: Final = 0.2
#: How many workers are played at once: a closed one waits two seconds for a claim, however slow the store is.
AT_ONCE: Final = 6
CERTAIN: Final = (("claim", 1), ("settle", 1), ("renew", 1), ("advance", 1), *WRITTEN[:2])
#: What is held of a worker of each kind.
HELD: Final = {
    "one by one": (*CERTAIN[:4], ("claim", 2), ("settle", 2), ("count", 1), ("find", 1), ("pause", 1)),
    "later": (
        *WRITTEN,
        ("claim", 3),
        ("claim", 4),
        ("settle", 3),
        ("settle", 4),
        ("renew", 2),
        ("advance", 2),
    ),
    "batches": (("claim", 2), ("settle", 1), ("count", 1), ("find", 1), ("paused", 2)),
}


@area("interleavings")
class Interleavings:
    """Every call of a worker, held at its start and at its end, and everything that may happen meanwhile."""

    # A store that rewrites a file in each call takes minutes for all: most are for the long run.
    @pytest.mark.parametrize(
        "kind",
        [
            "one by one",
            pytest.param("later", marks=pytest.mark.chaos),
            pytest.param("batches", marks=pytest.mark.chaos),
        ],
    )
    @pytest.mark.parametrize("happens", EVENTS, ids=lambda happens: happens.__name__)
    async def test_no_job_is_forgotten_whatever_happens_within_a_call(
        self, store: Store, happens: Callable[[Life], Awaitable[None]], kind: str
    ) -> None:
        async def play(held: tuple[str, int], phase: str) -> None:
            async with at_once:
                life = await begin(store, held, phase, batched=kind == "batches")
                try:
                    await live(life, happens, SOON if held in certain else TIMEOUT)
                except BaseException as error:
                    error.add_note(f"call {held[1]} of {held[0]} was held at its {phase}")
                    raise
                finally:
                    await life.worker.close(0)
                await store.delete(Where(queue=life.queue.name), limit=100)  # a store may rewrite all it has
            assert life.held.reached.is_set() or held not in certain

        calls = HELD[kind] + (WRITTEN if kind == "one by one" and happens in WHILE_WRITING else ())
        certain = () if kind == "batches" else CERTAIN
        if Feature.FLOWS not in store.features:
            calls = tuple(call for call in calls if call[0] != "delete")
        at_once = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            moments = [*product(calls, ("start", "end"))]
            for held, phase in some_of(moments, store, EVENTS.index(happens)):
                group.create_task(play(held, phase))

    @pytest.mark.parametrize("held", ["claim", "count"])
    async def test_what_a_claim_brings_goes_back_if_its_pause_is_received_meanwhile(
        self, store: Store, held: str
    ) -> None:
        if held == "count" and Feature.FLOWS not in store.features:
            pytest.skip("not offered: flows")
        queue: Queue[Any] = Queue("q", store)
        limit = asyncio.Event()
        ran: list[str] = []

        async def handler(job: Job[Any]) -> None:
            ran.append(job.name)
            if job.name == "limited":
                await limit.wait()
                raise RateLimited("1h")

        await queue.add("limited")
        holding = HeldStore(store, "q", held, 2 if held == "claim" else 1, "end")
        async with Worker("q", handler, holding, concurrency=2, poll_interval="1h") as worker:
            await until_true(lambda: ran == ["limited"] and worker.stats().ready == 0)
            if held == "claim":
                await queue.add("next")
            else:
                await FlowProducer(store).add(FlowJob("parent", "q", children=[FlowJob("child", "q")]))
            await holding.reached.wait()
            limit.set()
            await until_true(lambda: worker.stats().running == 0)
            holding.let_go.set()

            async def gone_back() -> bool:
                return await queue.count(JobState.ACTIVE) == 0

            await until(gone_back)
            assert ran == ["limited"] + ["child"] * (held == "count")

    async def test_a_job_that_is_cancelled_while_its_claim_is_on_its_way_does_not_run_to_its_end(
        self, store: Store
    ) -> None:
        queue: Queue[Any] = Queue("q", store)
        job = await queue.add("work")
        holding = HeldStore(store, "q", "claim", 1, "end")

        async def handler(_: Job[Any]) -> None:
            await asyncio.Event().wait()

        # Nothing but the event says it in time: the next heartbeat is hours away.
        async with Worker("q", handler, holding, lock_duration="3h"):
            await holding.reached.wait()
            async with Watcher(queue, store) as watcher:
                assert await queue.cancel(job.id)
                await watcher.until(CancelRequested)
            await asyncio.sleep(MOMENT)  # the worker receives it at the same time
            holding.let_go.set()
            await until_finished(job)

        assert job.state is JobState.CANCELLED

    @needs(Feature.FLOWS)
    async def test_families_are_tidied_that_end_while_another_one_is(self, store: Store) -> None:
        queue: Queue[Any] = Queue("q", store)
        children = [FlowJob("child", "q", remove_on_complete=True)]
        await FlowProducer(store).add_bulk([FlowJob("parent", "q", children=children) for _ in range(3)])
        holding = HeldStore(store, "q", "delete", 1, "start")

        async def tidy() -> bool:
            return await queue.count() == 3 == await queue.count("completed")

        async with Worker("q", nothing, holding, maintenance_interval="1h") as worker:
            await holding.reached.wait()
            await until_true(lambda: worker.stats().settled == 6)
            holding.let_go.set()

            await until(tidy)

    @pytest.mark.parametrize("held", ["count", "paused"])
    async def test_what_was_claimed_keeps_its_lease_while_it_is_looked_at(
        self, bench: Bench, held: str
    ) -> None:
        if held == "count" and Feature.FLOWS not in bench.store.features:
            return
        number = 2 if held == "paused" else 1  # the first is the look at the store when the worker starts
        holding = HeldStore(bench.store, "q", held, number, "start")
        options: dict[str, Any] = {"batch": Batch(3, linger="1h", by="group")} if held == "paused" else {}
        if held == "count":
            await FlowProducer(bench.store).add(FlowJob("parent", "q", children=[FlowJob("child", "q")]))
        else:
            await bench.queue.add_bulk([NewJob("work") for _ in range(3)])

        async with Worker("q", nothing_of_any, holding, clock=bench.clock, **options):
            await holding.reached.wait()
            for n in range(1, 7):
                await bench.later("10s")
                await until_true(partial(holding.has_answered, "renew", n))
            advanced = await bench.store.advance({"q"})
            holding.let_go.set()

        assert (list(advanced.stalled), list(advanced.unstarted)) == ([], [])


async def nothing_of_any(_: object) -> None:
    """A handler of one job or of several that does nothing."""
