"""Many calls at once, over two handles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from itertools import cycle, islice
from typing import Any, TypeVar

from conveyor.conformance.kit.make import (
    add,
    at,
    claim_jobs,
    completed,
    jobs,
)
from conveyor.core.store import (
    JobRecord,
    JobState,
    Store,
    Where,
)

T = TypeVar("T")
Handles = Sequence[Store]
Q = Where(queue="q")
WAITING = Where(queue="q", states=frozenset({JobState.WAITING}))
ROUNDS = 10


async def at_once(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Make these calls at the same time, and return their answers."""
    return list(await asyncio.gather(*calls))


def turns(handles: Handles, count: int) -> list[Store]:
    """That many callers, taking turns on the handles."""
    return list(islice(cycle(handles), count))


async def open_connections(handles: Handles, callers: int) -> None:
    """Let that many call once: while a handle opens its connections, it lets calls through one by one."""
    await at_once([store.paused("q", now=at(0)) for store in turns(handles, callers)])


async def while_at_work(handles: Handles, call: Callable[[], Coroutine[Any, Any, object]]) -> list[JobRecord]:
    """Repeat a call while 60 jobs are claimed and completed; return them as they were claimed."""
    await add(handles[0], *jobs(f"job-{n}" for n in range(60)))
    claimed: list[JobRecord] = []
    working = asyncio.gather(*(work(store, claimed) for store in turns(handles, 2)))
    while not working.done():
        await call()
        await asyncio.sleep(0)
    await working
    return claimed


async def work(store: Store, mine: list[JobRecord]) -> None:
    """Claim and complete jobs until none is waiting, and keep each as it was claimed."""
    while await store.count(WAITING, now=at(0)):
        taken = await claim_jobs(store, 5)  # none: somebody else is at those that wait
        mine += taken
        await asyncio.sleep(0)
        await store.settle([completed(record) for record in taken], now=at(0))
