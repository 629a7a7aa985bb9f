"""A program that closes none of its stores: `python -m conveyor.conformance.kit.unclosed URL`."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

from conveyor.core import Job, NewJob, Queue, Worker
from conveyor.core.discovery import open_store
from conveyor.core.store import Store

#: What lives until the interpreter ends.
kept: Final[list[object]] = []


async def used(store: Store) -> None:
    """Add a job, and let the store go."""
    await Queue("unclosed", store).add("a")


async def collected(store: Store) -> None:
    """Have the store collected while the event loop goes on."""
    await used(store)
    del store
    gc.collect()
    await asyncio.sleep(0)


async def held(store: Store) -> None:
    """Keep the store until the interpreter ends."""
    kept.append(store)
    await used(store)


async def listening(store: Store) -> None:
    """Be in the middle of waiting for an event."""
    received: asyncio.Event = asyncio.Event()

    async def listen() -> None:
        async for _ in Queue("unclosed", store).events():
            received.set()

    kept.append(asyncio.create_task(listen()))
    while not received.is_set():
        await used(store)
        await asyncio.sleep(0.01)


async def working(store: Store) -> None:
    """Leave a worker in the middle of its work."""
    some, left = asyncio.Event(), 50

    async def handler(job: Job[Any]) -> None:
        nonlocal left
        left -= 1
        if not left:
            some.set()
        await job.log("at work")
        await asyncio.sleep(0.001)

    worker = Worker("unclosed", handler, store, concurrency=50)
    kept.append(worker)
    await Queue("unclosed", store).add_bulk([NewJob("a")] * 300)
    await worker.start()
    async with asyncio.timeout(20):
        await some.wait()


async def ended(store: Store) -> None:
    """End the program."""
    await used(store)
    sys.exit(0)


WAYS: Final[tuple[Callable[[Store], Awaitable[None]], ...]] = (
    used,
    collected,
    held,
    listening,
    working,
    ended,
)


async def go(way: Callable[[Store], Awaitable[None]], url: str) -> None:
    """Open a store, and go one of these ways."""
    store = open_store(url)
    await store.open()
    await way(store)


def main(url: str) -> None:
    """Go all of them, the last of which ends the program."""
    for way in WAYS:
        asyncio.run(go(way, url))


if __name__ == "__main__":
    main(sys.argv[1])
