"""Stalls: jobs that end the process of their worker, which must cost no other job its run."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from conveyor.conformance.concurrency.interleavings.held_store import HeldStore, until_true
from conveyor.conformance.kit.area import area, patient
from conveyor.conformance.kit.bench import Bench, Gate, Recorder
from conveyor.conformance.kit.make import claim, span, take_by_id
from conveyor.conformance.kit.processes import let_go, started
from conveyor.core import Job, JobState, NewJob, Queue, Worker
from conveyor.core.store import Claim, Claimed, Feature, JobRecord, Store, Where
from conveyor.core.testing import WrappedStore

#: More workers than any number of deadly jobs of these tests can end.
LIVES = 60


class MortalStore(WrappedStore):
    """The store as a process sees it: when that has died, no call is made any more.

    Counts in `claims` how often each job was claimed, those that went back included.
    """

    def __init__(self, store: Store, claims: Counter[str]) -> None:
        """Live."""
        super().__init__(store)
        self.died = asyncio.Event()
        self._claims = claims

    async def die(self) -> None:
        """End the process. What calls this does not go on."""
        self.died.set()
        raise asyncio.CancelledError

    async def claim(self, request: Claim, **how: Any) -> Claimed:
        """As the contract has it."""
        claimed = await super().claim(request, **how)
        if request.queue == "q":
            self._claims.update(held.id for held in claimed.jobs)
        return claimed

    async def take(self, queue: str, ids: Collection[str], **how: Any) -> Claimed:
        """As the contract has it."""
        claimed = await super().take(queue, ids, **how)
        if queue == "q":
            self._claims.update(held.id for held in claimed.jobs)
        return claimed

    async def _pass_on(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self.died.is_set():
            raise asyncio.CancelledError
        return await super()._pass_on(method, *args, **kwargs)


async def live(bench: Bench, claims: Counter[str] | None = None, **options: Any) -> bool:
    """Run a worker in a process of its own, as it were, and say whether it died of a job named "deadly"."""
    mortal = MortalStore(bench.store, Counter() if claims is None else claims)

    async def handler(job: Job[Any]) -> None:
        if job.name == "deadly":
            await mortal.die()

    before = asyncio.all_tasks()
    worker: Worker[Any] = Worker("q", handler, mortal, clock=bench.clock, **options)
    running = asyncio.create_task(worker.run_until_idle())
    await asyncio.wait(
        [running, asyncio.ensure_future(mortal.died.wait())], return_when=asyncio.FIRST_COMPLETED
    )
    for task in asyncio.all_tasks() - before:
        task.cancel()
    await asyncio.wait([running])
    if not mortal.died.is_set():
        running.result()
    return mortal.died.is_set()


async def held(store: Store) -> Sequence[JobRecord]:
    """The active jobs."""
    return await store.find(Where(queue="q", states=frozenset({JobState.ACTIVE})), limit=100)


@area("stalls")
class Stalls:
    """Deadly jobs and their neighbours, with a clock that is turned by hand."""

    async def test_jobs_that_end_their_worker_cost_no_other_job_its_run(self, bench: Bench) -> None:
        good = await bench.queue.add_bulk([NewJob("good") for _ in range(20)])
        deadly = await bench.queue.add_bulk([NewJob("deadly") for _ in range(2)])
        good += await bench.queue.add_bulk([NewJob("good") for _ in range(20)])
        lives = 0
        claims = Counter[str]()

        while await live(bench, claims, concurrency=4, max_stalled=2):
            lives += 1
            assert lives < LIVES, "deadly jobs are started again and again"
            await bench.later("31s")

        found = {one.id: one for one in await bench.store.find(Where(queue="q"), limit=100)}
        assert {found[job.id].state for job in good} == {JobState.COMPLETED}
        assert max(found[job.id].stalled for job in good) == 1
        assert max(claims[job.id] for job in good) <= 3
        assert [(found[job.id].state, found[job.id].stalled) for job in deadly] == [(JobState.FAILED, 3)] * 2

    async def test_a_job_that_has_stalled_starts_when_it_is_the_only_one_held_and_its_start_is_stored(
        self, bench: Bench
    ) -> None:
        """What has ended before it is written first: the store is slow to."""
        jobs = await bench.queue.add_bulk([NewJob("work", n) for n in range(6)])
        await take_by_id(bench.store, [job.id for job in jobs[1:3]], worker="dead", now=None)
        await bench.later("31s")
        slow = HeldStore(bench.store, "q", "settle", 1, "start")
        seen: list[list[tuple[str, bool]]] = []

        async def handler(job: Job[Any]) -> None:
            if job.stalled_count:
                seen.append([(one.id, one.started) for one in await held(bench.store)])

        async with Worker("q", handler, slow, concurrency=4, clock=bench.clock):
            await slow.reached.wait()
            await bench.later("1s")
            early = len(seen)
            slow.let_go.set()
            while await bench.queue.count("completed") < 6:
                await bench.later("0.1s")

        assert early == 0, "started while an outcome is not written"
        assert [(len(jobs), jobs[0][1]) for jobs in seen] == [(1, True)] * 2

    async def test_with_no_stall_allowed_nothing_is_claimed_ahead_and_every_start_is_stored(
        self, bench: Bench
    ) -> None:
        await bench.queue.add_bulk([NewJob("work", n) for n in range(30)])
        requests: list[Claim] = []
        starts: list[bool] = []

        class Listening(WrappedStore):
            async def claim(self, request: Claim, **how: Any) -> Claimed:
                if request.queue == "q":
                    requests.append(request)
                return await super().claim(request, **how)

        async def handler(job: Job[Any]) -> None:
            where = Where(queue="q", ids=frozenset({job.id}))
            starts.extend(one.started for one in await bench.store.find(where, limit=1))

        worker: Worker[Any] = Worker(
            "q", handler, Listening(bench.store), concurrency=3, max_stalled=0, clock=bench.clock
        )
        await worker.run_until_idle()

        assert starts == [True] * 30
        assert {request.started for request in requests} == {False}
        assert max(request.count for request in requests) == 3

    async def test_with_no_stall_allowed_a_job_that_was_only_claimed_is_not_failed(
        self, bench: Bench
    ) -> None:
        names = ["good"] * 5 + ["deadly"] + ["good"] * 9
        jobs = await bench.queue.add_bulk([NewJob(name) for name in names])

        while await live(bench, concurrency=1, max_stalled=0):
            await bench.later("31s")

        failed = [job.name for job in jobs if await bench.state(job) is JobState.FAILED]
        assert failed == ["deadly"]
        assert await bench.queue.count("completed") == 14

    async def test_a_job_that_cannot_be_alone_here_soon_is_left_to_another_worker(self, bench: Bench) -> None:
        gate, other = Gate(), Recorder()
        first = await bench.queue.add("work")
        async with Worker("q", gate, bench.store, concurrency=4, clock=bench.clock) as busy:
            await gate.until_begun()
            second = await bench.queue.add("work", delay="1h")
            await take_by_id(bench.store, [second.id], worker="dead", lease=span(0.1), now=None)
            await bench.later("1s")
            await bench.store.advance({"q"})
            await bench.queue.promote_jobs()
            await bench.later("0.2s")
            assert await bench.state(second) is JobState.WAITING, "claimed while another job is held"
            while busy.stats().ready < 1:  # a claim that was cut short is followed by another one
                await bench.later("0.1s")
                await asyncio.sleep(0.01)  # real time, for the store to answer
            await bench.queue.add_bulk([NewJob("work") for _ in range(3)])
            async with Worker("q", other, bench.store, concurrency=4, clock=bench.clock):
                for _ in range(100):
                    await bench.later("0.1s")
                    if await bench.queue.count("completed") == 4:
                        break
                assert second.id in other.ids
                assert len(other.ids) == 4
            assert busy.stats().running == 1
            gate.opened.set()
            await until_true(lambda: busy.stats().settled == 1)
        assert await bench.state(first) is JobState.COMPLETED

    async def test_while_a_job_runs_alone_in_one_worker_the_others_go_on(self, bench: Bench) -> None:
        gate, other = Gate(), Recorder()
        stalled = await bench.queue.add("work")
        await bench.store.claim(claim(1, worker="dead"))
        await bench.later("31s")
        await bench.store.advance({"q"})
        await bench.queue.add_bulk([NewJob("work") for _ in range(20)])

        async with Worker("q", gate, bench.store, concurrency=4, clock=bench.clock) as alone:
            await gate.until_begun()
            async with Worker("q", other, bench.store, concurrency=4, clock=bench.clock):
                while len(other.ids) < 20:
                    await bench.later("0.1s")
                    await asyncio.sleep(0.01)  # real time, for the store to answer
            assert (alone.stats().running, alone.stats().ready) == (1, 0)
            gate.opened.set()

        assert gate.runs == 1
        assert await bench.state(stalled) is JobState.COMPLETED


@area("stalls", Feature.MULTI_PROCESS)
class DeadlyStorms:
    """Processes that die of their jobs, and are started again."""

    @pytest.mark.chaos
    @patient
    @pytest.mark.parametrize("way", ["exit", "segfault"])
    @pytest.mark.parametrize("after", [0, 0.02], ids=["at once", "after 20 ms"])
    async def test_ten_deadly_jobs_among_two_thousand_cost_no_other_job_its_run(
        self, store: Store, store_url: str | None, way: str, after: float
    ) -> None:
        queue: Queue[Any] = Queue("q", store)
        for _ in range(10):
            await queue.add_bulk([*(NewJob("good") for _ in range(199)), NewJob("deadly")])
        role = json.dumps({"way": way, "after": after, "takes": 0.002})

        printed = await asyncio.gather(*(asyncio.to_thread(_survive, store_url, role) for _ in range(3)))

        claims = sum(printed, Counter[str]())
        found = {one.id: one for one in await store.find(Where(queue="q"), limit=3_000)}
        good = [one for one in found.values() if one.name == "good"]
        deadly = [one for one in found.values() if one.name == "deadly"]
        assert Counter(one.state for one in good) == {JobState.COMPLETED: 1_990}
        assert max(one.stalled for one in good) <= 1
        # Those that went back are in these, too.
        assert max(claims[one.id] for one in good) <= 3
        assert Counter((one.state, one.stalled) for one in deadly) == {(JobState.FAILED, 4): 10}


def _survive(url: str | None, role: str) -> Counter[str]:
    """Run a process, again and again when it dies, until it ends well; count its claims by job."""
    claims: Counter[str] = Counter()
    for _ in range(LIVES):
        [process] = started(url, "survive", [role])
        try:
            let_go([process])
            printed, _ = process.communicate(timeout=300)
        finally:
            process.kill()
            process.communicate()
        claims.update(line.split()[1] for line in printed.splitlines() if line.startswith("claimed "))
        if not process.returncode:
            return claims
    raise AssertionError("deadly jobs are started again and again")


class AllStalls(Stalls, DeadlyStorms):
    """Stalls."""
