"""A worker's life, from its start until it is closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from conveyor.conformance.concurrency.interleavings.held_store import HeldStore
from conveyor.conformance.kit.bench import until
from conveyor.core import Batch, FlowJob, FlowProducer, Job, JobState, NewJob, Queue, RateLimited, Worker
from conveyor.core.errors import StoreError
from conveyor.core.store import Feature, Store

#: For what is received in the middle of a call. A store that brings it later is tested less, and passes.
MOMENT: Final = 0.02
#: For what ends as soon as the store has answered.
LONG: Final = "1 minute"
#: The calls that are held, each by its number among those of its kind: what a handler and the end of a family
#: write; the others that a worker makes for certain.
WRITTEN: Final = (("insert", 1), ("update", 1), ("delete", 1))


@dataclass(kw_only=True)
class Life:
    """A worker, its store, and what it is given to do."""

    store: Store
    held: HeldStore
    queue: Queue[Any]
    jobs: list[Job[Any]] = field(default_factory=list)
    worker: Worker[Any]
    #: Lets the handlers of gated jobs return.
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    limit: asyncio.Event
    #: The job that somebody has cancelled.
    cancelled: Job[Any] | None = None

    async def active(self) -> int:
        """How many jobs are active, by a call that nobody holds."""
        return await self.queue.count(JobState.ACTIVE)

    async def until_accounted_for(self) -> None:
        """Return when every active job is known to its worker; forgotten ones never are."""

        async def accounted_for() -> bool:
            active = await self.active()
            stats = self.worker.stats()
            return active == stats.running + stats.ready + stats.unwritten

        try:
            await until(accounted_for)
        except TimeoutError:
            active, stats = await self.active(), self.worker.stats()
            raise AssertionError(f"{active} jobs are active, and the worker knows of {stats}") from None

    async def take_leases_back(self) -> None:
        """Let every lease of the queue run out."""
        await self.store.advance({self.queue.name}, now=datetime.now(UTC) + timedelta(hours=1))


async def begin(store: Store, held: tuple[str, int], phase: str, *, batched: bool) -> Life:
    """Add jobs to a queue of their own, and start a worker on them.

    Where that is held, one of them writes to the queue by itself, and the children of another go with it.
    """
    name = f"{held[0]}-{held[1]}-{phase}"
    queue: Queue[Any] = Queue(name, store)
    opened, limit, limited = asyncio.Event(), asyncio.Event(), [True]

    async def one(job: Job[Any]) -> None:
        if job.name == "writing":
            await write(Queue(name, holding))
        gate = {"limited": limit, "gated": opened}.get(job.name)
        while gate is not None and not gate.is_set():
            with contextlib.suppress(StoreError):
                await job.update_progress(1)
            await asyncio.sleep(MOMENT)
        if job.name == "limited" and limited:
            limited.clear()
            raise RateLimited(MOMENT)

    async def several(jobs: Sequence[Job[Any]]) -> list[BaseException | None]:
        return await asyncio.gather(*map(one, jobs), return_exceptions=True)

    holding = HeldStore(store, name, *held, phase)
    worker: Worker[Any] = Worker(
        name,
        several if batched else one,
        holding,
        concurrency=3,
        batch=Batch(2, linger=MOMENT / 2, by="group") if batched else None,
        prefetch=None if batched else 3,
        poll_interval=0.05,
    )
    life = Life(store=store, held=holding, queue=queue, worker=worker, opened=opened, limit=limit)
    life.jobs += await queue.add_bulk([NewJob("quick"), NewJob("limited"), NewJob("gated")])
    if Feature.FLOWS in store.features:
        flow = await FlowProducer(store).add(FlowJob("quick", name, children=[FlowJob("quick", name)]))
        life.jobs += [flow.job, *(child.job for child in flow.children)]
    life.jobs += await queue.add_bulk([NewJob("quick"), NewJob("gated"), NewJob("gated")])
    if held in WRITTEN and held[0] != "delete":
        life.jobs.insert(0, await queue.add("writing", priority=-1))
    elif held in WRITTEN:
        passing = FlowJob("quick", name, remove_on_complete=True, priority=-1)
        flow = await FlowProducer(store).add(FlowJob("quick", name, children=[passing], priority=-1))
        life.jobs.insert(0, flow.job)
    await worker.start()
    return life


async def write(queue: Queue[Any]) -> None:
    """Write to a queue, again until it has been done."""
    while True:
        try:
            await queue.add("quick", job_id="added")
            await queue.promote_jobs()
        except StoreError:
            await asyncio.sleep(MOMENT)
        else:
            return
