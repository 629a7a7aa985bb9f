"""Interleavings: what else happens in a worker's life while any of its calls to the store is under way.

Each call is held once before the store gets it, and once before its answer is handed over. Whatever happens
meanwhile, no job may be forgotten: every active job of a worker that lives is running, ready to run, or has
an outcome that is being written; and a worker that is closed leaves none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from typing import Any, Final

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import SOON, Bench, Watcher, nothing, until, until_finished
from conveyor.core import Batch, FlowJob, FlowProducer, Job, JobState, NewJob, Queue, RateLimited, Worker
from conveyor.core.errors import StoreError, StoreUnavailableError
from conveyor.core.events import CancelRequested
from conveyor.core.store import Beat, Claim, Feature, JobRecord, Outcome, Store, Where
from conveyor.core.testing import WrappedStore

#: For what is heard in the middle of a call. A store that tells it later is tested less, and passes.
MOMENT: Final = 0.02
#: For a call that not every worker makes.
PATIENCE: Final = 0.2
#: How many workers are played at once: a closed one waits two seconds for a claim, however slow the store is.
AT_ONCE: Final = 6
#: For what ends as soon as the store has answered.
LONG: Final = "1 minute"
#: The calls that are held, each by its number among those of its kind: what a handler and the end of a family
#: write; the others that a worker makes for certain.
WRITTEN: Final = (("insert", 1), ("update", 1), ("delete", 1))
CERTAIN: Final = (("claim", 1), ("settle", 1), ("renew", 1), ("advance", 1), *WRITTEN[:2])
#: What is held of a worker of each kind.
HELD: Final = {
    "one by one": (*CERTAIN[:4], ("claim", 2), ("settle", 2), ("count", 1), ("find", 1), ("pause", 1)),
    "later": (
        *WRITTEN,
        ("claim", 3),
        ("claim", 4),
        ("settle", 3),
        ("settle", 4),
        ("renew", 2),
        ("advance", 2),
    ),
    "batches": (("claim", 2), ("settle", 1), ("count", 1), ("find", 1), ("paused", 2)),
}


class HeldStore(WrappedStore):
    """A store of which one call for a queue is held, at its start or at its end; it may be away, too."""

    def __init__(self, store: Store, queue: str, method: str, number: int, phase: str) -> None:
        """Hold call number `number` of `method` for `queue`."""
        super().__init__(store)
        self._queue = queue
        self._method = method
        self._left = number
        self._phase = phase
        self.reached = asyncio.Event()
        self.let_go = asyncio.Event()
        self.away = False
        #: Answers given so far, by method.
        self.answered: Counter[str] = Counter()

    async def _pass_on(self, method: str, *args: Any, **kwargs: Any) -> Any:
        held = method == self._method and any(self._queue in queues_of(given) for given in args)
        self._left -= held
        held = held and self._left == 0
        if held and self._phase == "start":
            await self._hold()
        self._fail_if_away()
        answer = await super()._pass_on(method, *args, **kwargs)
        if held and self._phase == "end":
            await self._hold()
            self._fail_if_away()
        self.answered[method] += 1
        return answer

    def has_answered(self, method: str, times: int) -> bool:
        """Whether it has, at least that often."""
        return self.answered[method] >= times

    async def _hold(self) -> None:
        self.reached.set()
        await self.let_go.wait()

    def _fail_if_away(self) -> None:
        if self.away:
            raise StoreUnavailableError("away", outcome_unknown=True)


def queues_of(given: object) -> set[str]:
    """The queues that an argument of a call is about."""
    match given:
        case str():
            return {given}
        case Claim() | JobRecord():
            return {given.queue}
        case Where():
            return {given.queue or "", given.parent.queue if given.parent else ""}
        case Beat() | Outcome():
            return {given.lease.queue}
        case Collection():
            return {queue for one in given for queue in queues_of(one)}
        case _:
            return set()


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


# ------------------------------------------------------- what may happen meanwhile


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


async def live(life: Life, happens: Callable[[Life], Awaitable[None]], patience: float) -> None:
    """Let something happen within the call that is held, and see every job finish."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
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


