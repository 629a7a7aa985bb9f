"""Deduplication: one job for one key, as users see it, whoever else adds, runs or removes meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs, patient
from conveyor.conformance.kit.bench import SOON, Bench, Gate, Watcher, fail
from conveyor.conformance.kit.make import MANY, at, everything
from conveyor.conformance.kit.processes import in_processes
from conveyor.core import (
    Deduplication,
    Feature,
    InvalidJobStateError,
    Job,
    JobState,
    NewJob,
    Queue,
    Store,
    Worker,
)
from conveyor.core.events import JobWaiting
from conveyor.core.store import Change, JobKey, Where
from conveyor.core.testing import WrappedStore

LATEST = Deduplication("report", mode="replace")
ONCE = Deduplication("report")
LIVE = frozenset(JobState) - {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}


class _Meanwhile(WrappedStore):
    """A store in which something happens between an add's insert and its update of the holder."""

    def __init__(self, store: Store, happens: Callable[[], Awaitable[object]]) -> None:
        super().__init__(store)
        self._happens = happens

    async def update(self, where: Where, change: Change, *, now: datetime | None = None) -> frozenset[JobKey]:
        await self._happens()
        return await super().update(where, change, now=now)


@area("deduplication", Feature.UNIQUE_KEYS)
class Holding:
    """How long a key is held, and by whom."""

    @pytest.mark.parametrize("state", ["delayed", "active", "retrying", "failed", "cancelled", "removed"])
    async def test_a_key_is_held_in_every_state_but_the_last(self, bench: Bench, state: str) -> None:
        gate = Gate()
        held = state in {"delayed", "active", "retrying"}
        delay = "1h" if state == "delayed" else None
        first = await bench.queue.add("work", 1, deduplication=ONCE, delay=delay, attempts=2, backoff="1h")
        running = asyncio.create_task(bench.run(gate)) if state == "active" else None
        match state:
            case "active":
                await gate.until_begun()
            case "retrying" | "failed":
                await bench.run(fail)
                if state == "failed":
                    await bench.later("1h")
                    await bench.run(fail)
            case "cancelled":
                await first.cancel()
            case "removed":
                await first.remove()

        second = await bench.queue.add("work", 2, deduplication=ONCE)

        gate.opened.set()
        if running is not None:
            await running
        assert (second.deduplicated, second.id == first.id) == (held, held)

    async def test_removing_the_job_releases_a_key_that_is_held_for_a_time(self, bench: Bench) -> None:
        hourly = Deduplication("report", ttl="1h")
        first = await bench.queue.add("work", deduplication=hourly)
        await bench.run()
        assert (await bench.queue.add("work", deduplication=hourly)).id == first.id

        await first.remove()

        assert not (await bench.queue.add("work", deduplication=hourly)).deduplicated

    async def test_a_time_counts_for_a_job_that_still_waits_when_it_is_over(self, bench: Bench) -> None:
        hourly = Deduplication("report", ttl="1h")
        first = await bench.queue.add("work", deduplication=hourly, delay="2h")
        await bench.later("1h")

        second = await bench.queue.add("work", deduplication=hourly)

        assert not second.deduplicated
        assert (await bench.queue.add("work", deduplication=hourly)).id == second.id != first.id

    async def test_a_key_is_released_by_hand_once(self, bench: Bench) -> None:
        first = await bench.queue.add("work", deduplication=Deduplication("report", ttl="1h"))

        assert await bench.queue.remove_deduplication_key("report")
        assert not await bench.queue.remove_deduplication_key("report")

        second = await bench.queue.add("work", deduplication=ONCE)
        assert (second.deduplicated, await bench.state(first)) == (False, JobState.WAITING)

    @pytest.mark.parametrize("key", [None, "k" * 5_000], ids=["of the payload", "long"])
    async def test_any_key_is_released_by_what_its_job_says_it_is(
        self, bench: Bench, key: str | None
    ) -> None:
        same = Deduplication.by_payload() if key is None else Deduplication(key)
        first = await bench.queue.add("work", {"n": 1}, deduplication=same)
        again = await bench.queue.add("work", {"n": 1}, deduplication=same)
        assert (again.id, again.deduplication_key) == (first.id, first.deduplication_key)
        assert first.deduplication_key is not None

        assert await bench.queue.remove_deduplication_key(first.deduplication_key)

        assert not (await bench.queue.add("work", {"n": 1}, deduplication=same)).deduplicated

    async def test_a_job_whose_key_another_one_holds_is_not_retried_and_that_one_is_named(
        self, bench: Bench
    ) -> None:
        over = await bench.queue.add("work", 1, deduplication=Deduplication("k"))
        await over.cancel()
        holder = await bench.queue.add("work", 2, deduplication=Deduplication("k"))

        with pytest.raises(
            InvalidJobStateError, match=f"while job '{holder.id}' holds its deduplication key"
        ):
            await over.retry()
        assert await bench.queue.retry_jobs("cancelled") == 0
        await bench.run()
        await over.retry()

        assert (await bench.queue.add("work", 3, deduplication=Deduplication("k"))).id == over.id

    async def test_keys_are_each_queues_own(self, bench: Bench) -> None:
        other = bench.another_queue("other")
        await bench.queue.add("work", deduplication=ONCE)

        assert not (await other.add("work", deduplication=ONCE)).deduplicated
        assert not await bench.another_queue("third").remove_deduplication_key("report")

    async def test_an_id_that_exists_goes_before_a_key_that_is_held(self, bench: Bench) -> None:
        by_id = await bench.queue.add("work", 1, job_id="a")
        by_key = await bench.queue.add("work", 2, deduplication=ONCE)

        both = await bench.queue.add("work", 3, job_id="a", deduplication=LATEST)

        assert (both.id, both.data, both.deduplicated) == (by_id.id, 1, True)
        assert (await by_key.refresh()).data == 2


