"""Queue behaviour: one thing that the store refuses for good holds up nothing that is written with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from conveyor.conformance.behaviour.worker_registry import registered, running
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import SOON, Bench, Gate, nothing
from conveyor.conformance.kit.flow_bench import FlowBench, leaf
from conveyor.conformance.kit.make import take_by_id
from conveyor.core import Job, JobState, NewJob, Unrecoverable
from conveyor.core._jobs.report import Failure, Report
from conveyor.core.errors import (
    SchemaTooNewError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreForkedError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from conveyor.core.store import Beat, Feature, JobRecord, Outcome, Release, Renewed, Settled, Store
from conveyor.core.testing import FaultyStore, WrappedStore

#: What the store does not know how to write, as a database of another encoding.
BEE = "\N{HONEYBEE}"
S = JobState


class Picky(WrappedStore):
    """A store that refuses every call with an outcome, a beat or a job that has a bee in it."""

    def __init__(self, store: Store) -> None:
        """Wrap a store that takes everything."""
        super().__init__(store)
        #: How many calls were refused.
        self.refusals = 0

    def _check(self, *texts: str | None) -> None:
        if any(text and (BEE in text or r"\ud83d\udc1d" in text) for text in texts):
            self.refusals += 1
            raise StoreError(f"there is no {BEE} in the encoding of this store")

    async def insert(self, jobs: Sequence[JobRecord], **kwargs: Any) -> Any:
        """Take jobs without bees."""
        self._check(*(text for one in jobs for text in (one.payload, one.report)))
        return await super().insert(jobs, **kwargs)

    async def renew(self, beats: Sequence[Beat], lease: timedelta, **kwargs: Any) -> Renewed:
        """Take beats without bees."""
        self._check(*(text for beat in beats for text in (beat.report, beat.payload)))
        return await super().renew(beats, lease, **kwargs)

    async def settle(self, outcomes: Sequence[Outcome], **kwargs: Any) -> Settled:
        """Take outcomes without bees."""
        self._check(*(one.report for one in outcomes))
        self._check(*(text for one in outcomes for job in one.spawn for text in (job.payload, job.report)))
        return await super().settle(outcomes, **kwargs)


def picky(bench: Bench) -> Picky:
    """Let what works at the bench's queues from now on meet a picky store; return that."""
    store = Picky(bench.store)
    bench.store = store  # type: ignore[assignment]
    return store


async def logs(job: Job[Any]) -> None:
    """Log what cannot be stored."""
    await job.log(BEE)


async def returns(_: Job[Any]) -> str:
    """Return what cannot be stored."""
    return BEE


async def raises(_: Job[Any]) -> None:
    """Raise what cannot be stored; there are attempts left."""
    raise RuntimeError(BEE)


async def gives_up(_: Job[Any]) -> None:
    """Raise what cannot be stored, for good: a dead letter has it as well."""
    raise Unrecoverable(BEE)


