"""Cancellations: a public call that is cancelled at any moment ends cancelled, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import SOON, fail, nothing
from conveyor.conformance.kit.some import some_of
from conveyor.core import (
    Feature,
    FlowJob,
    FlowProducer,
    Group,
    Job,
    JobState,
    NewJob,
    Queue,
    Store,
    Worker,
    open_store,
)

#: No call of these has more waits than this.
MOST: Final = 500
#: How long calls wait that wait for something which does not come.
IN_VAIN: Final = 0.02


class Cancelled:
    """A call whose task is cancelled at its n-th wait: as that begins, or in the moment in which it ends."""

    def __init__(self, call: Coroutine[Any, Any, Any], at: int, *, as_it_ends: bool) -> None:
        """Count waits from 1."""
        self._call = call
        self._at = at
        self._as_it_ends = as_it_ends
        self._waits = 0
        #: Whether the cancellation came before the call had ended.
        self.reached = False

    def __await__(self) -> Generator[Any, Any, Any]:
        """Pass on what the call waits for."""
        inner = self._call.__await__()
        step: Callable[[], Any] = functools.partial(next, inner)
        while True:
            try:
                waiting = step()
            except StopIteration as end:
                return end.value
            self._waits += 1
            if self._waits == self._at:
                self._cancel(waiting)
            try:
                yield waiting
            except BaseException as error:  # noqa: BLE001 - it is the call's to deal with
                step = functools.partial(inner.throw, error)
            else:
                step = functools.partial(next, inner)

    def _cancel(self, waiting: Any) -> None:
        task = asyncio.current_task()
        assert task is not None

        def cancel(_: object = None) -> None:
            self.reached = task.cancel()

        if self._as_it_ends and waiting is not None:
            # Before the task is woken by it: what it waited for is there, and so is the cancellation.
            waiting.add_done_callback(cancel)
        else:
            cancel()


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A queue of its own for one attempt, with what calls need there."""

    store: Store
    queue: Queue[Any]
    waiting: Job[Any]
    delayed: Job[Any]
    failed: Job[Any]

    def worker(self, **options: Any) -> Worker[Any]:
        """A worker of the queue, not started."""
        return Worker(self.queue.name, nothing, self.store, **options)

    async def run_a_worker(self) -> None:
        """Start a worker, and close it."""
        async with self.worker():
            pass

    async def follow(self, *, job: bool) -> None:
        """Listen for events."""
        events = self.queue.observe(self.waiting.id) if job else self.queue.events()
        async for _ in events:
            pass

    async def add_a_flow(self) -> None:
        """Add a parent with children in two queues."""
        name = self.queue.name
        kids = [FlowJob("kid", name), FlowJob("kid", f"{name}-kids")]
        await FlowProducer(self.store).add(FlowJob("root", name, children=kids))


Call = Callable[[Attempt], Coroutine[Any, Any, Any]]
CALLS: Final[dict[str, Call]] = {
    "add": lambda p: p.queue.add("work", {"n": 1}),
    "add_bulk": lambda p: p.queue.add_bulk([NewJob("work", n) for n in range(3)]),
    "get_job": lambda p: p.queue.get_job(p.waiting.id),
    "get_jobs": lambda p: p.queue.get_jobs(),
    "get_job_counts": lambda p: p.queue.get_job_counts(),
    "get_workers": lambda p: p.queue.get_workers(),
    "explain": lambda p: p.queue.explain(p.waiting.id),
    "pause": lambda p: p.queue.pause(),
    "resume": lambda p: p.queue.resume(),
    "get_paused": lambda p: p.queue.get_paused(),
    "drain": lambda p: p.queue.drain(),
    "clean": lambda p: p.queue.clean("failed"),
    "obliterate": lambda p: p.queue.obliterate(),
    "retry_jobs": lambda p: p.queue.retry_jobs(),
    "promote_jobs": lambda p: p.queue.promote_jobs(),
    "cancel": lambda p: p.queue.cancel(p.waiting.id),
    "remove": lambda p: p.queue.remove(p.waiting.id),
    "redrive": lambda p: Queue[Any](f"{p.queue.name}-dead", p.store).redrive(),
    "every": lambda p: p.queue.every("1h", "work", key="another"),
    "pause_schedule": lambda p: p.queue.pause_schedule("key"),
    "trigger_schedule": lambda p: p.queue.trigger_schedule("key"),
    "get_schedules": lambda p: p.queue.get_schedules(),
    "remove_schedule": lambda p: p.queue.remove_schedule("key"),
    "job.refresh": lambda p: p.waiting.refresh(),
    "job.log": lambda p: awaited(p.waiting.log("line")),
    "job.update_progress": lambda p: awaited(p.waiting.update_progress(5)),
    "job.update_data": lambda p: awaited(p.waiting.update_data(5)),
    "job.change_delay": lambda p: awaited(p.delayed.change_delay("2h")),
    "job.change_priority": lambda p: awaited(p.waiting.change_priority(5)),
    "job.promote": lambda p: awaited(p.delayed.promote()),
    "job.retry": lambda p: awaited(p.failed.retry()),
    "job.remove": lambda p: awaited(p.delayed.remove()),
    "job.cancel": lambda p: p.delayed.cancel(),
    "job.get_dependencies": lambda p: p.waiting.get_dependencies(),
    "wait_until_finished": lambda p: in_vain(p.waiting.wait_until_finished()),
    "wait_until_finished, with a timeout": lambda p: in_vain(p.waiting.wait_until_finished(IN_VAIN / 2)),
    "observe": lambda p: in_vain(p.follow(job=True)),
    "events": lambda p: in_vain(p.follow(job=False)),
    "worker": lambda p: p.run_a_worker(),
    "worker.run": lambda p: in_vain(p.worker().run()),
    "worker.run_until_idle": lambda p: p.worker().run_until_idle(),
}
#: A claim that is cut off leaves jobs to the end of their leases: what it got is not known.
CLAIMING: Final = frozenset({"worker", "worker.run", "worker.run_until_idle"})
OF_FLOWS: Final[dict[str, Call]] = {"FlowProducer.add": lambda p: p.add_a_flow()}
#: What needs a job that has failed.
OF_FAILED: Final = frozenset({"clean", "retry_jobs", "redrive", "job.retry"})
OF_GROUPS: Final[dict[str, Call]] = {
    "add to a group": lambda p: p.queue.add("work", group=Group("g")),
    "get_groups": lambda p: p.queue.get_groups(),
}
EVERY_CALL: Final[dict[str, Call]] = {**CALLS, **OF_FLOWS, **OF_GROUPS}


