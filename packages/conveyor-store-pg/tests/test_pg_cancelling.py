"""A cancellation is never lost: a call that is cancelled at whatever turn of the loop ends cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from conveyor.core import Job, Queue
from conveyor.core.store import Change, Claim, JobRecord, Limit, Pause, Where
from conveyor.store.pg import PgStore
from conveyor.store.pg.statements import Session

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pg_cancelling")]

#: More turns of the loop than a wait for the first answer of the server takes.
TURNS = 12
#: Nothing here takes as long as that, unless it has lost its cancellation.
SOON = 15.0


@pytest.fixture(scope="module")
def url(module_database: str) -> str:
    return module_database


@pytest.fixture
async def store(url: str) -> AsyncIterator[PgStore]:
    async with PgStore(url) as store:
        yield store


async def cancelled_at(turn: int, call: Awaitable[object]) -> asyncio.Future[object]:
    """Begin a call, cancel it after so many turns of the loop, and return it when it has ended."""
    task = asyncio.ensure_future(call)
    for _ in range(turn):
        await asyncio.sleep(0)
    was_over = task.done()
    task.cancel()
    await asyncio.wait({task}, timeout=SOON)
    assert task.done(), f"it has lost its cancellation at turn {turn}"
    assert was_over or task.cancelled()
    return task


def request(**fields: Any) -> Claim:
    lease = timedelta(seconds=30)
    return Claim(queue="q", count=2, token=uuid4().hex, lease=lease, worker="w", **fields)


CALLS: dict[str, Callable[[PgStore], Awaitable[object]]] = {
    "insert": lambda store: store.insert([JobRecord(queue="q", id=uuid4().hex, name="x")]),
    "insert in a group": lambda store: store.insert(
        [JobRecord(queue="q", id=uuid4().hex, name="x", group="g")]
    ),
    "claim": lambda store: store.claim(request()),
    "claim in line": lambda store: store.claim(request(limit=Limit(active=100))),
    "renew": lambda store: store.renew([], timedelta(seconds=30)),
    "settle": lambda store: store.settle([]),
    "advance": lambda store: store.advance({"q"}),
    "find": lambda store: store.find(Where(queue="q"), limit=5),
    "count": lambda store: store.count(Where(queue="q")),
    "update": lambda store: store.update(Where(queue="q"), Change(priority=1)),
    "delete": lambda store: store.delete(Where(queue="q"), limit=1),
    "pause": lambda store: store.pause("q", Pause(group="g")),
    "resume": lambda store: store.resume("q", Pause(group="g")),
    "paused": lambda store: store.paused("q"),
    "forget": lambda store: store.forget("q"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_that_is_cancelled_ends_so(store: PgStore, name: str) -> None:
    for turn in range(TURNS):
        await cancelled_at(turn, CALLS[name](store))

    # It has kept no connection and no place in the line for one.
    async with asyncio.timeout(SOON):
        await asyncio.gather(*(store.count(Where(queue="q")) for _ in range(30)))


async def listen(store: PgStore) -> None:
    async with store.bus.subscribe(["q"]) as events:
        async for _ in events:
            pass


async def watch(queue: Queue[Any], job: Job[Any], how: str) -> None:
    if how == "wait":
        await job.wait_until_finished()
    elif how == "observe":
        async for _ in job.observe():
            pass
    else:
        async for _ in queue.events():
            pass


async def listened(store: PgStore, how: str) -> None:
    queue = Queue[Any]("q", store)
    job = await queue.add("x")
    for turn in range(3 * TURNS):
        await cancelled_at(turn, listen(store) if how == "subscribe" else watch(queue, job, how))


@pytest.mark.parametrize("how", ["subscribe", "wait", "observe", "events"])
@pytest.mark.parametrize("others_listen", [False, True])
async def test_who_listens_and_is_cancelled_ends_so(url: str, how: str, *, others_listen: bool) -> None:
    """With the line that it waits for made by it, and there already."""
    async with PgStore(url) as store:
        if others_listen:
            async with store.bus.subscribe(["another"]):
                await listened(store, how)
        else:
            await listened(store, how)

    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    assert [task for task in tasks if task.get_name().startswith("conveyor")] == []


async def test_a_cancellation_that_the_driver_loses_is_raised_all_the_same(store: PgStore) -> None:
    async def step(_: Session) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(SOON)

    task = asyncio.ensure_future(store._connections.call(step))
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait({task})

    assert task.cancelled()
