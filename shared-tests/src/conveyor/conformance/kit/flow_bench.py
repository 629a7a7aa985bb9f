"""Flows on the bench: growing them, running every queue, and reading what became of each job."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from conveyor.conformance.kit.bench import Bench, Handler
from conveyor.conformance.kit.make import MANY
from conveyor.core import FlowJob, FlowProducer, FlowResult, Job, JobState, Worker
from conveyor.core.store import Claim, Claimed, JobKey, JobRecord, Store, Undecodable, Where
from conveyor.core.testing import WrappedStore

S = JobState
#: No worker makes as many calls for a flow of these tests.
MANY_CALLS = 500


class FlowBench(Bench):
    """A bench for flows; `wrap` stands between it and the store under test."""

    def __init__(self, store: Store) -> None:
        """Set a store on the bench."""
        super().__init__(store)
        self.producer = FlowProducer(self.store, clock=self.clock)
        #: How often each job ran, by its id.
        self.runs: Counter[str] = Counter()

    def worker_of(self, queue: str, handler: Handler, **options: Any) -> Worker[Any]:
        """A worker of any queue, not started."""
        return Worker(queue, handler, self.store, clock=self.clock, **options)

    async def run_all(self, *queues: str, handler: Handler | None = None, **options: Any) -> None:
        """Run what can run in these queues, and what this makes runnable, until nothing is left."""
        while True:
            settled = 0
            for queue in queues:
                worker = self.worker_of(queue, handler or self.orderly, **options)
                await worker.run_until_idle()
                settled += worker.stats().settled
            if not settled:
                return

    async def orderly(self, job: Job[Any]) -> str:
        """A handler that wants all its job's children to have ended; it fails a job of the name "bad"."""
        self.runs[job.id] += 1
        early = [child.id for child in await job.get_dependencies() if not child.state.terminal]
        assert not early, f"{job.id} runs before {early} have ended"
        if job.name == "bad":
            raise RuntimeError(f"{job.id} went wrong")
        return f"result of {job.id}"

    async def states(self, *queues: str) -> dict[str, str]:
        """The state of every job of these queues, by id; those that were removed are not there."""
        found: dict[str, str] = {}
        for queue in queues:
            records = await self.store.find(Where(queue=queue), limit=MANY)
            found |= {record.id: record.state.value for record in records}
        return found

    async def job(self, queue: str, job_id: str) -> Job[Any]:
        """A job, which must be there."""
        found = await self.another_queue(queue).get_job(job_id)
        assert found is not None
        return found


def every(result: FlowResult) -> Iterator[Job[Any]]:
    """All jobs of a flow that was added."""
    todo = [result]
    while todo:
        one = todo.pop()
        yield one.job
        todo += one.children


def leaf(id: str, queue: str = "q", *, name: str = "work", **options: Any) -> FlowJob:
    """A job without children."""
    return FlowJob(name, queue, job_id=id, **options)


class Illegible(WrappedStore):
    """A store that cannot decode the rows of some jobs."""

    def __init__(self, store: Store, ids: Collection[str]) -> None:
        """Let the rows of these jobs be illegible."""
        super().__init__(store)
        self._ids = ids

    async def claim(self, request: Claim, **kwargs: Any) -> Claimed:
        """Leave them out of the jobs."""
        return self._illegible(await super().claim(request, **kwargs))

    async def take(self, queue: str, ids: Collection[str], **kwargs: Any) -> Claimed:
        """Leave them out of the jobs."""
        return self._illegible(await super().take(queue, ids, **kwargs))

    def _illegible(self, claimed: Claimed) -> Claimed:
        return replace(
            claimed,
            jobs=[job for job in claimed.jobs if job.id not in self._ids],
            undecodable=[
                Undecodable(lease=job.lease, attempt=job.attempt, reason="illegible")
                for job in claimed.jobs
                if job.id in self._ids
            ],
        )

    async def find(self, where: Where, **kwargs: Any) -> list[JobRecord]:
        """Leave them out."""
        return [record for record in await super().find(where, **kwargs) if record.id not in self._ids]


class Dying(WrappedStore):
    """A store whose user dies at its n-th call: as it begins, or once it has happened."""

    def __init__(self, store: Store, at_call: int, *, after: bool) -> None:
        """Count calls from 1."""
        super().__init__(store)
        self._left = at_call
        self._after = after
        self.dead = asyncio.Event()

    async def _pass_on(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left > 0:
            return await super()._pass_on(method, *args, **kwargs)
        if self._left == 0 and self._after:
            await super()._pass_on(method, *args, **kwargs)
        self.dead.set()
        return await asyncio.Event().wait()


async def run_and_die(store: Dying, *workers: Worker[Any]) -> bool:
    """Run workers on a store until they are idle or dead, and say whether they died."""
    before = asyncio.all_tasks()

    async def run() -> None:
        for worker in workers:
            await worker.run_until_idle()

    running = asyncio.create_task(run())
    dying = asyncio.create_task(store.dead.wait())
    await asyncio.wait([running, dying], return_when=asyncio.FIRST_COMPLETED)
    left = asyncio.all_tasks() - before - {running}
    died = store.dead.is_set()
    if not died:
        await running
    for task in (running, *left):
        task.cancel()
    await asyncio.wait([running, *left])
    return died


def key(id: str, queue: str = "q") -> JobKey:
    """A job's identity."""
    return JobKey(queue, id)