@area("deduplication", Feature.UNIQUE_KEYS)
class Replacing:
    """Mode `replace`, and jobs that are put off again and again."""

    async def test_a_holder_that_runs_or_has_run_keeps_its_data(self, bench: Bench) -> None:
        gate = Gate()
        mode = Deduplication("report", ttl="1h", mode="replace")
        await bench.queue.add("work", 1, deduplication=mode)
        running = asyncio.create_task(bench.run(gate))
        await gate.until_begun()

        active = await bench.queue.add("work", 2, delay="5s", deduplication=mode)
        gate.opened.set()
        await running
        finished = await bench.queue.add("work", 3, deduplication=mode)

        assert (active.data, active.state, active.deduplicated) == (1, JobState.ACTIVE, True)
        assert (finished.data, finished.state, finished.deduplicated) == (1, JobState.COMPLETED, True)
        assert await bench.queue.count() == 1

    async def test_a_holder_that_starts_meanwhile_is_a_plain_duplicate(self, bench: Bench) -> None:
        gate = Gate()
        first = await bench.queue.add("work", 1, deduplication=LATEST)
        running: list[asyncio.Task[None]] = []

        async def start() -> None:
            running.append(asyncio.create_task(bench.run(gate)))
            await gate.until_begun()

        late: Queue[Any] = Queue("q", _Meanwhile(bench.store, start), clock=bench.clock)
        second = await late.add("work", 2, deduplication=LATEST)
        gate.opened.set()
        await running[0]

        assert (second.id, second.data, second.state) == (first.id, 1, JobState.ACTIVE)
        await first.refresh()
        assert (first.data, first.state, gate.runs) == (1, JobState.COMPLETED, 1)

    async def test_a_holder_that_is_removed_meanwhile_is_named_by_its_id(self, bench: Bench) -> None:
        first = await bench.queue.add("work", 1, deduplication=LATEST)
        late: Queue[Any] = Queue("q", _Meanwhile(bench.store, first.remove), clock=bench.clock)

        second = await late.add("work", 2, deduplication=LATEST)

        assert (second.id, second.deduplicated) == (first.id, True)
        assert await bench.queue.count() == 0

    async def test_in_one_bulk_the_last_of_a_key_wins_and_all_say_so(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk(
            [
                NewJob("work", 1, deduplication=LATEST),
                NewJob("work", "other"),
                NewJob("work", 2, delay="5s", deduplication=LATEST),
                NewJob("work", 3, delay="9s", deduplication=LATEST),
            ]
        )

        first, other, second, third = jobs
        assert {first.id, second.id, third.id} == {first.id}
        assert [job.deduplicated for job in jobs] == [False, False, True, True]
        assert [job.data for job in (first, second, third)] == [3, 3, 3]
        assert (first.state, first.delay_until, other.data) == (JobState.DELAYED, at(9), "other")
        assert await bench.queue.count() == 2

    async def test_a_bulk_may_mix_modes_and_keeps_its_order(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk(
            [
                NewJob("work", 1, deduplication=ONCE),
                NewJob("work", 2, deduplication=LATEST),
                NewJob("work", 3, deduplication=ONCE),
            ]
        )

        assert len({job.id for job in jobs}) == 1
        assert [job.data for job in jobs] == [2, 2, 2]

    async def test_a_job_that_is_put_off_again_and_again_runs_once_when_things_are_quiet(
        self, bench: Bench
    ) -> None:
        seen: list[Any] = []

        async def handler(job: Job[Any]) -> None:
            seen.append((job.data, bench.clock.now()))

        for version in range(5):
            await bench.queue.add("index", version, delay="5s", deduplication=LATEST)
            await bench.later("3s")
            await bench.run(handler)
        assert seen == []

        await bench.later("2s")
        await bench.run(handler)

        assert seen == [(4, at(17))]

    @pytest.mark.parametrize(
        ("options", "until"),
        [({}, at(60)), ({"delay": 0}, None), ({"run_at": at(300)}, at(300)), ({"run_at": at(-1)}, None)],
        ids=["nothing", "no delay", "an instant", "an instant gone by"],
    )
    async def test_a_delayed_holder_is_moved_only_if_a_time_is_given(
        self, bench: Bench, options: Any, until: datetime | None
    ) -> None:
        first = await bench.queue.add("work", 1, delay="1m", deduplication=LATEST)

        second = await bench.queue.add("work", 2, deduplication=LATEST, **options)

        assert (second.id, second.data, second.delay_until) == (first.id, 2, until)
        assert second.state is (JobState.DELAYED if until else JobState.WAITING)

    async def test_now_brings_a_delayed_holder_forward_and_wakes_workers(
        self, handles: tuple[Store, Store]
    ) -> None:
        mine, other = handles
        queue: Queue[Any] = Queue("q", mine)
        await queue.add("work", 1, delay="1h", deduplication=LATEST)

        async with Watcher(Queue("q", other), mine) as watching:
            job = await queue.now("work", 2, deduplication=LATEST)
            await watching.until(JobWaiting)

        assert (job.state, job.data) == (JobState.WAITING, 2)

    async def test_replacing_does_not_prolong_the_time_a_key_is_held(self, bench: Bench) -> None:
        mode = Deduplication("report", ttl="10s", mode="replace")
        first = await bench.queue.add("work", 1, delay="1h", deduplication=mode)
        await bench.later("6s")
        assert (await bench.queue.add("work", 2, delay="1h", deduplication=mode)).id == first.id
        await bench.later("4s")

        assert (await bench.queue.add("work", 3, deduplication=mode)).id != first.id

    async def test_what_many_replace_at_once_is_one_of_theirs(self, handles: tuple[Store, Store]) -> None:
        queues: list[Queue[Any]] = [Queue("q", store) for store in handles] * 5

        jobs = await asyncio.gather(
            *(queue.add("work", n, delay="1h", deduplication=LATEST) for n, queue in enumerate(queues))
        )

        assert len({job.id for job in jobs}) == 1
        assert (await jobs[0].refresh()).data in range(10)
        assert await queues[0].count() == 1


def _check(by_process: list[list[Any]], stored: dict[str, str | None], keys: int) -> None:
    """Every call was given a job of its key that was created, and every job by exactly one call."""
    answers = [answer for mine in by_process for answer in mine]
    assert {key for key, _, _ in answers} == {f"key-{n}" for n in range(keys)}
    assert all(stored[job_id] == key for key, job_id, _ in answers)
    created = Counter(job_id for _, job_id, deduplicated in answers if not deduplicated)
    assert created == Counter(list(stored))


@area("deduplication", Feature.UNIQUE_KEYS)
class Storms:
    """The same keys, added by many while workers finish their jobs."""

    async def test_never_two_live_jobs_of_one_key_while_workers_finish_them(
        self, handles: tuple[Store, Store]
    ) -> None:
        by_process: list[list[Any]] = []
        busy = True

        async def add(store: Store) -> None:
            queue: Queue[Any] = Queue("q", store)
            for _ in range(4):
                named = [f"key-{n}" for n in range(10)]
                jobs = await queue.add_bulk([NewJob("work", deduplication=Deduplication(k)) for k in named])
                by_process.append([(k, job.id, job.deduplicated) for k, job in zip(named, jobs, strict=True)])
                await asyncio.sleep(0)

        async def watch() -> None:
            while busy:
                await _no_two_live(handles[0])
                await asyncio.sleep(0)

        async def nothing(_: Job[Any]) -> None:
            await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        async with Worker("q", nothing, handles[0], concurrency=5), Worker("q", nothing, handles[1]):
            await asyncio.gather(*(add(store) for store in handles * 4))
        busy = False
        async with asyncio.timeout(SOON):
            await watching

        _check(by_process, {job.id: job.unique_key for job in await everything(handles[0])}, 10)

    @needs(Feature.MULTI_PROCESS)
    async def test_processes_that_add_the_same_keys_at_once_learn_the_winners(
        self, store: Store, store_url: str | None
    ) -> None:
        await self._storm(store, store_url, "storm", 3, 60)

    @pytest.mark.chaos
    @patient
    @needs(Feature.MULTI_PROCESS)
    async def test_a_storm_of_a_thousand_keys_in_eight_processes(
        self, store: Store, store_url: str | None
    ) -> None:
        """While eight processes add jobs of a thousand keys, no two live jobs have one key."""
        await self._storm(store, store_url, "long_storm", 8, 1_000)

    async def _storm(self, store: Store, url: str | None, role: str, processes: int, keys: int) -> None:
        playing = asyncio.create_task(in_processes(url, role, processes, timeout=600))
        while not playing.done():
            await _no_two_live(store)
            await asyncio.sleep(0.01)

        _check(await playing, {job.id: job.unique_key for job in await everything(store)}, keys)


async def _no_two_live(store: Store) -> None:
    live = await store.find(Where(queue="q", states=LIVE), limit=MANY)
    twice = [key for key, count in Counter(job.unique_key for job in live).items() if count > 1]
    assert twice == []


class DeduplicationModes(Holding, Replacing, Storms):
    """Deduplication."""
