"""What the race tests run in processes of their own.

    python -m conveyor.conformance.kit.runner URL ROLE ARGUMENT

Each process opens the store by its URL, says so, waits for a line on its standard input so that all
begin at once, plays its role, and prints what it got as JSON.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from conveyor.conformance.kit.make import LEASE, at, claim, completed, job
from conveyor.core import Deduplication, GroupLimit, Job, NewJob, Queue, RateLimit, RunAll, Worker
from conveyor.core.discovery import open_store
from conveyor.core.store import Claim, Claimed, JobState, Limit, Store, Where
from conveyor.core.testing import ClockedStore, ManualClock, WrappedStore


async def claim_all(store: Store, _: str) -> list[str]:
    """Claim jobs until there are none, and return their ids."""
    found: list[str] = []
    while jobs := (await store.claim(claim(3, lease=LEASE * 100), now=at(0))).jobs:
        found += [held.id for held in jobs]
    return found


async def act_without_now(store: Store, _: str) -> list[str]:
    """Do what time has made due, claim what there is, by the store's clock; return the jobs that moved."""
    advanced = await store.advance({"q"})
    claimed = await store.claim(claim(9, lease=LEASE * 20))
    moved = [*advanced.due, *advanced.stalled, *advanced.unstarted]
    return [*(key.id for key in moved), *(held.id for held in claimed.jobs)]


async def add_keys(store: Store, who: str) -> list[bool]:
    """Add jobs for the same keys as everybody, and return which were created."""
    created: list[bool] = []
    for n in range(20):
        (answer,) = await store.insert([job(f"{who}-{n}", unique_key=f"k{n}")], now=at(0))
        created.append(answer.created)
    return created


async def work(store: Store, _: str) -> list[int]:
    """Work jobs off, two at a time in all processes together, and return how many were active each time."""
    seen: list[int] = []
    idle = 0
    while idle < 20:
        jobs = (await store.claim(claim(5, limit=Limit(active=2)), now=at(0))).jobs
        counts = await store.count(Where(queue="q"), now=at(0))
        seen.append(counts.get(("q", JobState.ACTIVE), 0))
        await store.settle([completed(held) for held in jobs], now=at(1))
        idle = 0 if jobs or counts.get(("q", JobState.WAITING), 0) else idle + 1
    return seen


async def end_children(store: Store, _: str) -> list[str]:
    """Complete children until there are none, and return which parents that released."""
    released: list[str] = []
    while jobs := (await store.claim(claim(1, queue="kids", lease=LEASE * 100), now=at(0))).jobs:
        settled = await store.settle([completed(held) for held in jobs], now=at(1))
        released += [key.id for key in settled.released]
    return released


async def append(store: Store, who: str) -> list[str]:
    """Add jobs one by one, and return their ids."""
    mine = [f"{who}-{n}" for n in range(30)]
    for one in mine:
        await store.insert([job(one)], now=at(0))
    return mine


async def storm(store: Store, _: str, *, keys: int = 60) -> list[tuple[str, str, bool]]:
    """Add jobs for the same keys as everybody while working them off, and return what each call did."""
    queue: Queue[Any] = Queue("q", store)
    answers: list[tuple[str, str, bool]] = []

    async def nothing(_: Job[Any]) -> None:
        """Finish at once."""

    async with Worker("q", nothing, store, concurrency=10):
        for first in range(0, keys, 20):
            named = [f"key-{n}" for n in range(first, min(keys, first + 20))]
            jobs = await queue.add_bulk([NewJob("work", deduplication=Deduplication(key)) for key in named])
            answers += [(key, job.id, job.deduplicated) for key, job in zip(named, jobs, strict=True)]
    return answers


async def long_storm(store: Store, who: str) -> list[tuple[str, str, bool]]:
    """The same with a thousand keys."""
    return await storm(store, who, keys=1_000)


