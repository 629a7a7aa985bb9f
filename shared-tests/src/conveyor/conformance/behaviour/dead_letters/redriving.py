"""Dead letters: a job goes back as it was."""

from __future__ import annotations

from typing import Any

import pytest

from conveyor.conformance.behaviour.dead_letters.jobs import dead_letters, give_up
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Bench, Recorder, Watcher, fail, nothing
from conveyor.conformance.kit.make import add, child, look, take_one
from conveyor.core import (
    Deduplication,
    Feature,
    FlowJob,
    FlowProducer,
    Group,
    Job,
    JobState,
    Keep,
    NewJob,
    Queue,
    Store,
    Worker,
)
from conveyor.core.events import JobRemoved, JobWaiting, JobWaitingChildren
from conveyor.core.store import Deleted, JobRecord, Outcome
from conveyor.core.testing import WrappedStore


@area("dead letters")
class Redriving:
    """`redrive`: to where they came from, and as often as one likes."""

    @pytest.mark.parametrize("removed", [False, True], ids=["still there", "removed"])
    async def test_a_job_goes_back_with_its_data_its_options_and_all_its_attempts(
        self, bench: Bench, *, removed: bool
    ) -> None:
        job = await bench.queue.add(
            *("work", {"n": [1, None]}),
            job_id="order-42",
            attempts=2,
            priority=7,
            dead_letter="dead",
            remove_on_fail=removed,
            remove_on_complete=Keep(count=5),
        )
        await bench.run(fail)
        await bench.run(fail)

        assert await bench.another_queue("dead").redrive() == 1

        assert await dead_letters(bench) == []
        again = await bench.queue.get_job("order-42")
        assert again is not None
        assert (again.state, again.data, again.priority) == (JobState.WAITING, {"n": [1, None]}, 7)
        assert (again.options, again.attempts_made) == (job.options, 0)
        assert [run.outcome for run in again.attempt_history] == ["failed", "failed"]
        runs = Recorder()
        await bench.run(runs)
        assert runs.ids == ["order-42"]

    @needs(Feature.GROUPS, Feature.UNIQUE_KEYS)
    async def test_group_and_key_go_back_with_a_job_that_was_removed(self, bench: Bench) -> None:
        once = Deduplication("report")
        job = await bench.queue.add(
            "work",
            deduplication=once,
            group=Group("g", max_size=9),
            lifo=True,
            dead_letter="dead",
            remove_on_fail=True,
        )
        await bench.run(fail)

        assert await bench.another_queue("dead").redrive() == 1

        assert (await bench.queue.add("work", deduplication=once)).id == job.id
        record = await look(bench.store, job.id, now=bench.clock.now())
        assert record is not None
        assert (record.group, record.group_max_size, record.lifo) == ("g", 9, True)

    async def test_only_those_asked_for_go_back(self, bench: Bench) -> None:
        queue = bench.another_queue("q", dead_letter="dead")
        dead = bench.another_queue("dead")
        for n in range(5):
            await queue.add("work", n, job_id=f"{n}")
        await bench.run(fail)
        last = (await dead_letters(bench))[-1]

        assert await dead.redrive(ids=[last.id, "unknown"]) == 1
        assert await dead.redrive(limit=2) == 2

        waiting = [job.data for job in await bench.queue.get_jobs("waiting")]
        assert waiting == [0, 1, 4]
        assert await dead.redrive(ids=[]) == 0
        assert (await dead.redrive(), await dead.redrive()) == (2, 0)

    async def test_many_dead_letters_of_several_queues_go_back_each_to_its_own(self, bench: Bench) -> None:
        names = ["q", "other"]
        for name in names:
            queue = bench.another_queue(name, dead_letter="dead")
            for n in range(60):
                await queue.add("work", n, remove_on_fail=n % 2 == 0)
            worker: Worker[Any] = Worker(name, fail, bench.store, clock=bench.clock)
            await worker.run_until_idle()

        assert await bench.another_queue("dead").redrive() == 120

        for name in names:
            found = await bench.another_queue(name).get_jobs("waiting")
            assert sorted(job.data for job in found) == list(range(60))

    async def test_a_job_that_fails_again_at_once_goes_back_once_in_a_call(self, bench: Bench) -> None:
        class Failing(WrappedStore):
            """A store where what goes back has failed again before the call goes on."""

            async def delete(self, *args: Any, **options: Any) -> Deleted:
                await bench.run(fail)
                return await super().delete(*args, **options)

        await bench.queue.add("work", dead_letter="dead", remove_on_fail=True)
        await bench.run(fail)
        dead: Queue[Any] = Queue("dead", Failing(bench.store), clock=bench.clock)

        assert await dead.redrive() == 1

        assert len(await dead_letters(bench)) == 1

    async def test_other_jobs_of_the_queue_stay(self, bench: Bench) -> None:
        dead = bench.another_queue("dead")
        own = await dead.add("own")
        await bench.queue.add("work", dead_letter="dead")
        await bench.run(fail)

        assert await dead.redrive() == 1

        assert [job.id for job in await dead_letters(bench)] == [own.id]
        assert (await own.refresh()).state is JobState.WAITING

    async def test_going_back_has_events_in_both_queues(self, handles: tuple[Store, Store]) -> None:
        mine, other = handles
        job = await Queue[Any]("q", mine).add("work", dead_letter="dead")
        worker: Worker[Any] = Worker("q", give_up, mine)
        await worker.run_until_idle()
        dead: Queue[Any] = Queue("dead", mine)

        async with (
            Watcher(Queue("q", other), mine) as watching,
            Watcher(Queue("dead", other), mine) as watching_dead,
        ):
            await dead.redrive()
            waiting = (await watching.until(JobWaiting))[-1]
            await watching_dead.until(JobRemoved)

        assert isinstance(waiting, JobWaiting)
        assert waiting.job_id == job.id

    @needs(Feature.FLOWS)
    async def test_a_dead_letter_has_no_parent_and_a_child_goes_back_as_one(self, bench: Bench) -> None:
        await add(
            bench.store,
            child("kid", options='{"dead_letter":"dead"}'),
            JobRecord(queue="q", id="parent", name="work"),
        )
        held = await take_one(bench.store, "kid")
        await bench.store.settle([Outcome.given_back(held)])
        await bench.run({"work": fail})

        [dead_letter] = await dead_letters(bench)
        assert dead_letter.parent_id is None
        origin = dead_letter.dead_letter_of
        assert origin is not None
        assert (origin.parent_queue_name, origin.parent_id) == ("q", "parent")
        assert await bench.another_queue("dead").redrive() == 1
        kid = await bench.queue.get_job("kid")
        assert kid is not None
        assert (kid.parent_id, kid.state) == ("parent", JobState.WAITING)

    @needs(Feature.FLOWS)
    @pytest.mark.parametrize("removed", [False, True], ids=["kept", "not kept"])
    async def test_a_child_that_goes_back_reopens_what_failed_for_it(
        self, bench: Bench, *, removed: bool
    ) -> None:
        kid = FlowJob("kid", "kids", dead_letter="dead", remove_on_fail=removed)
        flow = FlowJob("root", "q", children=[FlowJob("middle", "q", children=[kid])])
        added = await FlowProducer(bench.store, clock=bench.clock).add(flow)

        async def late(job: Job[Any]) -> None:
            await bench.later("1s")
            await fail(job)

        await Worker("kids", late, bench.store, clock=bench.clock).run_until_idle()
        assert await bench.state(added.job) is JobState.FAILED

        async with Watcher(bench.queue, bench.store) as watcher:
            assert await bench.another_queue("dead").redrive() == 1
            received = await watcher.until(JobWaitingChildren)
        assert received[-1].job_id == added.children[0].job.id  # type: ignore[attr-defined]
        assert await bench.state(added.job) is JobState.WAITING_CHILDREN
        await Worker("kids", nothing, bench.store, clock=bench.clock).run_until_idle()
        await bench.run()

        assert await bench.state(added.job) is JobState.COMPLETED

    @needs(Feature.GROUPS)
    async def test_a_job_goes_back_whatever_is_paused_and_however_full_its_group_is(
        self, bench: Bench
    ) -> None:
        full = Group("g", max_size=2)
        for removed in (False, True):
            await bench.queue.add("work", group=full, dead_letter="dead", remove_on_fail=removed)
        await bench.run(fail)
        await bench.queue.add_bulk([NewJob("work", group=full), NewJob("work", group=full)])
        await bench.queue.pause()
        dead = bench.another_queue("dead")
        await dead.pause()

        assert await dead.redrive() == 2
        assert await bench.queue.count("waiting") == 4