async def in_vain(call: Coroutine[Any, Any, Any]) -> None:
    """Make a call that would wait for ever, for a moment."""
    try:
        async with asyncio.timeout(IN_VAIN):
            await call
    except TimeoutError:
        return


async def awaited(statement: Awaitable[object]) -> None:
    """What a type checker takes for a statement, as a coroutine."""
    await statement


async def an_attempt(store: Store, name: str, call: str) -> Attempt:
    """A new queue, with what a call needs."""
    queue: Queue[Any] = Queue(name, store)
    failed = None
    if call in OF_FAILED:
        failed = await queue.add("work", dead_letter=f"{name}-dead")
        await Worker(name, fail, store).run_until_idle()
    if "schedule" in call:
        await queue.every("1h", "work", key="key")
    waiting, delayed = await queue.add_bulk([NewJob("work"), NewJob("work", delay="1h")])
    return Attempt(store=store, queue=queue, waiting=waiting, delayed=delayed, failed=failed or waiting)


async def ended(before: set[asyncio.Task[Any]]) -> None:
    """Return when no other task is left than there were before: what goes on to its end has its time."""
    left: set[asyncio.Task[Any]] = set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SOON):
            while left := asyncio.all_tasks() - before:
                await asyncio.wait(left, timeout=0.01)
    assert not left


async def cancel_at_every_moment(
    make: Callable[[int], Awaitable[Coroutine[Any, Any, Any]]],
    check: Callable[[int], Awaitable[None]],
    *,
    as_it_ends: bool,
) -> int:
    """Make calls, one after the other, cancelled at each of their waits, until the n-th ends by itself."""
    await (await make(0))  # what a store makes once, as connections, is made now
    before = asyncio.all_tasks()
    for n in range(1, MOST):
        call = Cancelled(await make(n), n, as_it_ends=as_it_ends)

        async def run(call: Cancelled = call) -> None:
            await call

        task = asyncio.create_task(run())
        done, _ = await asyncio.wait([task], timeout=SOON)

        assert done, f"cancelled at its wait number {n}, it goes on"
        assert task.cancelled() == call.reached, f"cancelled at its wait number {n}: {task!r}"
        await ended(before)
        await check(n)
        if not call.reached:
            task.result()
            return n
    msg = f"a call with {MOST} waits has no end"
    raise AssertionError(msg)


@area("cancellations")
class Cancellations:
    """A cancellation that gets lost leaves its task, and who waits for that, going for ever."""

    @pytest.mark.parametrize("name", EVERY_CALL)
    async def test_a_call_cancelled_at_any_moment_ends_cancelled(self, store: Store, name: str) -> None:
        if name in OF_FLOWS and Feature.FLOWS not in store.features:
            return
        if name in OF_GROUPS and Feature.GROUPS not in store.features:
            return
        turn = list(EVERY_CALL).index(name)
        for as_it_ends in some_of((False, True), store, turn, one_in=2):
            await self._cancelled_at_any_moment(store, name, as_it_ends=as_it_ends)

    async def _cancelled_at_any_moment(self, store: Store, name: str, *, as_it_ends: bool) -> None:
        prefix = f"q-{as_it_ends}"

        async def make(n: int) -> Coroutine[Any, Any, Any]:
            return EVERY_CALL[name](await an_attempt(store, f"{prefix}-{n}", name))

        async def check(n: int) -> None:
            counts = await Queue[Any](f"{prefix}-{n}", store).get_job_counts()
            assert counts[JobState.ACTIVE] == 0 or name in CLAIMING

        last = await cancel_at_every_moment(make, check, as_it_ends=as_it_ends)
        for n in {1, last // 2, last}:
            queue = Queue[Any](f"{prefix}-{n}", store)
            await queue.resume()
            job = await queue.add("work")
            await Worker(queue.name, nothing, store).run_until_idle()
            assert (await job.refresh()).state is JobState.COMPLETED

    @pytest.mark.parametrize("as_it_ends", [False, True], ids=["as a wait begins", "as it ends"])
    async def test_opening_and_closing_a_store_cancelled_at_any_moment_leaves_nothing_behind(
        self, store: Store, store_url: str | None, *, as_it_ends: bool
    ) -> None:
        if store_url is None:
            return  # made by hand: there is no second handle

        async def open_and_close() -> None:
            async with open_store(store_url) as other, other.bus.subscribe({"q"}):
                await Queue[Any]("q", other).count()

        async def make(_: int) -> Coroutine[Any, Any, Any]:
            return open_and_close()

        async def check(_: int) -> None:
            await Queue[Any]("q", store).add("work")

        await cancel_at_every_moment(make, check, as_it_ends=as_it_ends)
