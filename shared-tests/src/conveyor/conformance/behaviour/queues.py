"""Queue behaviour: `Queue` and `Job` on the store, as users see them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conveyor.conformance.behaviour.arguments import Arguments
from conveyor.conformance.behaviour.data import Data
from conveyor.conformance.behaviour.ended_runs import EndedRuns
from conveyor.conformance.behaviour.executors import Executors
from conveyor.conformance.behaviour.keep import KeepingFinishedJobs
from conveyor.conformance.behaviour.outside_writes import OutsideWrites
from conveyor.conformance.behaviour.refusals import Refusals
from conveyor.conformance.behaviour.removals import Removals
from conveyor.conformance.behaviour.short_holds import ShortHolds
from conveyor.conformance.behaviour.workers import RunningJobs, RunningWorkers
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import SOON, Bench, Gate, Recorder, Watcher, fail, nothing
from conveyor.conformance.kit.make import at, claim
from conveyor.core import (
    Backoff,
    Deduplication,
    Feature,
    InvalidJobStateError,
    Job,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobRemovedError,
    JobState,
    NewJob,
    Pause,
    PayloadError,
    Queue,
    Store,
    WaitTimeoutError,
    Worker,
)
from conveyor.core._jobs.report import Report
from conveyor.core.events import JobEvent, JobRemoved, QueuePaused
from conveyor.core.store import Outcome

#: What JSON can say, and stores have been known to change.
DATA: list[Any] = [
    None,
    True,
    0,
    -1.5,
    "",
    "ok",
    "123",
    "null",
    '{"a": 1}',
    [],
    {},
    [None, [None, {"": None}]],
    {"é": "naïve 群 🐝", "nested": {"list": [1, 2.5, "x", False]}},
    2**31,
    2**63,
    10**30,
    0.1,
    1e-300,
    {"__all__": "'; drop table jobs; --"},
    "line\nbreak\ttab \u2028 \x7f",
]


@area("queue behaviour")
class Adding:
    """`add`, `add_bulk`, `schedule` and `now`."""

    @pytest.mark.parametrize(
        "data", DATA, ids=lambda value: repr(value)[:20].encode("ascii", "replace").decode()
    )
    async def test_data_and_results_come_back_equal(self, bench: Bench, data: Any) -> None:
        job = await bench.queue.add("work", data)
        recorder = Recorder(result=data)

        await bench.run(recorder)

        assert recorder.data == [data]
        assert [type(one) for one in recorder.data] == [type(data)]
        found = await bench.queue.get_job(job.id)
        assert found is not None
        assert (found.data, found.return_value) == (data, data)

    async def test_what_add_returns_is_what_is_stored(self, bench: Bench) -> None:
        job = await bench.queue.add(
            "work", {"n": 1}, priority=3, delay="5 minutes", attempts=4, backoff="exponential", timeout="30s"
        )

        found = await bench.queue.get_job(job.id)

        assert found is not None
        assert found.to_dict() == job.to_dict()
        assert (found.name, found.priority, found.state) == ("work", 3, JobState.DELAYED)
        assert found.delay_until == at(300)
        assert found.options.attempts == 4

    async def test_bad_data_is_refused_and_nothing_is_stored(self, bench: Bench) -> None:
        for data in (float("nan"), {"a": 1j}, "\x00", "\ud800", object()):
            with pytest.raises(PayloadError):
                await bench.queue.add_bulk([NewJob("work", 1), NewJob("work", data)])

        assert await bench.queue.count() == 0

    async def test_a_bulk_is_added_in_order_and_read_in_order(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work", n) for n in range(50)])

        recorder = Recorder()
        await bench.run(recorder)

        assert [job.data for job in jobs] == list(range(50))
        assert recorder.data == list(range(50))

    async def test_a_bulk_with_duplicates_returns_a_job_for_each(self, bench: Bench) -> None:
        """B20: the list of results never shrinks, and is in the order of the call."""
        await bench.queue.add("work", "old", job_id="b")

        jobs = await bench.queue.add_bulk([NewJob("work", n, job_id=n) for n in "abca"])

        assert [job.id for job in jobs] == ["a", "b", "c", "a"]
        assert [job.deduplicated for job in jobs] == [False, True, False, True]
        assert jobs[1].data == "old"

    async def test_a_job_is_scheduled_in_words_or_for_an_instant(self, bench: Bench) -> None:
        words = await bench.queue.schedule("in 10 minutes", "work")
        instant = await bench.queue.schedule(at(60), "work")
        assert (words.delay_until, instant.delay_until) == (at(600), at(60))

        recorder = Recorder()
        await bench.later("59.999s")
        await bench.run(recorder)
        assert recorder.ids == []

        await bench.later("1ms")
        await bench.run(recorder)
        assert recorder.ids == [instant.id]

    async def test_now_passes_over_a_default_delay(self, bench: Bench) -> None:
        queue = bench.another_queue("q", default_job_options={"delay": "1h"})

        assert (await queue.add("work")).state is JobState.DELAYED
        assert (await queue.now("work")).state is JobState.WAITING

    async def test_an_id_that_exists_returns_that_job_unchanged_whatever_its_state(
        self, bench: Bench
    ) -> None:
        """B16: upstream overwrote the job, even while it ran."""
        gate = Gate()
        first = await bench.queue.add("work", 1, job_id="order-42")
        running = asyncio.create_task(bench.run(gate))
        await gate.until_begun()

        while_active = await bench.queue.add("other", 2, job_id="order-42", priority=9)
        gate.opened.set()
        await running
        when_done = await bench.queue.add("other", 3, job_id="order-42")

        assert (first.deduplicated, while_active.deduplicated, when_done.deduplicated) == (False, True, True)
        assert (while_active.data, while_active.name, while_active.state) == (1, "work", JobState.ACTIVE)
        assert (when_done.data, when_done.state) == (1, JobState.COMPLETED)
        assert gate.runs == 1

    async def test_options_are_stored_and_come_back(self, bench: Bench) -> None:
        """B9: what is stored of a backoff works in every store."""
        for backoff in (
            Backoff("exponential", "2s", max_delay="1m", jitter=0.5),
            Backoff(["1s", "1h30m"]),
            Backoff("mine", "3s"),
        ):
            job = await bench.queue.add("work", attempts=3, backoff=backoff, remove_on_fail="7 days")
            found = await bench.queue.get_job(job.id)
            assert found is not None
            assert found.options == job.options
            assert found.options.backoff == backoff


@area("queue behaviour", Feature.UNIQUE_KEYS)
class Deduplicating:
    """`deduplication=`."""

    async def test_without_a_time_a_key_is_held_until_the_job_has_finished(self, bench: Bench) -> None:
        once = Deduplication("report")
        first = await bench.queue.add("work", 1, deduplication=once)
        second = await bench.queue.add("work", 2, deduplication=once)
        assert (second.id, second.deduplicated, second.data) == (first.id, True, 1)

        await bench.run()

        third = await bench.queue.add("work", 3, deduplication=once)
        assert (third.deduplicated, third.data) == (False, 3)

    async def test_with_a_time_a_key_is_held_for_exactly_that_long_finished_or_not(
        self, bench: Bench
    ) -> None:
        once = Deduplication("report", ttl="1 hour")
        first = await bench.queue.add("work", deduplication=once, remove_on_complete=True)
        await bench.run()
        assert await bench.queue.get_job(first.id) is not None

        await bench.later("3599.999s")
        assert (await bench.queue.add("work", deduplication=once)).id == first.id

        await bench.later("1ms")
        assert (await bench.queue.add("work", deduplication=once)).id != first.id

    async def test_the_same_payload_under_another_name_is_another_job(self, bench: Bench) -> None:
        """B16: upstream's key of a payload left the name out."""
        same = Deduplication.by_payload()
        first = await bench.queue.add("work", {"a": 1, "b": [2]}, deduplication=same)

        again = await bench.queue.add("work", {"b": [2], "a": 1}, deduplication=same)
        other = await bench.queue.add("other", {"a": 1, "b": [2]}, deduplication=same)

        assert (again.id, again.deduplicated) == (first.id, True)
        assert not other.deduplicated

    async def test_replace_gives_the_waiting_job_the_new_data_and_delay(self, bench: Bench) -> None:
        mode = Deduplication("report", mode="replace")
        first = await bench.queue.add("work", 1, delay="10s", deduplication=mode)
        await bench.later("5s")

        second = await bench.queue.add("work", 2, delay="10s", deduplication=mode)

        assert (second.id, second.data, second.delay_until) == (first.id, 2, at(15))

    async def test_many_adds_of_one_key_at_once_make_one_job(self, handles: tuple[Store, Store]) -> None:
        """B16: upstream looked the key up first."""
        queues: list[Queue[Any]] = [Queue("q", store) for store in handles] * 5
        once = Deduplication("report", ttl="1h")

        jobs = await asyncio.gather(*(queue.add("work", deduplication=once) for queue in queues))

        assert len({job.id for job in jobs}) == 1
        assert sorted(job.deduplicated for job in jobs) == [False] + [True] * 9

    async def test_a_bulk_is_deduplicated_like_single_adds(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk(
            [NewJob("work", n, deduplication=Deduplication("k")) for n in (1, 2)]
        )

        assert jobs[0].id == jobs[1].id
        assert await bench.queue.count() == 1

    async def test_a_finished_job_whose_key_another_holds_cannot_be_retried(self, bench: Bench) -> None:
        once = Deduplication("report")
        first = await bench.queue.add("work", deduplication=once)
        await bench.run()
        second = await bench.queue.add("work", deduplication=once)

        with pytest.raises(InvalidJobStateError, match=second.id):
            await first.retry()

        assert await bench.queue.retry_jobs("completed") == 0
        assert await bench.state(first) is JobState.COMPLETED


@area("queue behaviour")
class Managing:
    """Pausing, counting, reading, and sets of jobs."""

    async def test_every_state_is_in_the_counts(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("work"), NewJob("work"), NewJob("work", delay="1h")])

        counts = await bench.queue.get_job_counts()

        assert counts == dict.fromkeys(JobState, 0) | {JobState.WAITING: 2, JobState.DELAYED: 1}
        assert await bench.queue.count("waiting", "delayed") == 3

    async def test_at_most_so_many_of_each_state_are_counted_if_asked(self, bench: Bench) -> None:
        await bench.queue.add_bulk([*(NewJob("work") for _ in range(4)), NewJob("work", delay="1h")])

        counts = await bench.queue.get_job_counts(most=3)

        assert counts == dict.fromkeys(JobState, 0) | {JobState.WAITING: 3, JobState.DELAYED: 1}
        assert await bench.queue.count("waiting", "delayed", most=3) == 4
        assert await bench.queue.count("waiting", most=9) == 4

    async def test_jobs_are_read_page_by_page(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("work", n) for n in range(7)])

        read: list[Any] = []
        page: list[Job[Any]] = []
        while page := await bench.queue.get_jobs("waiting", limit=3, after=page[-1] if page else None):
            read += [job.data for job in page]

        assert read == list(range(7))

    async def test_a_paused_queue_starts_nothing_until_it_is_resumed(self, bench: Bench) -> None:
        await bench.queue.add("work")
        recorder = Recorder()

        await bench.queue.pause()
        await bench.run(recorder)
        assert recorder.ids == []
        assert await bench.queue.get_paused() == {Pause(): None}

        await bench.queue.resume()
        await bench.run(recorder)
        assert len(recorder.ids) == 1

    async def test_a_paused_name_is_left_and_others_go_on(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("x", 1), NewJob("y", 2), NewJob("x", 3)])
        recorder = Recorder()

        await bench.queue.pause("x")
        await bench.run(recorder)
        assert recorder.data == [2]

        await bench.queue.resume()
        await bench.run(recorder)
        assert recorder.data == [2]

        await bench.queue.resume("x")
        await bench.run(recorder)
        assert recorder.data == [2, 1, 3]

    @pytest.mark.parametrize("name", ["__all__", "*", "%", "None"])
    async def test_no_name_of_a_job_pauses_the_queue(self, bench: Bench, name: str) -> None:
        await bench.queue.add_bulk([NewJob(name, 1), NewJob("work", 2)])
        recorder = Recorder()

        await bench.queue.pause(name)
        await bench.run(recorder)

        assert recorder.data == [2]

    async def test_running_jobs_of_a_paused_queue_finish(self, bench: Bench) -> None:
        gate = Gate()
        job = await bench.queue.add("work")
        running = asyncio.create_task(bench.run(gate))
        await gate.until_begun()

        await bench.queue.pause()
        gate.opened.set()
        await running

        assert await bench.state(job) is JobState.COMPLETED

    async def test_retried_jobs_run_with_all_their_attempts(self, bench: Bench) -> None:
        """B18: upstream kept what the first runs had used up."""
        job = await bench.queue.add("work", attempts=2)
        await bench.run(fail)
        assert (await bench.state(job), job.attempts_made) == (JobState.FAILED, 2)

        assert await bench.queue.retry_jobs() == 1
        assert await bench.state(job) is JobState.WAITING
        runs = Recorder()
        await bench.run(runs)

        await job.refresh()
        assert runs.ids == [job.id]
        assert (job.state, job.failed_at, job.attempts_made) == (JobState.COMPLETED, None, 0)

    async def test_a_cancelled_job_that_is_retried_runs_like_any_other(self, bench: Bench) -> None:
        """B18: upstream cancelled it again at its first renewal."""
        job = await bench.queue.add("work")
        assert await job.cancel()
        await job.retry()

        await bench.run()

        await job.refresh()
        assert (job.state, job.cancelled_at, job.cancelled) == (JobState.COMPLETED, None, False)

    async def test_only_finished_jobs_can_be_retried(self, bench: Bench) -> None:
        """B18: upstream retried a running job, which then ran twice."""
        gate = Gate()
        waiting = await bench.queue.add("work")
        delayed = await bench.queue.add("work", delay="1h")
        running = asyncio.create_task(bench.run(gate))
        await gate.until_begun()

        for job in (waiting, delayed):
            with pytest.raises(InvalidJobStateError):
                await job.retry()
        gate.opened.set()
        await running

        assert gate.runs == 1

    async def test_promoted_jobs_run_now_in_their_old_places(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work", 1, delay="1h"), NewJob("work", 2)])

        assert await bench.queue.promote_jobs() == 1
        recorder = Recorder()
        await bench.run(recorder)

        assert recorder.ids == [job.id for job in jobs]

    async def test_drain_removes_what_waits_and_nothing_else(self, bench: Bench) -> None:
        done = await bench.queue.add("work")
        await bench.run()
        await bench.queue.add_bulk([NewJob("work"), NewJob("work", delay="1h")])

        assert await bench.queue.drain(delayed=False) == 1
        assert await bench.queue.drain() == 1

        assert [job.id for job in await bench.queue.get_jobs()] == [done.id]

    async def test_clean_removes_what_is_old_enough(self, bench: Bench) -> None:
        await bench.queue.add_bulk([NewJob("work") for _ in range(3)])
        await bench.run()
        await bench.later("1h")
        await bench.queue.add("work")
        await bench.run()

        assert await bench.queue.clean("completed", grace="30m", limit=2) == 2
        assert await bench.queue.clean("completed", grace="30m") == 1
        assert await bench.queue.clean("completed", grace="30m") == 0
        assert await bench.queue.count() == 1

    async def test_obliterate_leaves_no_trace_and_spares_running_jobs_unless_forced(
        self, bench: Bench
    ) -> None:
        gate = Gate()
        job = await bench.queue.add("work")
        await bench.queue.pause("x")
        running = asyncio.create_task(bench.run(gate))
        await gate.until_begun()

        with pytest.raises(InvalidJobStateError):
            await bench.queue.obliterate()
        assert await bench.state(job) is JobState.ACTIVE
        assert await bench.queue.get_paused() == {Pause(name="x"): None}

        await bench.queue.obliterate(force=True)
        gate.opened.set()
        await running

        assert await bench.queue.count() == 0
        assert await bench.queue.get_paused() == {}

    async def test_a_job_that_waits_is_cancelled_at_once(self, bench: Bench) -> None:
        jobs = await bench.queue.add_bulk([NewJob("work"), NewJob("work", delay="1h")])

        for job in jobs:
            assert await bench.queue.cancel(job.id)
            assert await bench.state(job) is JobState.CANCELLED
            assert not await bench.queue.cancel(job.id)

        assert not await bench.queue.cancel("unknown")
        recorder = Recorder()
        await bench.run(recorder)
        assert recorder.ids == []

    async def test_a_job_can_be_changed_while_it_waits(self, bench: Bench) -> None:
        job = await bench.queue.add("work", 1, delay="1h")

        await job.update_data({"n": 2})
        await job.change_priority(-5)
        await job.change_delay("10s")
        found = await bench.queue.get_job(job.id)
        assert found is not None
        assert (found.data, found.priority, found.delay_until) == ({"n": 2}, -5, at(10))

        await job.promote()
        assert await bench.state(job) is JobState.WAITING
        with pytest.raises(InvalidJobStateError):
            await job.promote()

    async def test_a_job_can_be_removed_unless_it_runs(self, bench: Bench) -> None:
        gate = Gate()
        job = await bench.queue.add("work")
        running = asyncio.create_task(bench.run(gate))
        await gate.until_begun()
        with pytest.raises(InvalidJobStateError):
            await job.remove()
        gate.opened.set()
        await running

        await job.remove()

        assert await bench.queue.get_job(job.id) is None
        with pytest.raises(JobNotFoundError):
            await job.refresh()

    async def test_logs_and_progress_are_kept_for_jobs_that_wait_too(self, bench: Bench) -> None:
        job = await bench.queue.add("work", delay="1h")

        await job.log("one")
        await job.log("two")
        await job.update_progress(12.5)

        found = await bench.queue.get_job(job.id)
        assert found is not None
        assert (found.logs, found.progress) == (["one", "two"], 12.5)
        assert (found.state, found.delay_until, found.attempts_made) == (JobState.DELAYED, at(3_600), 0)


@area("queue behaviour")
class Waiting:
    """`wait_until_finished` and events, in real time; on another handle where the store has one."""

    async def test_a_result_is_waited_for(self, handles: tuple[Store, Store]) -> None:
        """B12: upstream's waiters in another process heard nothing."""
        mine, other = handles
        queue: Queue[Any] = Queue("q", mine)
        elsewhere: Queue[Any] = Queue("q", other)
        job = await queue.add("work", {"n": 1})
        seen = await elsewhere.get_job(job.id)
        assert seen is not None
        waiter = asyncio.ensure_future(seen.wait_until_finished(SOON))

        async with Worker("q", Recorder(result={"é": [1, None]}), mine):
            assert await job.wait_until_finished(SOON) == {"é": [1, None]}

        assert await waiter == {"é": [1, None]}

    async def test_every_end_of_a_job_ends_the_waiting(self, store: Store) -> None:
        """B12: upstream's waiters hung when a job was removed."""
        queue: Queue[Any] = Queue("q", store)
        done, failed, cancelled, removed = [await queue.add("work", n, delay="1h") for n in range(4)]
        waiters = [
            asyncio.ensure_future(job.wait_until_finished(SOON)) for job in (failed, cancelled, removed)
        ]
        await asyncio.sleep(0)
        await cancelled.cancel()
        await removed.remove()
        await done.promote()
        await failed.promote()

        async def handler(job: Job[Any]) -> str:
            if job.data:
                raise RuntimeError("wrong")
            return "done"

        async with Worker("q", handler, store):
            assert await done.wait_until_finished(SOON) == "done"
            with pytest.raises(JobFailedError, match="wrong"):
                await waiters[0]
        with pytest.raises(JobCancelledError):
            await waiters[1]
        with pytest.raises(JobRemovedError):
            await waiters[2]

    async def test_waiting_for_a_job_that_does_not_finish_ends_in_time(self, store: Store) -> None:
        queue: Queue[Any] = Queue("q", store)
        job = await queue.add("work")

        with pytest.raises(WaitTimeoutError):
            await job.wait_until_finished(0.02)

        assert not await job.is_completed()

    async def test_a_waiter_that_missed_the_event_finds_the_result(self, bench: Bench) -> None:
        job = await bench.queue.add("work")
        waiter = asyncio.ensure_future(job.wait_until_finished())
        await asyncio.sleep(0.05)
        (held,) = (await bench.store.claim(claim())).jobs
        report = Report(result="quietly").encode(final=True)
        await bench.store.settle([Outcome.completed(held, report)])

        async with asyncio.timeout(SOON):
            while not waiter.done():
                await bench.later("1s")
                await asyncio.sleep(0.01)

        assert await waiter == "quietly"

    async def test_a_queues_events_tell_a_jobs_life(self, handles: tuple[Store, Store]) -> None:
        """B19: every event that is documented is sent, progress and removal included; B7: so are retries."""
        mine, other = handles
        queue: Queue[Any] = Queue("q", mine)
        watcher: Queue[Any] = Queue("q", other)

        async def handler(job: Job[Any]) -> None:
            await job.update_progress(50)
            if not job.attempts_made:
                raise RuntimeError("once")

        async with Watcher(watcher, mine) as watching:
            job = await queue.add("work", attempts=2)
            async with Worker("q", handler, mine):
                await job.wait_until_finished(SOON)
            await job.remove()
            told = await watching.until(JobRemoved)

        names = [type(event).__name__ for event in told]
        assert names[0] == "JobWaiting"
        assert [name for name in names if name not in {"JobWaiting", "JobDelayed"}] == [
            *("JobActive", "JobProgress", "JobRetrying"),
            *("JobActive", "JobProgress", "JobCompleted", "JobRemoved"),
        ]
        assert {event.queue_name for event in told} == {"q"}

    async def test_pausing_is_told(self, handles: tuple[Store, Store]) -> None:
        """B19: upstream told nobody."""
        mine, other = handles
        watcher: Queue[Any] = Queue("q", other)

        async with Watcher(watcher, mine) as watching:
            await Queue("q", mine).pause("work")
            event = (await watching.until(QueuePaused))[-1]

        assert isinstance(event, QueuePaused)
        assert (event.queue_name, event.job_name) == ("q", "work")

    async def test_a_job_is_observed_until_it_has_finished(self, store: Store) -> None:
        queue: Queue[Any] = Queue("q", store)
        job = await queue.add("work")
        other = await queue.add("work")

        async def observe() -> list[str]:
            return [
                f"{type(event).__name__} {event.job_id if isinstance(event, JobEvent) else ''}"
                async for event in queue.observe(job.id)
            ]

        observing = asyncio.create_task(observe())
        await asyncio.sleep(0.02)
        async with Worker("q", nothing, store):
            await other.wait_until_finished(SOON)
            async with asyncio.timeout(SOON):
                told = await observing

        assert told[-1] == f"JobCompleted {job.id}"
        assert not [line for line in told if other.id in line]

    async def test_the_events_of_a_job_that_has_finished_end_at_once(self, bench: Bench) -> None:
        job = await bench.queue.add("work")
        await bench.run()
        assert await bench.state(job) is JobState.COMPLETED

        async with asyncio.timeout(SOON):
            told = [type(event).__name__ async for event in bench.queue.observe(job.id)]

        assert told == ["JobCompleted"]
        with pytest.raises(JobNotFoundError, match="nobody"):
            await anext(bench.queue.observe("nobody"))


class QueueBehaviour(
    Adding,
    Arguments,
    Data,
    Deduplicating,
    Managing,
    Waiting,
    RunningJobs,
    RunningWorkers,
    EndedRuns,
    Executors,
    Refusals,
    ShortHolds,
    OutsideWrites,
    Removals,
    KeepingFinishedJobs,
):
    """Queues and workers."""