async def run_worker(store: Store, options: str) -> list[tuple[str, str, float, float]]:
    """Run a worker, made as `options` says, until every job of the queue has finished.

    Returns of each run the job's id, when it was claimed, and when its handler began and ended, by a clock
    that all processes of a machine share. A run is printed as it begins: who kills this process knows it.
    """
    how = json.loads(options)
    runs: list[tuple[str, str, float, float]] = []

    async def handler(job: Job[Any]) -> None:
        began = time.monotonic()
        print(f"began {job.id}", flush=True)  # noqa: T201 - this is how it talks
        await asyncio.sleep(how["takes"])
        runs.append((job.id, str(job.processed_at), began, time.monotonic()))

    worker: Worker[Any] = Worker(
        "q",
        handler,
        store,
        concurrency=how.get("concurrency", 4),
        max_global_concurrency=how.get("active"),
        limiter=RateLimit(*how["rate"]) if "rate" in how else None,
        group=GroupLimit(how["group"]) if "group" in how else None,
        lock_duration=how.get("lease", "30s"),
    )
    async with worker:
        # Other processes run jobs as well, and set no event of ours.
        while any(not state.terminal for _, state in await store.count(Where(queue="q"))):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return runs


class PrintedClaims(WrappedStore):
    """A store that says of each job that it was claimed, before anybody can die of it."""

    async def claim(self, request: Claim, **how: Any) -> Claimed:
        """As the contract has it."""
        claimed = await super().claim(request, **how)
        if request.queue == "q":
            print(*(f"claimed {held.id}\n" for held in claimed.jobs), sep="", end="", flush=True)  # noqa: T201
        return claimed


async def survive(store: Store, options: str) -> list[str]:
    """Run a worker until every job has finished, or until one that is deadly ends the process."""
    how = json.loads(options)

    async def handler(job: Job[Any]) -> None:
        if job.name != "deadly":
            await asyncio.sleep(how["takes"])
            return
        await asyncio.sleep(how["after"])
        if how["way"] == "segfault":
            ctypes.string_at(0)
        os._exit(9)

    async with Worker[Any](
        "q", handler, PrintedClaims(store), concurrency=4, lock_duration="1s", stalled_interval="200ms"
    ):
        while any(not state.terminal for _, state in await store.count(Where(queue="q"))):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return []


async def fire_schedules(store: Store, _: str) -> list[str]:
    """Fire a schedule for thirty seconds, each process by its own clock, and a redeploy at each."""
    clock = ManualClock(at(0))
    queue = Queue[Any]("q", ClockedStore(store, clock), clock=clock)
    worker = Worker[Any]("q", {"nothing": print}, ClockedStore(store, clock), clock=clock)
    start = at(0)
    for _second in range(31):
        await queue.every("1 s", "x", key="x", start=start, misfire=RunAll(100))
        await worker._parts.scheduler.tick()  # noqa: SLF001 - the part under test
        await clock.advance(1)
    return []


async def fire_and_die(store: Store, who: str) -> list[str]:
    """Fire a schedule in real time; the first processes die of it, and the last one does not."""
    mortal = not who.endswith("-3")
    async with Worker[Any]("q", {"nothing": print}, store):
        await asyncio.sleep(1.5)
        if mortal:
            print("[]", flush=True)  # noqa: T201 - its last words
            os._exit(9)
    return []


ROLES: dict[str, Callable[[Store, str], Awaitable[Sequence[Any]]]] = {
    "claim_all": claim_all,
    "add_keys": add_keys,
    "work": work,
    "end_children": end_children,
    "append": append,
    "storm": storm,
    "long_storm": long_storm,
    "run_worker": run_worker,
    "survive": survive,
    "fire_schedules": fire_schedules,
    "fire_and_die": fire_and_die,
    "act_without_now": act_without_now,
}


async def main(url: str, role: str, argument: str) -> None:
    """Play one role."""
    async with open_store(url) as store:
        print("ready", flush=True)  # noqa: T201 - this is how it talks
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps(list(await ROLES[role](store, argument))), flush=True)  # noqa: T201 - likewise


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="lock_duration")
    asyncio.run(main(*sys.argv[1:]))
