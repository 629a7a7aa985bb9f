"""Queue behaviour: how long finished jobs are kept, by default and as somebody says."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Bench, Watcher, fail, nothing
from conveyor.core import Deduplication, FlowJob, FlowProducer, Job, JobState, Keep, NewJob, Queue, Worker
from conveyor.core.events import JobRemoved
from conveyor.core.store import Deleted, Feature, Where
from conveyor.core.testing import WrappedStore, run_maintenance

_DAY: Final = 86_400


def worker_of(bench: Bench, queue: str) -> Worker[Any]:
    """A worker of any queue, not started."""
    return Worker(queue, nothing, bench.store, clock=bench.clock)


async def sweep(bench: Bench, *queues: str) -> None:
    """Do what workers do now and then for these queues."""
    for queue in queues:
        await run_maintenance(worker_of(bench, queue))


async def there(*queues: Queue[Any]) -> set[str]:
    """The ids of the jobs that these queues have."""
    return {job.id for queue in queues for job in await queue.get_jobs()}


async def fail_some(job: Job[Any]) -> None:
    """Fail the jobs that are named so."""
    if job.name == "fail":
        await fail(job)


class Counting(WrappedStore):
    """A store that counts what is asked of it for jobs that go by default."""

    def __init__(self, store: Any) -> None:
        """Count from here on."""
        super().__init__(store)
        self.found: list[int] = []
        self.removed: list[int] = []

    async def find(self, where: Where, **options: Any) -> Any:
        """Count the jobs of a page."""
        page = await super().find(where, **options)
        if where.unretained:
            self.found.append(len(page))
            # Others that sweep at the same moment come this far before one of them removes the page.
            await asyncio.sleep(0)
        return page

    async def delete(self, where: Where, **options: Any) -> Deleted:
        """Count the jobs that a step removes."""
        deleted = await super().delete(where, **options)
        if where.unretained:
            self.removed.append(len(deleted.removed))
        return deleted


@area("queue behaviour")
class KeepingFinishedJobs:
    """How long finished jobs are kept."""

    async def test_by_default_finished_jobs_are_kept_a_day_and_failed_ones_a_fortnight(
        self, bench: Bench
    ) -> None:
        queue, dead = bench.queue, bench.another_queue("dead")
        for name in ("work", "fail", "cancelled"):
            await queue.add(name, job_id=name)
        await queue.add("fail", job_id="has a dead letter", dead_letter="dead")
        await queue.add("work", job_id="kept", keep="forever")
        await queue.add("fail", job_id="failed, kept", remove_on_fail=False)
        await queue.add("work", job_id="to come", delay="30 days")
        keyed = Feature.UNIQUE_KEYS in bench.store.features
        if keyed:
            await queue.add("work", job_id="key", deduplication=Deduplication("k", ttl="3 days"))
        await queue.cancel("cancelled")
        await bench.run(fail_some)
        [dead_letter] = await dead.get_jobs()
        await worker_of(bench, "dead").run_until_idle()
        always = {"kept", "failed, kept", "to come", dead_letter.id}
        failed = {"fail", "has a dead letter"}
        key = {"key"} if keyed else set[str]()

        async with Watcher(queue, bench.store) as watching:
            await bench.later(_DAY - 1)
            await sweep(bench, "q", "dead")
            assert await there(queue, dead) == {"work", "cancelled"} | key | failed | always
            await bench.later(1)
            await sweep(bench, "q", "dead")
            assert await there(queue, dead) == key | failed | always
            received = await watching.several(JobRemoved, 2)
        assert {getattr(event, "job_id", None) for event in received} == {"work", "cancelled"}
        await bench.later(2 * _DAY - 1)
        await sweep(bench, "q", "dead")
        assert await there(queue, dead) == key | failed | always
        await bench.later(11 * _DAY)
        await sweep(bench, "q", "dead")
        assert await there(queue, dead) == failed | always
        await bench.later(1)
        await sweep(bench, "q", "dead")
        assert await there(queue, dead) == always

    async def test_the_job_says_how_long_it_is_kept_else_its_worker_else_its_queue(
        self, bench: Bench
    ) -> None:
        """Each job names the day on which it goes."""
        queue = bench.another_queue("q", keep="2 days")
        careful = bench.another_queue("q", keep="2 days", default_job_options={"keep": "4 days"})
        for name in ("work", "fail"):
            await queue.add(name, job_id=f"2 {name}")
            await queue.add(name, job_id=f"5 {name}", keep="5 days")
            await careful.add(name, job_id=f"4 {name}")
        await queue.add("work", job_id="1 work", keep="forever", remove_on_complete="1 day")
        await queue.add("fail", job_id="1 fail", keep="forever", remove_on_fail="1 day")
        await bench.run(fail_some)
        for name in ("work", "fail"):
            await queue.add(name, job_id=f"3 by its worker {name}")
            await queue.add(name, job_id=f"5 whatever its worker says {name}", keep="5 days")
            await bench.queue.add(name, job_id=f"3 of a queue that says nothing {name}")
        await bench.run(fail_some, keep="3 days")
        await queue.add("work", job_id="2 cancelled")
        await queue.cancel("2 cancelled")
        await queue.add("work", job_id="at once", keep=0)
        await bench.run()

        left = await there(queue)
        assert len(left) == 15
        for day in range(1, 6):
            await bench.later(_DAY)
            await sweep(bench, "q")
            left = {job_id for job_id in left if int(job_id[0]) > day}
            assert await there(queue) == left

    async def test_a_worker_keeps_so_many_of_what_it_finishes(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work", n) for n in range(5)])
        await bench.run(keep=Keep(count=2))
        await sweep(bench, "q")

        assert await there(bench.queue) == {job.id for job in jobs[-2:]}

    async def test_what_goes_by_default_is_looked_at_once_by_however_many_workers(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("work", n, keep="forever") for n in range(50)])
        await bench.queue.add_bulk([NewJob("work", n) for n in range(250)])
        await bench.run(concurrency=100)
        await bench.later(_DAY)
        store = Counting(bench.store)
        bench.store = store  # type: ignore[assignment]
        workers = [bench.worker() for _ in range(4)]

        async with Watcher(bench.another_queue("q"), store) as watching:
            await asyncio.gather(*(run_maintenance(worker) for worker in workers))
            received = await watching.several(JobRemoved, 250)

        assert len({getattr(event, "job_id", None) for event in received}) == 250
        assert await bench.queue.count() == 50
        # Whoever comes too late for a page leaves the rest to the one who was there first.
        assert max(store.removed) <= 100
        assert len(store.removed) <= 3 + 3
        assert sum(store.found) <= 250 + 3 * 100
        await sweep(bench, "q")
        assert store.found[-2:] == [0, 0]

    @needs(Feature.FLOWS)
    async def test_children_are_kept_by_default_until_their_parent_has_completed(self, bench: Bench) -> None:
        flow = FlowJob(
            "root",
            "q",
            job_id="root",
            delay="3 days",
            children=[FlowJob("kid", "kids", n, job_id=f"kid-{n}") for n in range(3)],
        )
        await FlowProducer(bench.store, clock=bench.clock).add(flow)
        kids = bench.another_queue("kids")
        store = Counting(bench.store)
        bench.store = store  # type: ignore[assignment]
        await worker_of(bench, "kids").run_until_idle()
        for _ in range(6):
            await bench.later(_DAY / 2)
            await sweep(bench, "q", "kids")
        assert await there(kids) == {"kid-0", "kid-1", "kid-2"}
        assert sum(store.found) == 3

        values = list[Any]()

        async def parent(job: Job[Any]) -> None:
            values.extend((await job.get_children_values()).keys())

        await bench.run(parent)
        assert sorted(values) == ["kid-0", "kid-1", "kid-2"]
        for _ in range(2):
            await bench.later(_DAY)
            await sweep(bench, "q", "kids")
        assert await there(bench.queue, kids) == set()

    @needs(Feature.FLOWS)
    async def test_a_parent_that_is_not_kept_has_its_children_cancelled_with_it(self, bench: Bench) -> None:
        flow = FlowJob("root", "q", job_id="root", keep=0, children=[FlowJob("kid", "kids", job_id="kid")])
        await FlowProducer(bench.store, clock=bench.clock).add(flow)

        assert await bench.queue.cancel("root")

        kid = await bench.another_queue("kids").get_job("kid")
        assert kid is not None
        assert kid.state is JobState.CANCELLED
        await bench.later(1)
        await sweep(bench, "q")
        assert await bench.queue.get_job("root") is None
