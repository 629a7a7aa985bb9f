"""A task of a worker that meets what nobody foresaw says so, once, and goes on."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from conveyor.core import FlowJob, FlowProducer, JobState, Queue, Worker
from conveyor.core._engine.threads import Threads
from conveyor.core._jobs.family_follow_up import FollowUp
from conveyor.core.errors import StoreError
from conveyor.core.events import Event, JobCompleted
from conveyor.core.testing import FaultyStore, ManualClock

MakeWorker = Callable[..., Worker[Any]]


class Fault:
    """Makes a method raise what nobody foresaw, for as many calls as `times` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.times = 0
        self.raised = 0
        real = getattr(owner, name)

        def broken(*args: Any, **kwargs: Any) -> Any:
            if self.times > 0:
                self.times -= 1
                self.raised += 1
                raise RuntimeError("not foreseen")
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, broken)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The errors that were logged with where they came from."""
    return [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR and r.exc_info]


async def until(clock: ManualClock, done: Callable[[], object], *, step: float = 1) -> None:
    """Turn the clock until something is so."""
    async with asyncio.timeout(20):
        while not done():
            await clock.advance(step)


async def handled(_job: object) -> str:
    return "done"


async def ends(queue: Queue[Any], clock: ManualClock) -> None:
    """Show that jobs run, from their add to their end."""
    job = await queue.add("work")
    ended: list[object] = []

    async def look() -> None:
        while True:
            found = await queue.get_job(job.id)
            if found is not None and found.state is JobState.COMPLETED:
                ended.append(found)
                return
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    await until(clock, lambda: ended)
    await looking


#: The parts of a worker that run by themselves, and what of each is made to fail.
LOOPS = {
    "poller": ("poller", "tick"),
    "scheduler": ("scheduler", "tick"),
    "maintenance": ("maintenance", "tick"),
    "heartbeat": ("heartbeat", "tick"),
    "renewal": ("heartbeat", "_renew"),
    "registration": ("registration", "_register"),
    "settler": ("settler", "_write"),
    "subscriber": ("subscriber", "_receive"),
}


@pytest.mark.parametrize("part", LOOPS)
async def test_a_part_of_a_worker_goes_on(
    *,
    queue: Queue[Any],
    worker: MakeWorker,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    part: str,
) -> None:
    made = worker(handled)
    owner, method = LOOPS[part]
    fault = Fault(monkeypatch, type(getattr(made._parts, owner)), method)
    fault.times = 2
    async with made:
        await queue.add("work")
        await queue.every("1s", "scheduled", key="k")
        await queue.pause("nothing")
        await until(clock, lambda: fault.raised)
        await queue.resume("nothing")
        await until(clock, lambda: not fault.times)

        await ends(queue, clock)
        # each outcome that could not be written is told of
        assert 1 <= len(told(caplog)) <= (fault.raised if part == "settler" else 1)


async def test_events_are_published_after_a_failure(
    *,
    store: FaultyStore,
    queue: Queue[Any],
    worker: MakeWorker,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    called: list[object] = []
    made = worker(handled)
    made.on("completed", called.append)
    await queue.add("work")
    fault = Fault(monkeypatch, store.bus, "publish")
    fault.times = 1
    async with made, store.bus.subscribe({"q"}, kinds={JobCompleted}) as heard:
        await until(clock, lambda: not fault.times)
        await ends(queue, clock)
        async with asyncio.timeout(10):
            assert type(await anext(heard)) is JobCompleted

    assert len(called) == 2
    assert caplog.text.count("events could not be published") == 1


async def test_parents_are_looked_after_after_a_failure(
    *,
    store: FaultyStore,
    queue: Queue[Any],
    worker: MakeWorker,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fault = Fault(monkeypatch, FollowUp, "run")
    fault.times = 1
    flow = await FlowProducer(store, clock=clock).add(
        FlowJob(
            "work",
            "q",
            children=[FlowJob("work", "q", children=[FlowJob("work", "q")])],
        )
    )
    async with worker(handled):
        await until(clock, lambda: not fault.times)
        await ends(queue, clock)
        ended = asyncio.create_task(flow.job.wait_until_finished())
        await until(clock, ended.done)

    assert await ended == "done"
    assert len(told(caplog)) == 1


async def test_a_listener_that_cannot_listen_tries_again(
    *,
    store: FaultyStore,
    queue: Queue[Any],
    worker: MakeWorker,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real, failures = store.bus.subscribe, [StoreError("away"), RuntimeError("not foreseen")]

    @asynccontextmanager
    async def subscribe(*args: Any, **kwargs: Any) -> AsyncIterator[AsyncIterator[Event]]:
        if failures:
            raise failures.pop(0)
        async with real(*args, **kwargs) as events:
            yield events

    monkeypatch.setattr(store.bus, "subscribe", subscribe)
    made = worker(handled, poll_interval="1h")
    async with made:
        await until(clock, lambda: not failures)
        await ends(queue, clock)

    assert "listening to events for queue 'q' works again" in caplog.text
    assert len(told(caplog)) == 1


async def test_a_worker_that_cannot_close_in_order_has_stopped_all_the_same(
    worker: MakeWorker, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = worker(handled)
    await made.start()
    Fault(monkeypatch, type(made._parts.scheduler), "stop").times = 1

    closing = asyncio.create_task(made.close(0))
    await until(clock, closing.done)

    with pytest.raises(RuntimeError, match="not foreseen"):
        await closing
    assert all(task.done() for task in made._context.state.tasks)


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(1)], ids=repr)
async def test_a_call_that_fails_in_a_thread_fails_who_waits_for_it(error: BaseException) -> None:
    threads = Threads()

    def broken() -> None:
        raise error

    async with asyncio.timeout(10):
        with pytest.raises(type(error)) as caught:
            await threads.run(broken)
        assert caught.value is error
        assert await threads.run(threading.get_ident) != threading.get_ident()
    threads.close()


async def test_who_listens_to_a_broken_bus_is_told_in_the_log(
    queue: Queue[Any], store: FaultyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Events:
        def __aiter__(self) -> Events:
            return self

        async def __anext__(self) -> Event:
            raise RuntimeError("not foreseen")

    @asynccontextmanager
    async def subscribe(*_: Any, **__: Any) -> AsyncIterator[Events]:
        yield Events()

    monkeypatch.setattr(store.bus, "subscribe", subscribe)

    async with asyncio.timeout(10):
        assert [event async for event in queue.events()] == []

    assert len(told(caplog)) == 1
