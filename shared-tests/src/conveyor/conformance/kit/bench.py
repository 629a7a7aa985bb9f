"""A queue and workers on the store under test, with a clock that is turned by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Self

from conveyor.conformance.kit.make import START
from conveyor.core import Job, JobState, Queue, Worker
from conveyor.core.durations import Duration
from conveyor.core.events import Event, QueueDrained
from conveyor.core.store import Store
from conveyor.core.testing import ClockedStore, ManualClock, WrappedStore, run_until_idle

#: What a test waits for in real time takes milliseconds; a store that needs longer than this has lost it.
SOON: Final = 15.0

#: Of a job; or, with `batch=`, of a list of jobs.
Handler = (
    Callable[[Job[Any]], object]
    | Callable[[list[Job[Any]]], object]
    | Mapping[str, Callable[[Job[Any]], object] | Callable[[list[Job[Any]]], object]]
)


async def nothing(_: Job[Any]) -> None:
    """A handler that does nothing."""


async def fail(job: Job[Any]) -> None:
    """A handler that fails, and says in which run."""
    msg = f"run {job.attempts_made + 1} went wrong"
    raise RuntimeError(msg)


async def until(check: Callable[[], Awaitable[object]]) -> None:
    """Return when this is true, looking again and again."""
    async with asyncio.timeout(SOON):
        while not await check():  # noqa: ASYNC110 - other processes set no event of ours
            await asyncio.sleep(0.01)


async def until_finished(job: Job[Any]) -> None:
    """Return when a job has finished, by looking at it: no event is needed."""

    async def finished() -> bool:
        return (await job.refresh()).state.terminal

    await until(finished)


class _Counted(WrappedStore):
    """A store that knows how many of its calls are under way."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.under_way = 0

    async def _pass_on(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self.under_way += 1
        try:
            return await super()._pass_on(method, *args, **kwargs)
        finally:
            self.under_way -= 1


class Bench:
    """A store that lives by a manual clock, and the queue "q" on it."""

    def __init__(self, store: Store) -> None:
        """Set a store on the bench."""
        self.clock = ManualClock(START)
        self._counted = _Counted(store)
        self.store = ClockedStore(self._counted, self.clock)
        self.queue: Queue[Any] = self.another_queue("q")

    def another_queue(self, name: str, **options: Any) -> Queue[Any]:
        """One more queue."""
        return Queue(name, self.store, clock=self.clock, **options)

    def worker(self, handler: Handler = nothing, **options: Any) -> Worker[Any]:
        """A worker of the queue, not started."""
        return Worker("q", handler, self.store, clock=self.clock, **options)

    async def run(self, handler: Handler = nothing, **options: Any) -> None:
        """Run all jobs that can run now."""
        await run_until_idle(self.worker(handler, **options))

    async def later(self, by: Duration) -> None:
        """Turn the clock on, when what the store was asked so far is done.

        A store takes real time: a clock that is turned meanwhile overtakes the renewal of a lease.
        """
        await self.calm()
        await self.clock.advance(by)
        await self.calm()

    async def calm(self) -> None:
        """Return when nothing is asked of the store any more.

        A worker that is paused may have a claim on its way: it would bring what is added meanwhile.
        """
        async with asyncio.timeout(SOON):
            while self._counted.under_way:
                await asyncio.sleep(0.001)
                await self.clock.settle()

    async def state(self, job: Job[Any]) -> JobState:
        """Where a job is now."""
        return (await job.refresh()).state


class Recorder:
    """A handler that keeps what it was given, in order."""

    def __init__(self, result: object = None) -> None:
        """Return `result` from every run."""
        self.ids: list[str] = []
        self.data: list[Any] = []
        self._result = result

    async def __call__(self, job: Job[Any]) -> object:
        """Keep the job's id and data."""
        self.ids.append(job.id)
        self.data.append(job.data)
        return self._result


class Gate:
    """A handler that says when it has begun, and waits until it may go on."""

    def __init__(self) -> None:
        """Begin closed."""
        self.begun = asyncio.Event()
        self.opened = asyncio.Event()
        self.runs = 0

    async def __call__(self, job: Job[Any]) -> str:
        """Wait until it is opened."""
        self.runs += 1
        self.begun.set()
        await self.opened.wait()
        return job.id

    async def until_begun(self) -> None:
        """Return when a run has begun."""
        async with asyncio.timeout(SOON):
            await self.begun.wait()


class Watcher:
    """Keeps a queue's events, from a moment on that is certain."""

    def __init__(self, queue: Queue[Any], store: Store) -> None:
        """Watch `queue` for what is published by `store`."""
        self._queue = queue
        self._store = store
        self._events: list[Event] = []

    async def __aenter__(self) -> Self:
        """Begin to watch, and return when events arrive."""
        self._task = asyncio.create_task(self._watch())
        signal = QueueDrained(queue_name=self._queue.name, at=START)

        async def arrived() -> bool:
            await self._store.bus.publish([signal])
            return bool(self._events)

        await until(arrived)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Watch no more."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def until(self, kind: type[Event]) -> list[Event]:
        """Wait for an event of this kind, and return all up to it."""

        async def arrived() -> bool:
            return any(type(event) is kind for event in self._events)

        await until(arrived)
        events = [event for event in self._events if not isinstance(event, QueueDrained)]
        return events[: [type(event) for event in events].index(kind) + 1]

    async def several(self, kind: type[Event], count: int) -> list[Event]:
        """Wait for so many events of this kind, and return all of this kind."""

        async def arrived() -> bool:
            return sum(type(event) is kind for event in self._events) >= count

        await until(arrived)
        return [event for event in self._events if type(event) is kind]

    async def _watch(self) -> None:
        async for event in self._queue.events():
            self._events.append(event)
