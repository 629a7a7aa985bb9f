"""Explain: what keeps a job, whoever works."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from conveyor.conformance.behaviour.explain.jobs import NEXT, NO_WORKERS, why
from conveyor.conformance.behaviour.worker_registry import registered, running
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Bench, Gate, fail, nothing
from conveyor.conformance.kit.make import add, at, child, take_one
from conveyor.core import (
    Explanation,
    Feature,
    JobNotFoundError,
    JobState,
    NewJob,
    explanation,
)
from conveyor.core.store import Change, JobKey, JobRecord, Pause, Where
from conveyor.core.testing import FaultyStore


@area("explain")
class Reasons:
    """What an explanation says, by the job's state and what is stored around it."""

    async def test_an_unknown_job_is_not_found(self, bench: Bench) -> None:
        with pytest.raises(JobNotFoundError):
            await bench.queue.explain("unknown")

    async def test_a_waiting_job_without_a_worker(self, bench: Bench) -> None:
        """A waiting job is explained by the lack of a worker, and by its place in line."""
        job = await bench.queue.add("work")

        found = await bench.queue.explain(job.id)

        assert isinstance(found, Explanation)
        assert (found.queue_name, found.job_id, found.job_name) == ("q", job.id, "work")
        assert (found.state, found.blocked, found.reasons) == (JobState.WAITING, True, (NO_WORKERS, NEXT))
        assert str(found).splitlines() == [
            f"job {job.id!r} (work) of queue 'q' is waiting:",
            "- no worker is registered for its queue",
            "- it is the next in line",
        ]

    async def test_a_delayed_job(self, bench: Bench) -> None:
        """A delayed job is explained by when it is due, and by the lack of a worker."""
        job = await bench.queue.add("work", delay="1h")

        found = await bench.queue.explain(job.id)

        assert found.reasons == (explanation.Delayed(until=at(3_600)), NO_WORKERS)
        assert "delayed until 2026-03-02T10:00:00.000+00:00" in str(found)

    async def test_pauses_that_bear_on_it_are_named_and_others_are_not(self, bench: Bench) -> None:
        job = await bench.queue.add("work")
        await bench.queue.pause()
        await bench.queue.pause("work")
        await bench.queue.pause("other")
        await bench.store.pause("q", Pause(name="work"), timedelta(minutes=5))

        reasons = await why(bench, job.id)

        assert {reason for reason in reasons if isinstance(reason, explanation.Paused)} == {
            explanation.Paused(job_name=None, group=None, until=None),
            explanation.Paused(job_name="work", group=None, until=None),
        }

    @needs(Feature.GROUPS)
    async def test_a_paused_group_and_until_when(self, bench: Bench) -> None:
        """A job of a paused group is explained by the pause and its end; one of another group is not."""
        job = await bench.queue.add("work", group="g")
        other = await bench.queue.add("work", group="h")
        await bench.store.pause("q", Pause(group="g"), timedelta(minutes=5))

        assert explanation.Paused(job_name=None, group="g", until=at(300)) in await why(bench, job.id)
        assert await why(bench, other.id) == (NO_WORKERS, explanation.InLine(ahead=1, exact=True))

    @needs(Feature.FLOWS)
    async def test_a_parent_names_the_children_that_have_not_ended(self, bench: Bench) -> None:
        kids = [child(f"kid-{n:02}", queue="kids") for n in range(15)]
        await add(bench.store, *kids, JobRecord(queue="q", id="parent", name="work"))
        held = await take_one(bench.store, "kid-00", queue="kids", now=bench.clock.now())
        assert held.id == "kid-00"

        [reason, *_] = await why(bench, "parent")

        assert isinstance(reason, explanation.WaitsForChildren)
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
        held = explanation.Running(worker="mail-1", since=at(0), lease_until=at(30))
        assert found.reasons == (held, explanation.CancellationPending())
        assert not found.blocked

    async def test_a_finished_job_says_how_it_ended(self, bench: Bench) -> None:
        done = await bench.queue.add("work")
        await bench.run()
        failed = await bench.queue.add("work", dead_letter="dead")
        await bench.run(fail)
        cancelled = await bench.queue.add("work", delay="1h")
        await cancelled.cancel()
        [dead_letter] = await bench.another_queue("dead").get_jobs()

        assert await why(bench, done.id) == (
            explanation.Finished(state=JobState.COMPLETED, at=at(0), why=None),
        )
        assert await why(bench, failed.id) == (
            explanation.Finished(state=JobState.FAILED, at=at(0), why="run 1 went wrong"),
            explanation.InDeadLetters(queue_name="dead"),
        )
        assert await why(bench, cancelled.id) == (
            explanation.Finished(state=JobState.CANCELLED, at=at(0), why=None),
        )
        found = await bench.another_queue("dead").explain(dead_letter.id)
        assert explanation.IsDeadLetter(queue_name="q", job_id=failed.id) in found.reasons

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

        assert [place.ahead for place in places if isinstance(place, explanation.InLine)] == [2, 0, 1, 3]

    async def test_a_long_line_is_counted_up_to_a_thousand(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work") for _ in range(1_100)])

        assert (await why(bench, jobs[999].id))[-1] == explanation.InLine(ahead=999, exact=True)
        last = (await why(bench, jobs[-1].id))[-1]
        assert last == explanation.InLine(ahead=1_000, exact=False)
        assert str(last) == "at least 1000 waiting jobs are ahead of it"

    async def test_explaining_changes_nothing_and_costs_little(self, bench: Bench) -> None:
        job = await bench.queue.add("work", group="g" if Feature.GROUPS in bench.store.features else None)
        async with running(bench, {"other": nothing}):
            await registered(bench)
            before = await bench.store.find(Where(queue="q"), limit=9)
            faulty = FaultyStore(bench.store)
            queue = bench.another_queue("q")
            queue._store = faulty  # noqa: SLF001 - the same queue, on a store that counts

            await queue.explain(job.id)

            assert await bench.store.find(Where(queue="q"), limit=9) == before
            assert set(faulty.calls) <= {"find", "count", "paused", "advance"}
            assert len(faulty.calls) <= 12