@area("queue behaviour")
class Refusals:
    """Only the culprit pays."""

    @pytest.mark.parametrize("culprit", [logs, returns, raises, gives_up], ids=lambda one: one.__name__)
    async def test_an_outcome_that_the_store_refuses_fails_its_job_and_no_other(
        self, bench: Bench, culprit: Callable[[Job[Any]], Awaitable[object]]
    ) -> None:
        jobs = await bench.queue.add_bulk(
            [NewJob("work", n, attempts=3, dead_letter="dead") for n in range(9)]
        )
        store = picky(bench)

        async def handler(job: Job[Any]) -> object:
            await job.update_progress(job.data)
            return await culprit(job) if job.data == 6 else job.data

        await bench.run(handler, concurrency=9)

        found = [await job.refresh() for job in jobs]
        assert [job.state for job in found] == [S.COMPLETED] * 6 + [S.FAILED] + [S.COMPLETED] * 2
        assert [job.return_value for job in found if job.state is S.COMPLETED] == [0, 1, 2, 3, 4, 5, 7, 8]
        assert str(found[6].failed_reason).startswith(
            "the store refused the outcome: StoreError: there is no"
        )
        assert str(found[6].failed_reason).isascii()
        [dead_letter] = await bench.another_queue("dead").get_jobs()
        assert dead_letter.data == 6
        assert dead_letter.dead_letter_of is not None
        assert dead_letter.dead_letter_of.failed_reason == found[6].failed_reason
        assert 0 < store.refusals < 30

    async def test_what_cannot_be_failed_either_is_left_to_its_leases_end(self, bench: Bench) -> None:
        """A store that takes nothing of one job goes on with the others."""
        jobs = await bench.queue.add_bulk([NewJob("work", n) for n in range(5)])

        class Against(WrappedStore):
            async def settle(self, outcomes: Sequence[Outcome], **kwargs: Any) -> Settled:
                if any(one.lease.id == jobs[1].id for one in outcomes):
                    raise StoreError("not this one")
                return await super().settle(outcomes, **kwargs)

        sound, bench.store = bench.store, Against(bench.store)  # type: ignore[assignment]
        await bench.run(nothing, concurrency=5)
        states = [(await job.refresh()).state for job in jobs]
        assert states == [S.COMPLETED, S.ACTIVE, S.COMPLETED, S.COMPLETED, S.COMPLETED]
        bench.store = sound
        await bench.later("30s")
        await bench.run()

        assert await bench.state(jobs[1]) is S.COMPLETED

    async def test_a_report_that_the_store_refuses_keeps_no_lease_from_being_renewed(
        self, bench: Bench
    ) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work", n) for n in range(5)])
        store = picky(bench)
        go_on, begun = asyncio.Event(), asyncio.Semaphore(0)

        async def handler(job: Job[Any]) -> str:
            await job.log(BEE if job.data == 2 else "fine")
            begun.release()
            await go_on.wait()
            return "done"

        async with running(bench, handler, concurrency=5, lock_duration="10s", stalled_interval="1s"):
            async with asyncio.timeout(SOON):
                for _ in jobs:
                    await begun.acquire()
            for _ in range(40):
                await bench.later("1s")
                await asyncio.sleep(0.01)
            found = [await job.refresh() for job in jobs]
            assert [(job.state, job.stalled_count) for job in found] == [(S.ACTIVE, 0)] * 5
            assert [job.logs for job in found if job.data != 2] == [["fine"]] * 4
            go_on.set()
            states = [await ended(job) for job in jobs]

        assert states == [S.COMPLETED, S.COMPLETED, S.FAILED, S.COMPLETED, S.COMPLETED]
        assert store.refusals < 30

    async def test_a_handler_learns_that_its_write_was_refused_and_others_learn_nothing(
        self, bench: Bench
    ) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work", n) for n in range(4)])
        picky(bench)
        errors: dict[int, type[BaseException]] = {}

        async def handler(job: Job[Any]) -> None:
            n = job.data
            for data in ([n], [n, BEE if n == 1 else "ok"], [n, "again"]):
                try:
                    await job.update_data(data)
                except StoreError as error:
                    errors[n] = type(error)

        await bench.run(handler, concurrency=4)

        assert errors == {1: StoreError}
        assert [(await job.refresh()).state for job in jobs] == [S.COMPLETED] * 4
        assert [job.data for job in jobs] == [[n, "again"] for n in range(4)]

    async def test_what_a_worker_registers_of_itself_keeps_no_lease_from_being_renewed(
        self, bench: Bench
    ) -> None:
        gate = Gate()
        picky(bench)

        async with running(bench, gate, lock_duration="10s", stalled_interval="1s"):
            await registered(bench)
            job = await bench.queue.add(f"work {BEE}")
            await gate.until_begun()
            for _ in range(40):
                await bench.later("1s")
                await asyncio.sleep(0.01)
            await registered(bench)
            await job.refresh()
            assert (job.state, job.stalled_count) == (S.ACTIVE, 0)

    async def test_a_schedule_whose_job_the_store_refuses_holds_up_no_other(self, bench: Bench) -> None:
        for n, key in enumerate(["one", "two", "three"]):
            await bench.queue.every("1 minute", "work", BEE if n == 1 else n, key=key)
        picky(bench)
        done: list[Any] = []

        async def handler(job: Job[Any]) -> None:
            done.append(job.data)

        for _ in range(3):
            await bench.later("1 minute")
            await bench.run(handler)

        assert sorted(done) == [0, 0, 0, 2, 2, 2]
        assert len(await bench.queue.get_schedules()) == 3

    @needs(Feature.FLOWS)
    async def test_a_parent_whose_end_the_store_refuses_holds_up_no_other(self, store: Store) -> None:
        """The reason for which a parent fails is its child's, which the store took before."""
        bench = FlowBench(store)
        for n in range(5):
            kids = [leaf(f"first-{n}", "kids"), leaf(f"bad-{n}", "kids", name="bad")]
            await bench.producer.add(leaf(f"root-{n}", children=kids))
        firsts = [f"first-{n}" for n in range(5)]
        for held in await take_by_id(bench.store, firsts, queue="kids", now=None):
            failure = Failure(type="Error", message=BEE if held.id == "first-2" else "plain")
            report = Report(error=failure, failures=1).encode(final=True)
            await bench.store.settle([Outcome.failed(held, report, release=Release.ONE)])
        picky(bench)

        await bench.run_all("kids", concurrency=5)
        roots = await bench.states("q")
        assert roots.pop("root-2") == "waiting"
        assert set(roots.values()) == {"failed"}
        await bench.run_all("q")

        assert str((await bench.job("q", "root-2")).failed_reason).startswith("the store refused the outcome")

    @needs(Feature.FLOWS)
    async def test_a_child_whose_end_the_store_refuses_holds_up_no_other(self, store: Store) -> None:
        bench = FlowBench(store)
        added = await bench.producer.add(leaf("root", children=[leaf(f"kid-{n}") for n in range(5)]))
        await (await bench.job("q", "kid-2")).log(BEE)
        picky(bench)

        assert await bench.another_queue("q").cancel(added.job.id)

        states = await bench.states("q")
        assert states.pop("kid-2") == "waiting"
        assert set(states.values()) == {"cancelled"}

    async def test_a_dead_letter_whose_job_the_store_refuses_holds_up_no_other(self, bench: Bench) -> None:
        data = [0, 1, BEE, 3]
        await bench.queue.add_bulk(
            [NewJob("work", one, dead_letter="dead", remove_on_fail=True) for one in data]
        )

        async def fail(_: Job[Any]) -> None:
            raise Unrecoverable("no")

        await bench.run(fail)
        picky(bench)

        assert await bench.another_queue("dead").redrive() == 3

        assert [job.data for job in await bench.queue.get_jobs("waiting")] == [0, 1, 3]
        [left] = await bench.another_queue("dead").get_jobs()
        assert (left.state, left.data) == (S.WAITING, BEE)

    @pytest.mark.parametrize(
        "error",
        [
            StoreUnavailableError("gone"),
            StoreBusyError("busy"),
            StoreFullError("full"),
            StoreReadOnlyError("read-only"),
            StoreClosedError("closed"),
            StoreForkedError("forked"),
            SchemaTooNewError("newer"),
            StoreError("cut", outcome_unknown=True),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_what_is_wrong_with_the_store_costs_no_outcome(
        self, bench: Bench, error: StoreError
    ) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work", n) for n in range(5)])
        faulty = FaultyStore(bench.store)
        bench.store = faulty  # type: ignore[assignment]
        runs: list[Any] = []

        async def handler(job: Job[Any]) -> None:
            runs.append(job.data)

        faulty.fail("settle", error, times=6)
        working = asyncio.create_task(bench.run(handler, concurrency=5))
        async with asyncio.timeout(SOON):
            while not working.done():
                await asyncio.wait([working], timeout=0.01)
                await bench.later("1s")
        await working

        assert [await bench.state(job) for job in jobs] == [S.COMPLETED] * 5
        assert sorted(runs) == [0, 1, 2, 3, 4]


async def ended(job: Job[Any]) -> JobState:
    """A job's state once it has ended."""
    async with asyncio.timeout(SOON):
        while not (await job.refresh()).state.terminal:  # noqa: ASYNC110 - it ends in its own time
            await asyncio.sleep(0.01)
    return job.state
