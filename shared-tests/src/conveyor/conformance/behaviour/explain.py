"""Explain: why a job is not running."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from conveyor.conformance.behaviour.worker_registry import running, seen
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Bench, Gate, fail, nothing, until
from conveyor.conformance.kit.make import add, at, child, claim, take_one
from conveyor.core import (
    Batch,
    Explanation,
    Feature,
    FlowJob,
    FlowProducer,
    GroupLimit,
    Job,
    JobNotFoundError,
    JobState,
    NewJob,
    RateLimit,
    Worker,
)
from conveyor.core import explanation as told
from conveyor.core.explanation import Reason
from conveyor.core.store import Change, JobKey, JobRecord, Pause, Where
from conveyor.core.testing import FaultyStore

#: Nobody runs in the tests that have no worker.
NOBODY = told.NoWorker(job_name=None, others=0)
NEXT = told.InLine(ahead=0, exact=True)


async def why(bench: Bench, id: str) -> tuple[Reason, ...]:
    """The reasons for a job of queue "q"."""
    return (await bench.queue.explain(id)).reasons


@area("explain")
class Reasons:
    """What is told, by the job's state and what is stored around it."""

    async def test_an_unknown_job_is_not_found(self, bench: Bench) -> None:
        with pytest.raises(JobNotFoundError):
            await bench.queue.explain("unknown")

    async def test_a_waiting_job_without_a_worker(self, bench: Bench) -> None:
        job = await bench.queue.add("work")

        found = await bench.queue.explain(job.id)

        assert isinstance(found, Explanation)
        assert (found.queue_name, found.job_id, found.job_name) == ("q", job.id, "work")
        assert (found.state, found.blocked, found.reasons) == (JobState.WAITING, True, (NOBODY, NEXT))
        assert str(found).splitlines() == [
            f"job {job.id!r} (work) of queue 'q' is waiting:",
            "- no worker is seen at its queue",
            "- it is the next in line",
        ]

    async def test_a_delayed_job(self, bench: Bench) -> None:
        job = await bench.queue.add("work", delay="1h")

        found = await bench.queue.explain(job.id)

        assert found.reasons == (told.Delayed(until=at(3_600)), NOBODY)
        assert "delayed until 2026-03-02T10:00:00.000+00:00" in str(found)

    async def test_pauses_that_bear_on_it_are_told_and_others_are_not(self, bench: Bench) -> None:
        job = await bench.queue.add("work")
        await bench.queue.pause()
        await bench.queue.pause("work")
        await bench.queue.pause("other")
        await bench.store.pause("q", Pause(name="work"), timedelta(minutes=5))

        reasons = await why(bench, job.id)

        assert {reason for reason in reasons if isinstance(reason, told.Paused)} == {
            told.Paused(job_name=None, group=None, until=None),
            told.Paused(job_name="work", group=None, until=None),
        }

    @needs(Feature.GROUPS)
    async def test_a_paused_group_and_until_when(self, bench: Bench) -> None:
        job = await bench.queue.add("work", group="g")
        other = await bench.queue.add("work", group="h")
        await bench.store.pause("q", Pause(group="g"), timedelta(minutes=5))

        assert told.Paused(job_name=None, group="g", until=at(300)) in await why(bench, job.id)
        assert await why(bench, other.id) == (NOBODY, told.InLine(ahead=1, exact=True))

    @needs(Feature.FLOWS)
    async def test_a_parent_names_the_children_that_have_not_ended(self, bench: Bench) -> None:
        kids = [child(f"kid-{n:02}", queue="kids") for n in range(15)]
        await add(bench.store, *kids, JobRecord(queue="q", id="parent", name="work"))
        held = await take_one(bench.store, "kid-00", queue="kids", now=bench.clock.now())
        assert held.id == "kid-00"

        [reason, *_] = await why(bench, "parent")

        assert isinstance(reason, told.WaitsForChildren)
        assert (reason.pending, len(reason.children)) == (15, 10)
        assert reason.children[:2] == (
            (JobKey("kids", "kid-00"), JobState.ACTIVE),
            (JobKey("kids", "kid-01"), JobState.WAITING),
        )
        assert str(reason).endswith("and 5 more")

    async def test_an_active_job_is_held_by_a_worker_since_when(self, bench: Bench) -> None:
        gate = Gate()
        job = await bench.queue.add("work")
        task = asyncio.create_task(bench.run(gate, name="mail-1"))
        await gate.until_begun()
        await bench.later("5s")
        where = Where(queue="q", ids=frozenset({job.id}))
        await bench.store.update(where, Change(cancel=True))

        found = await bench.queue.explain(job.id)

        gate.opened.set()
        await task
        held = told.Running(worker="mail-1", since=at(0), lease_until=at(30))
        assert found.reasons == (held, told.CancelRequested())
        assert not found.blocked

    async def test_a_finished_job_says_how_it_ended(self, bench: Bench) -> None:
        done = await bench.queue.add("work")
        await bench.run()
        failed = await bench.queue.add("work", dead_letter="dead")
        await bench.run(fail)
        cancelled = await bench.queue.add("work", delay="1h")
        await cancelled.cancel()
        [letter] = await bench.another_queue("dead").get_jobs()

        assert await why(bench, done.id) == (told.Finished(state=JobState.COMPLETED, at=at(0), why=None),)
        assert await why(bench, failed.id) == (
            told.Finished(state=JobState.FAILED, at=at(0), why="run 1 went wrong"),
            told.InDeadLetters(queue_name="dead"),
        )
        assert await why(bench, cancelled.id) == (
            told.Finished(state=JobState.CANCELLED, at=at(0), why=None),
        )
        found = await bench.another_queue("dead").explain(letter.id)
        assert told.IsDeadLetter(queue_name="q", job_id=failed.id) in found.reasons

    async def test_the_place_in_line_is_that_of_claims(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk(
            [
                NewJob("work", 1),
                NewJob("work", 2, priority=-1),
                NewJob("work", 3, lifo=True),
                NewJob("work", 4, delay="1h"),
                NewJob("work", 5),
            ]
        )

        places = [(await why(bench, job.id))[-1] for job in jobs if job.state is JobState.WAITING]

        assert [place.ahead for place in places if isinstance(place, told.InLine)] == [2, 0, 1, 3]

    async def test_a_long_line_is_counted_up_to_a_thousand(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work") for _ in range(1_100)])

        assert (await why(bench, jobs[999].id))[-1] == told.InLine(ahead=999, exact=True)
        last = (await why(bench, jobs[-1].id))[-1]
        assert last == told.InLine(ahead=1_000, exact=False)
        assert str(last) == "at least 1000 waiting jobs are ahead of it"

    async def test_explaining_changes_nothing_and_costs_little(self, bench: Bench) -> None:
        job = await bench.queue.add("work", group="g" if Feature.GROUPS in bench.store.features else None)
        async with running(bench, {"other": nothing}):
            await seen(bench)
            before = await bench.store.find(Where(queue="q"), limit=9)
            faulty = FaultyStore(bench.store)
            queue = bench.another_queue("q")
            queue._store = faulty  # noqa: SLF001 - the same queue, on a store that counts

            await queue.explain(job.id)

            assert await bench.store.find(Where(queue="q"), limit=9) == before
            assert set(faulty.calls) <= {"find", "count", "paused", "claim"}
            assert len(faulty.calls) <= 12


@area("explain")
class RunningOut:
    """What is told of the workers that are seen."""

    async def test_workers_that_do_not_take_its_name(self, bench: Bench) -> None:
        job = await bench.queue.add("other")
        async with running(bench, {"work": nothing}):
            await seen(bench)

            reasons = await why(bench, job.id)

        assert reasons == (told.NoWorker(job_name="other", others=1), NEXT)
        assert str(reasons[0]) == "none of the 1 workers seen takes jobs named 'other'"

    async def test_a_worker_that_could_take_it_leaves_nothing_but_its_place(self, bench: Bench) -> None:
        async with running(bench) as worker:
            await seen(bench)
            await worker.pause()
            job = await bench.queue.add("work")

            found = await bench.queue.explain(job.id)

        assert (found.reasons, found.blocked) == ((NEXT,), False)

    async def test_paused_workers_are_told_once_they_have_said_so(self, bench: Bench) -> None:
        async with running(bench, name="mail-1") as worker:
            await worker.pause()
            job = await bench.queue.add("work")
            await bench.later("10s")
            await bench.later("10s")
            await seen(bench)

            assert await why(bench, job.id) == (told.WorkersPaused(workers=("mail-1",)), NEXT)

    async def test_workers_without_a_free_slot(self, bench: Bench) -> None:
        gate = Gate()
        await bench.queue.add("work")
        async with running(bench, gate, prefetch=0):
            await gate.until_begun()
            await seen(bench)
            job = await bench.queue.add("work")

            reasons = await why(bench, job.id)

        assert reasons == (told.WorkersBusy(active=1, room=1), NEXT)

    async def test_a_batch_that_waits_for_company_has_room(self, bench: Bench) -> None:
        await bench.queue.pause("late")
        await bench.queue.add_bulk([NewJob("work"), NewJob("work")])
        async with running(bench, batch=Batch(3, linger="1h")) as worker:
            await until(lambda: bench.queue.count("active"))
            await seen(bench)
            job = await bench.queue.add("late")

            reasons = await why(bench, job.id)
            assert worker.stats().ready == 2

        assert reasons == (told.Paused(job_name="late", group=None, until=None), NEXT)

    async def test_a_batch_that_has_started_takes_no_more(self, bench: Bench) -> None:
        gate = Gate()
        await bench.queue.add_bulk([NewJob("work"), NewJob("work")])
        async with running(bench, gate, batch=Batch(3)):
            await gate.until_begun()

            async def told_so() -> bool:
                await bench.later("10s")
                [info] = await seen(bench)
                return (info.running_count, info.batch_size, info.free_count) == (2, 3, 0)

            await until(told_so)
            job = await bench.queue.add("work")

            reasons = await why(bench, job.id)

        assert reasons == (told.WorkersBusy(active=2, room=2), NEXT)

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
            await seen(bench, 2)
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
            [found] = await seen(bench)
            await worker.pause()
            job = await bench.queue.add("work")

            assert (found.concurrency, found.batch_size) == (2, 3)
            assert await why(bench, job.id) == (NEXT,)

    @needs(Feature.ACTIVE_LIMITS)
    async def test_the_limit_of_a_paused_worker_helps_nobody(self, bench: Bench) -> None:
        gate = Gate()
        async with running(bench, concurrency=5, max_global_concurrency=9) as lax:
            await lax.pause()
            await seen(bench)
            await bench.later("10s")
            await bench.later("10s")
            await bench.queue.add("work")
            async with running(bench, gate, concurrency=5, max_global_concurrency=1):
                await gate.until_begun()
                await seen(bench, 2)
                job = await bench.queue.add("work")

                assert await why(bench, job.id) == (told.AtLimit(group=None, active=1, limit=1), NEXT)

    @needs(Feature.ACTIVE_LIMITS)
    async def test_the_queues_limit(self, bench: Bench) -> None:
        gate = Gate()
        await bench.queue.add("work")
        async with running(bench, gate, concurrency=5, max_global_concurrency=1):
            await gate.until_begun()
            await seen(bench)
            job = await bench.queue.add("work")

            assert await why(bench, job.id) == (told.AtLimit(group=None, active=1, limit=1), NEXT)

    @needs(Feature.ACTIVE_LIMITS, Feature.GROUPS)
    async def test_a_groups_limit_binds_that_group_alone(self, bench: Bench) -> None:
        gate = Gate()
        await bench.queue.add("work", group="g")
        async with running(bench, gate, concurrency=5, group=GroupLimit(concurrency=1)) as worker:
            await gate.until_begun()
            await seen(bench)
            await worker.pause()
            full = await bench.queue.add("work", group="g")
            free = await bench.queue.add("work", group="h")

            assert await why(bench, full.id) == (told.AtLimit(group="g", active=1, limit=1), NEXT)
            assert await why(bench, free.id) == (told.InLine(ahead=1, exact=True),)

    @needs(Feature.RATE_LIMITS)
    async def test_a_rate_that_is_used_up_and_when_there_is_room_again(self, bench: Bench) -> None:
        limiter = RateLimit(2, per="1 minute")
        await bench.queue.add("work")
        await bench.run(limiter=limiter)
        await bench.later("20s")
        last = await bench.queue.add("work")
        await bench.run(limiter=limiter)
        async with running(bench, limiter=limiter):
            await seen(bench)
            job = await bench.queue.add("work")
            await bench.clock.settle()

            found = await bench.queue.explain(job.id)

        assert (await last.refresh()).state is JobState.COMPLETED
        assert found.reasons == (
            told.RateExceeded(group=None, starts=2, max=2, per=timedelta(minutes=1), until=at(60)),
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
            await seen(bench)
            await worker.pause()
            job = await bench.queue.add("work")

            reasons = await why(bench, job.id)

        minute = timedelta(minutes=1)
        assert reasons == (told.RateLimited(group=None, starts=0, max=1, per=minute), NEXT)

    @needs(Feature.RATE_LIMITS, Feature.GROUPS)
    async def test_a_groups_rate_and_a_rate_with_room(self, bench: Bench) -> None:
        group = GroupLimit(limiter=RateLimit(1, per="10s"))
        options: dict[str, Any] = {"group": group, "limiter": RateLimit(100, per="10s")}
        await bench.queue.add("work", group="g")
        await bench.run(**options)
        async with running(bench, **options):
            await seen(bench)
            job = await bench.queue.add("work", group="g")
            await bench.clock.settle()

            reasons = await why(bench, job.id)

        ten = timedelta(seconds=10)
        assert reasons == (
            told.RateExceeded(group="g", starts=1, max=1, per=ten, until=at(10)),
            told.RateLimited(group=None, starts=1, max=100, per=ten),
            NEXT,
        )


class Explaining(Reasons, RunningOut):
    """Explain."""