@area("interleavings")
class Interleavings:
    """Every call of a worker, held at its start and at its end, and everything that may happen meanwhile."""

    # A store that rewrites a file in each call takes minutes for all: most are for the long run.
    @pytest.mark.parametrize(
        "kind",
        [
            "one by one",
            pytest.param("later", marks=pytest.mark.chaos),
            pytest.param("batches", marks=pytest.mark.chaos),
        ],
    )
    @pytest.mark.parametrize("happens", EVENTS, ids=lambda happens: happens.__name__)
    async def test_no_job_is_forgotten_whatever_happens_within_a_call(
        self, store: Store, happens: Callable[[Life], Awaitable[None]], kind: str
    ) -> None:
        async def play(held: tuple[str, int], phase: str) -> None:
            async with at_once:
                life = await begin(store, held, phase, batched=kind == "batches")
                try:
                    await live(life, happens, SOON if held in certain else PATIENCE)
                except BaseException as error:
                    error.add_note(f"call {held[1]} of {held[0]} was held at its {phase}")
                    raise
                finally:
                    await life.worker.close(0)
                await store.delete(Where(queue=life.queue.name), limit=100)  # a store may rewrite all it has
            assert life.held.reached.is_set() or held not in certain

        calls = HELD[kind] + (WRITTEN if kind == "one by one" and happens in WHILE_WRITING else ())
        certain = () if kind == "batches" else CERTAIN
        if Feature.FLOWS not in store.features:
            calls = tuple(call for call in calls if call[0] != "delete")
        at_once = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for held, phase in product(calls, ("start", "end")):
                group.create_task(play(held, phase))

    @pytest.mark.parametrize("held", ["claim", "count"])
    async def test_what_a_claim_brings_goes_back_if_its_pause_is_heard_of_meanwhile(
        self, store: Store, held: str
    ) -> None:
        if held == "count" and Feature.FLOWS not in store.features:
            pytest.skip("not offered: flows")
        queue: Queue[Any] = Queue("q", store)
        limit = asyncio.Event()
        ran: list[str] = []

        async def handler(job: Job[Any]) -> None:
            ran.append(job.name)
            if job.name == "limited":
                await limit.wait()
                raise RateLimited("1h")

        await queue.add("limited")
        holding = HeldStore(store, "q", held, 2 if held == "claim" else 1, "end")
        async with Worker("q", handler, holding, concurrency=2, poll_interval="1h") as worker:
            await until_true(lambda: ran == ["limited"] and worker.stats().ready == 0)
            if held == "claim":
                await queue.add("next")
            else:
                await FlowProducer(store).add(FlowJob("parent", "q", children=[FlowJob("child", "q")]))
            await holding.reached.wait()
            limit.set()
            await until_true(lambda: worker.stats().running == 0)
            holding.let_go.set()

            async def gone_back() -> bool:
                return await queue.count(JobState.ACTIVE) == 0

            await until(gone_back)
            assert ran == ["limited"] + ["child"] * (held == "count")

    async def test_a_job_that_is_cancelled_while_its_claim_is_on_its_way_does_not_run_to_its_end(
        self, store: Store
    ) -> None:
        queue: Queue[Any] = Queue("q", store)
        job = await queue.add("work")
        holding = HeldStore(store, "q", "claim", 1, "end")

        async def handler(_: Job[Any]) -> None:
            await asyncio.Event().wait()

        # Nothing but the event says it in time: the next heartbeat is hours away.
        async with Worker("q", handler, holding, lock_duration="3h"):
            await holding.reached.wait()
            async with Watcher(queue, store) as watcher:
                assert await queue.cancel(job.id)
                await watcher.until(CancelRequested)
            await asyncio.sleep(MOMENT)  # the worker hears it at the same time
            holding.let_go.set()
            await until_finished(job)

        assert job.state is JobState.CANCELLED

    @needs(Feature.FLOWS)
    async def test_families_are_tidied_that_end_while_another_one_is(self, store: Store) -> None:
        queue: Queue[Any] = Queue("q", store)
        children = [FlowJob("child", "q", remove_on_complete=True)]
        await FlowProducer(store).add_bulk([FlowJob("parent", "q", children=children) for _ in range(3)])
        holding = HeldStore(store, "q", "delete", 1, "start")

        async def tidy() -> bool:
            return await queue.count() == 3 == await queue.count("completed")

        async with Worker("q", nothing, holding, maintenance_interval="1h") as worker:
            await holding.reached.wait()
            await until_true(lambda: worker.stats().settled == 6)
            holding.let_go.set()

            await until(tidy)

    @pytest.mark.parametrize("held", ["count", "paused"])
    async def test_what_was_claimed_keeps_its_lease_while_it_is_looked_at(
        self, bench: Bench, held: str
    ) -> None:
        if held == "count" and Feature.FLOWS not in bench.store.features:
            return
        number = 2 if held == "paused" else 1  # the first is the look at the store when the worker starts
        holding = HeldStore(bench.store, "q", held, number, "start")
        options: dict[str, Any] = {"batch": Batch(3, linger="1h", by="group")} if held == "paused" else {}
        if held == "count":
            await FlowProducer(bench.store).add(FlowJob("parent", "q", children=[FlowJob("child", "q")]))
        else:
            await bench.queue.add_bulk([NewJob("work") for _ in range(3)])

        async with Worker("q", nothing_of_any, holding, clock=bench.clock, **options):
            await holding.reached.wait()
            for n in range(1, 7):
                await bench.later("10s")
                await until_true(partial(holding.has_answered, "renew", n))
            advanced = await bench.store.advance({"q"})
            holding.let_go.set()

        assert (list(advanced.stalled), list(advanced.unstarted)) == ([], [])


async def nothing_of_any(_: object) -> None:
    """A handler of one job or of several that does nothing."""


async def until_true(check: Callable[[], bool]) -> None:
    """Return when this is true, looking again and again."""

    async def true() -> bool:
        return check()

    await until(true)
