"""What happens in a worker's life while a call is held."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from conveyor.conformance.concurrency.interleavings.lives import LONG, MOMENT, Life
from conveyor.conformance.kit.bench import SOON, nothing, until_finished
from conveyor.core import JobState, Worker


async def queue_pauses(life: Life) -> None:
    """Everybody's jobs are paused, and resumed after that."""
    await life.queue.pause()
    await life.held.let_go.wait()
    await life.until_accounted_for()
    await life.queue.resume()


async def queue_pauses_and_resumes(life: Life) -> None:
    """Everybody's jobs are paused and resumed within the call."""
    await life.queue.pause()
    await asyncio.sleep(0)
    await life.queue.resume()


async def name_pauses(life: Life) -> None:
    """Some of the jobs are paused."""
    await life.queue.pause(job_name="gated")
    await life.held.let_go.wait()
    await life.until_accounted_for()
    await life.queue.resume(job_name="gated")


async def worker_pauses(life: Life) -> None:
    """The worker is paused: what it has not started goes back."""
    await life.worker.pause()
    await life.held.let_go.wait()
    await life.until_accounted_for()
    await life.worker.resume()


async def worker_pauses_and_resumes(life: Life) -> None:
    """The worker is paused and resumed within the call."""
    pausing = asyncio.create_task(life.worker.pause())
    await asyncio.sleep(0)
    await life.worker.resume()
    await pausing


async def worker_closes(life: Life) -> None:
    """The worker is closed; its handlers may finish."""
    asyncio.get_running_loop().call_later(MOMENT, life.limit.set)
    asyncio.get_running_loop().call_later(MOMENT, life.opened.set)
    await life.worker.close(LONG)


async def worker_closes_at_once(life: Life) -> None:
    """The worker is closed, and its handlers are cancelled."""
    await life.worker.close(0)


async def job_is_cancelled(life: Life) -> None:
    """One of the jobs is cancelled, wherever it is."""
    life.cancelled = life.jobs.pop()
    assert await life.queue.cancel(life.cancelled.id)


async def leases_are_lost(life: Life) -> None:
    """The worker was out of touch for longer than its leases."""
    await life.take_leases_back()


async def handler_is_limited(life: Life) -> None:
    """A handler says that a rate is reached."""
    life.limit.set()


async def store_is_away(life: Life) -> None:
    """The store cannot be reached for a moment."""
    life.held.away = True
    await life.held.let_go.wait()
    await asyncio.sleep(MOMENT)
    life.held.away = False
    # What a claim took whose answer never came is active until its lease is over.
    await life.take_leases_back()


EVENTS: Final[tuple[Callable[[Life], Awaitable[None]], ...]] = (
    queue_pauses,
    queue_pauses_and_resumes,
    name_pauses,
    worker_pauses,
    worker_pauses_and_resumes,
    worker_closes,
    worker_closes_at_once,
    job_is_cancelled,
    leases_are_lost,
    handler_is_limited,
    store_is_away,
)
#: What concerns a handler, or the end of a family, that is writing just now.
WHILE_WRITING: Final = (worker_closes_at_once, job_is_cancelled, leases_are_lost, store_is_away)


async def live(life: Life, happens: Callable[[Life], Awaitable[None]], within: float) -> None:
    """Let something happen within the call that is held, and see every job finish."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await life.held.reached.wait()
    happening = asyncio.ensure_future(happens(life))
    await asyncio.sleep(MOMENT)
    life.held.let_go.set()
    await happening
    closed = happens in {worker_closes, worker_closes_at_once}
    if not closed:
        await life.until_accounted_for()
        life.limit.set()
        life.opened.set()
        await finished(life)
    await life.worker.close(LONG)
    assert await life.active() == 0, "a closed worker left active jobs"
    if closed:
        async with Worker(life.queue.name, nothing, life.store, poll_interval=MOMENT):
            await finished(life)


async def finished(life: Life) -> None:
    """Return when every job has completed; the one that was cancelled ends as that."""
    for job in life.jobs:
        await job.wait_until_finished(SOON)
    if life.cancelled is not None:
        await until_finished(life.cancelled)
        assert life.cancelled.state is JobState.CANCELLED
