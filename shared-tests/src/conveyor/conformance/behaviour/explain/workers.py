"""Explain: what workers have to do with it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from conveyor.conformance.behaviour.explain.jobs import NEXT, why
from conveyor.conformance.behaviour.worker_registry import registered, running
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Bench, Gate, fail, nothing, until
from conveyor.conformance.kit.make import at, claim
from conveyor.core import (
    Batch,
    Feature,
    FlowJob,
    FlowProducer,
    GroupLimit,
    Job,
    JobState,
    NewJob,
    RateLimit,
    Worker,
    explanation,
)


@area("explain")
class RunningOut:
    """What an explanation says of the workers that are registered."""

    async def test_workers_that_do_not_take_its_name(self, bench: Bench) -> None:
        job = await bench.queue.add("other")
        async with running(bench, {"work": nothing}):
            await registered(bench)

            reasons = await why(bench, job.id)

        assert reasons == (explanation.NoWorker(job_name="other", others=1), NEXT)
        assert str(reasons[0]) == "none of the 1 registered workers takes jobs named 'other'"

    async def test_a_worker_that_could_take_it_leaves_nothing_but_its_place(self, bench: Bench) -> None:
        async with running(bench) as worker:
            await registered(bench)
            await worker.pause()
            await bench.calm()
            job = await bench.queue.add("work")

            found = await bench.queue.explain(job.id)

        assert (found.reasons, found.blocked) == ((NEXT,), False)

    async def test_paused_workers_are_named_once_they_have_said_so(self, bench: Bench) -> None:
        async with running(bench, name="mail-1") as worker:
            await worker.pause()
            await bench.calm()
            job = await bench.queue.add("work")
            await bench.later("10s")
            await bench.later("10s")
            await registered(bench)

            assert await why(bench, job.id) == (explanation.WorkersPaused(workers=("mail-1",)), NEXT)

    async def test_workers_without_a_free_slot(self, bench: Bench) -> None:
        """A job that waits for a free slot of busy workers is explained by that."""
        gate = Gate()
        await bench.queue.add("work")
        async with running(bench, gate, prefetch=0):
            await gate.until_begun()
            await registered(bench)
            job = await bench.queue.add("work")

            reasons = await why(bench, job.id)

        assert reasons == (explanation.WorkersBusy(active=1, room=1), NEXT)

    async def test_a_batch_that_lingers_has_room(self, bench: Bench) -> None:
        await bench.queue.pause("late")
        await bench.queue.add_bulk([NewJob("work"), NewJob("work")])
        async with running(bench, batch=Batch(3, linger="1h")) as worker:
            await until(lambda: bench.queue.count("active"))
            await registered(bench)
            job = await bench.queue.add("late")

            reasons = await why(bench, job.id)
            assert worker.stats().ready == 2

        assert reasons == (explanation.Paused(job_name="late", group=None, until=None), NEXT)

    async def test_a_batch_that_has_started_takes_no_more(self, bench: Bench) -> None:
        gate = Gate()
        await bench.queue.add_bulk([NewJob("work"), NewJob("work")])
        async with running(bench, gate, batch=Batch(3)):
            await gate.until_begun()

            async def registered_as_busy() -> bool:
                await bench.later("10s")
                [info] = await registered(bench)
                return (info.running_count, info.batch_size, info.free_count) == (2, 3, 0)

            await until(registered_as_busy)
            job = await bench.queue.add("work")

            reasons = await why(bench, job.id)

        assert reasons == (explanation.WorkersBusy(active=2, room=2), NEXT)

    async def test_jobs_that_other_workers_hold_take_no_room(self, bench: Bench) -> None:
        """Of another name, or of a worker that is dead."""
        gate = Gate()
        await bench.queue.add_bulk([NewJob("x"), NewJob("x")])
        await bench.store.claim(claim(1, worker="a dead one"))
        async with (
            running(bench, {"x": gate}, prefetch=0, name="x"),
            running(bench, {"y": nothing}, name="y") as other,
        ):
            await gate.until_begun()
            await registered(bench, 2)
            await other.pause()  # and has not said so
            job = await bench.queue.add("y")

            assert await why(bench, job.id) == (NEXT,)

    async def test_a_slot_has_room_for_a_batch(self, bench: Bench) -> None:
        begun = asyncio.Event()

        async def handler(_: list[Job[Any]]) -> None:
            begun.set()
            await asyncio.Event().wait()

        await bench.queue.add_bulk([NewJob("work", n) for n in range(3)])
        async with running(bench, handler, batch=Batch(3), concurrency=2) as worker:
            await begun.wait()
            [found] = await registered(bench)
            await worker.pause()
            await bench.calm()
            job = await bench.queue.add("work")

            assert (found.concurrency, found.batch_size) == (2, 3)
            assert await why(bench, job.id) == (NEXT,)

    @needs(Feature.ACTIVE_LIMITS)
    async def test_the_limit_of_a_paused_worker_helps_nobody(self, bench: Bench) -> None:
        gate = Gate()
        async with running(bench, concurrency=5, max_global_concurrency=9) as lax:
            await lax.pause()
            await registered(bench)
            await bench.later("10s")
            await bench.later("10s")
            await bench.queue.add("work")
            async with running(bench, gate, concurrency=5, max_global_concurrency=1):
                await gate.until_begun()
                await registered(bench, 2)
                job = await bench.queue.add("work")

                assert await why(bench, job.id) == (explanation.AtLimit(group=None, active=1, limit=1), NEXT)

    @needs(Feature.ACTIVE_LIMITS)
    async def test_the_queues_limit(self, bench: Bench) -> None:
        """A job behind its queue's limit is explained by it, with how many are active."""
        gate = Gate()
        await bench.queue.add("work")
        async with running(bench, gate, concurrency=5, max_global_concurrency=1):
            await gate.until_begun()
            await registered(bench)
            job = await bench.queue.add("work")

            assert await why(bench, job.id) == (explanation.AtLimit(group=None, active=1, limit=1), NEXT)

    @needs(Feature.ACTIVE_LIMITS, Feature.GROUPS)
    async def test_a_groups_limit_binds_that_group_alone(self, bench: Bench) -> None:
        gate = Gate()
        await bench.queue.add("work", group="g")
        async with running(bench, gate, concurrency=5, group=GroupLimit(concurrency=1)) as worker:
            await gate.until_begun()
            await registered(bench)
            await worker.pause()
            await bench.calm()
            full = await bench.queue.add("work", group="g")
            free = await bench.queue.add("work", group="h")

            assert await why(bench, full.id) == (explanation.AtLimit(group="g", active=1, limit=1), NEXT)
            assert await why(bench, free.id) == (explanation.InLine(ahead=1, exact=True),)

    @needs(Feature.RATE_LIMITS)
    async def test_a_rate_that_is_used_up_and_when_there_is_room_again(self, bench: Bench) -> None:
        limiter = RateLimit(2, per="1 minute")
        await bench.queue.add("work")
        await bench.run(limiter=limiter)
        await bench.later("20s")
        last = await bench.queue.add("work")
        await bench.run(limiter=limiter)
        async with running(bench, limiter=limiter):
            await registered(bench)
            job = await bench.queue.add("work")
            await bench.clock.settle()

            found = await bench.queue.explain(job.id)

        assert (await last.refresh()).state is JobState.COMPLETED
        assert found.reasons == (
            explanation.RateExceeded(group=None, starts=2, max=2, per=timedelta(minutes=1), until=at(60)),
            NEXT,
        )
        assert found.blocked

    @needs(Feature.RATE_LIMITS, Feature.FLOWS)
    async def test_a_parent_that_failed_with_its_child_has_not_started(self, bench: Bench) -> None:
        flow = FlowJob("root", "q", children=[FlowJob("kid", "kids")])
        root = (await FlowProducer(bench.store, clock=bench.clock).add(flow)).job
        await Worker("kids", fail, bench.store, clock=bench.clock).run_until_idle()
        assert await bench.state(root) is JobState.FAILED
        async with running(bench, limiter=RateLimit(1, per="1 minute")) as worker:
            await registered(bench)
            await worker.pause()
            await bench.calm()
            job = await bench.queue.add("work")

            reasons = await why(bench, job.id)

        minute = timedelta(minutes=1)
        assert reasons == (explanation.WithinRate(group=None, starts=0, max=1, per=minute), NEXT)

    @needs(Feature.RATE_LIMITS, Feature.GROUPS)
    async def test_a_groups_rate_and_a_rate_with_room(self, bench: Bench) -> None:
        """A job is explained by its group's used-up rate, and by the queue's, which has starts left."""
        group = GroupLimit(limiter=RateLimit(1, per="10s"))
        options: dict[str, Any] = {"group": group, "limiter": RateLimit(100, per="10s")}
        await bench.queue.add("work", group="g")
        await bench.run(**options)
        async with running(bench, **options):
            await registered(bench)
            job = await bench.queue.add("work", group="g")
            await bench.clock.settle()

            reasons = await why(bench, job.id)

        ten = timedelta(seconds=10)
        assert reasons == (
            explanation.RateExceeded(group="g", starts=1, max=1, per=ten, until=at(10)),
            explanation.WithinRate(group=None, starts=1, max=100, per=ten),
            NEXT,
        )
