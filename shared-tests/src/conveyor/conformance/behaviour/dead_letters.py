"""Dead letters: what fails for good is added elsewhere in the same step, and can be sent back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.bench import Bench, Gate, Recorder, Watcher, fail, nothing
from conveyor.conformance.kit.make import add, at, child, everything, look, take_one
from conveyor.core import (
    DeadLetter,
    Deduplication,
    Feature,
    FlowJob,
    FlowProducer,
    Group,
    Job,
    JobState,
    Keep,
    NewJob,
    Queue,
    Store,
    StoreUnavailableError,
    Unrecoverable,
    Worker,
)
from conveyor.core.events import JobRemoved, JobWaiting, JobWaitingChildren
from conveyor.core.store import Deleted, JobRecord, Outcome
from conveyor.core.testing import WrappedStore


async def give_up(_: Job[Any]) -> None:
    """Fail for good."""
    raise Unrecoverable("no such account")


async def unstorable(_: Job[Any]) -> object:
    """Return what is no JSON."""
    return object()


async def letters(bench: Bench) -> list[Job[Any]]:
    """The jobs of the dead-letter queue."""
    return await bench.another_queue("dead").get_jobs()


async def lost(bench: Bench, job: Job[Any]) -> None:
    """Let a job's worker die."""
    await take_one(bench.store, job.id, now=bench.clock.now())
    await bench.later("1m")
    await bench.store.advance({"q"})


class _Dying(WrappedStore):
    """A store whose caller dies at its n-th call: before it is made, or before the answer comes."""

    def __init__(self, store: Store, at_call: int, *, after: bool) -> None:
        super().__init__(store)
        self._left = at_call
        self._after = after

    async def _pass_on(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left < 0 or (self._left == 0 and not self._after):
            raise StoreUnavailableError("gone")
        found = await super()._pass_on(method, *args, **kwargs)
        if self._left == 0:
            raise StoreUnavailableError("gone")
        return found


@area("dead letters")
class Dying:
    """What becomes a dead letter, and what it says."""

    async def test_a_job_that_fails_for_good_is_added_to_its_dead_letter_queue(self, bench: Bench) -> None:
        job = await bench.queue.add(
            "charge", {"n": 1}, attempts=2, backoff="5s", priority=3, dead_letter="dead", timeout="1m"
        )

        async def handler(job: Job[Any]) -> None:
            await job.log(f"run {job.attempts_made + 1}")
            await job.update_progress(40)
            await fail(job)

        await bench.run(handler)
        assert await letters(bench) == []
        await bench.later("5s")
        await bench.run(handler)

        [letter] = await letters(bench)
        assert (letter.name, letter.data, letter.state) == ("charge", {"n": 1}, JobState.WAITING)
        assert (letter.attempts_made, letter.logs, letter.parent_id) == (0, [], None)
        origin = letter.dead_letter_of
        assert isinstance(origin, DeadLetter)
        assert (origin.queue_name, origin.job_id, origin.priority) == ("q", job.id, 3)
        assert (origin.created_at, origin.failed_at) == (at(0), at(5))
        assert (origin.failed_reason, origin.error_type) == ("run 2 went wrong", "RuntimeError")
        assert (origin.attempts_made, origin.stalled_count, origin.progress) == (2, 0, 40)
        assert origin.logs == ("run 1", "run 2")
        assert [run.message for run in origin.attempt_history] == ["run 1 went wrong", "run 2 went wrong"]
        assert origin.options == job.options
        await job.refresh()
        assert (job.state, job.dead_letter_of) == (JobState.FAILED, None)

    async def test_a_letter_has_the_data_that_the_job_had_in_the_end(self, bench: Bench) -> None:
        async def handler(job: Job[Any]) -> None:
            await job.update_data(job.data | {"step": 2})
            await fail(job)

        await bench.queue.add("charge", {"n": 1}, dead_letter="dead", remove_on_fail=True)
        await bench.run(handler)

        [letter] = await letters(bench)
        assert letter.data == {"n": 1, "step": 2}
        assert await bench.another_queue("dead").redrive() == 1
        assert [job.data for job in await bench.queue.get_jobs()] == [{"n": 1, "step": 2}]

    async def test_every_way_of_failing_for_good_makes_a_letter(self, bench: Bench) -> None:
        queue = bench.another_queue("q", dead_letter="dead", default_job_options={"attempts": 5})
        await queue.add("given up")
        await bench.run(give_up)
        await queue.add("unstorable")
        await bench.run(unstorable)
        await queue.add("untyped", "text")
        await bench.run(nothing, payload=dict)
        discarded = await queue.add("discarded")
        await discarded.discard()
        await bench.run(fail)
        stalled = await queue.add("stalled")
        await lost(bench, stalled)
        await bench.run(nothing, max_stalled=0)
        await queue.add("late", timeout="1s", attempts=1)
        gate = Gate()
        running = asyncio.create_task(bench.run(gate))
        await gate.until_begun()
        await bench.later("1s")
        await running

        found = {letter.name: letter.dead_letter_of for letter in await letters(bench)}

        assert {name: origin and origin.error_type for name, origin in found.items()} == {
            "given up": "Unrecoverable",
            "unstorable": "UnserialisableResultError",
            "untyped": "undecodable",
            "discarded": "RuntimeError",
            "stalled": "stalled",
            "late": "JobTimeoutError",
        }
        of_stalled = found["stalled"]
        assert of_stalled is not None
        assert [run.outcome for run in of_stalled.attempt_history] == ["stalled"]

    async def test_what_does_not_fail_for_good_makes_none(self, bench: Bench) -> None:
        queue = bench.another_queue("q", dead_letter="dead")
        await queue.add("done")
        await bench.run()
        await queue.add("retried", attempts=2, backoff="1h")
        await bench.run(fail)
        cancelled = await queue.add("cancelled", delay="1h")
        await cancelled.cancel()
        await queue.add("without", dead_letter=None)
        await bench.run(fail)

        assert await letters(bench) == []

    async def test_a_letter_comes_though_the_job_is_removed_in_the_same_step(self, bench: Bench) -> None:
        job = await bench.queue.add("work", 1, dead_letter="dead", remove_on_fail=True)

        await bench.run(fail)

        [letter] = await letters(bench)
        assert await bench.queue.get_job(job.id) is None
        assert (letter.data, letter.dead_letter_of and letter.dead_letter_of.job_id) == (1, job.id)

    async def test_an_outcome_that_is_written_twice_makes_one_letter(self, bench: Bench) -> None:
        class Twice(WrappedStore):
            async def settle(self, outcomes: Any, **options: Any) -> Any:
                await super().settle(outcomes, **options)
                return await super().settle(outcomes, **options)

        await bench.queue.add("work", dead_letter="dead")
        worker: Worker[Any] = Worker("q", fail, Twice(bench.store), clock=bench.clock)

        await worker.run_until_idle()

        assert len(await letters(bench)) == 1

    async def test_a_worker_that_lost_its_lease_makes_no_letter(self, bench: Bench) -> None:
        gate = Gate()

        async def handler(job: Job[Any]) -> None:
            if gate.runs:
                return  # the run that took its place
            await gate(job)
            raise Unrecoverable("too late")

        job = await bench.queue.add("work", dead_letter="dead")
        late = asyncio.create_task(bench.run(handler))
        await gate.until_begun()
        await bench.later("1m")
        await bench.store.advance({"q"})
        gate.opened.set()
        await late

        assert await letters(bench) == []
        assert await bench.state(job) is JobState.COMPLETED

    async def test_each_life_of_a_job_that_fails_leaves_a_letter(self, bench: Bench) -> None:
        job = await bench.queue.add("work", dead_letter="dead")
        await bench.run(fail)
        await job.retry()
        await bench.run(fail)

        assert [one.dead_letter_of and one.dead_letter_of.job_id for one in await letters(bench)] == [
            job.id,
            job.id,
        ]

    async def test_letters_can_be_worked_like_other_jobs_and_keep_what_they_say(self, bench: Bench) -> None:
        await bench.queue.add("work", {"n": 1}, dead_letter="dead")
        await bench.run(fail)
        seen: list[Any] = []

        async def inspect(letter: Job[Any]) -> str:
            await letter.log("looked at")
            assert letter.dead_letter_of is not None
            seen.append((letter.data, letter.dead_letter_of.failed_reason))
            return "told"

        worker: Worker[Any] = Worker("dead", inspect, bench.store, clock=bench.clock)
        await worker.run_until_idle()

        [letter] = await letters(bench)
        assert seen == [({"n": 1}, "run 1 went wrong")]
        assert (letter.state, letter.return_value, letter.logs) == (JobState.COMPLETED, "told", ["looked at"])
        assert letter.dead_letter_of is not None

    async def test_workers_of_the_dead_letter_queue_are_told(self, handles: tuple[Store, Store]) -> None:
        mine, other = handles
        job = await Queue[Any]("q", mine).add("work", dead_letter="dead")

        async with Watcher(Queue("dead", other), mine) as watching, Worker("q", give_up, mine):
            event = (await watching.until(JobWaiting))[-1]

        assert event.queue_name == "dead"
        assert (await job.refresh()).state is JobState.FAILED


@area("dead letters")
class Redriving:
    """`redrive`."""

    @pytest.mark.parametrize("removed", [False, True], ids=["still there", "removed"])
    async def test_a_job_goes_back_with_its_data_its_options_and_all_its_attempts(
        self, bench: Bench, *, removed: bool
    ) -> None:
        job = await bench.queue.add(
            *("work", {"n": [1, None]}),
            job_id="order-42",
            attempts=2,
            priority=7,
            dead_letter="dead",
            remove_on_fail=removed,
            remove_on_complete=Keep(count=5),
        )
        await bench.run(fail)
        await bench.run(fail)

        assert await bench.another_queue("dead").redrive() == 1

        assert await letters(bench) == []
        again = await bench.queue.get_job("order-42")
        assert again is not None
        assert (again.state, again.data, again.priority) == (JobState.WAITING, {"n": [1, None]}, 7)
        assert (again.options, again.attempts_made) == (job.options, 0)
        assert [run.outcome for run in again.attempt_history] == ["failed", "failed"]
        runs = Recorder()
        await bench.run(runs)
        assert runs.ids == ["order-42"]

    @needs(Feature.GROUPS, Feature.UNIQUE_KEYS)
    async def test_group_and_key_go_back_with_a_job_that_was_removed(self, bench: Bench) -> None:
        once = Deduplication("report")
        job = await bench.queue.add(
            "work",
            deduplication=once,
            group=Group("g", max_size=9),
            lifo=True,
            dead_letter="dead",
            remove_on_fail=True,
        )
        await bench.run(fail)

        assert await bench.another_queue("dead").redrive() == 1

        assert (await bench.queue.add("work", deduplication=once)).id == job.id
        record = await look(bench.store, job.id, now=bench.clock.now())
        assert record is not None
        assert (record.group, record.group_max_size, record.lifo) == ("g", 9, True)

    async def test_only_those_asked_for_go_back(self, bench: Bench) -> None:
        queue = bench.another_queue("q", dead_letter="dead")
        dead = bench.another_queue("dead")
        for n in range(5):
            await queue.add("work", n, job_id=f"{n}")
        await bench.run(fail)
        last = (await letters(bench))[-1]

        assert await dead.redrive(ids=[last.id, "unknown"]) == 1
        assert await dead.redrive(limit=2) == 2

        waiting = [job.data for job in await bench.queue.get_jobs("waiting")]
        assert waiting == [0, 1, 4]
        assert await dead.redrive(ids=[]) == 0
        assert (await dead.redrive(), await dead.redrive()) == (2, 0)

    async def test_many_letters_of_several_queues_go_back_each_to_its_own(self, bench: Bench) -> None:
        names = ["q", "other"]
        for name in names:
            queue = bench.another_queue(name, dead_letter="dead")
            for n in range(60):
                await queue.add("work", n, remove_on_fail=n % 2 == 0)
            worker: Worker[Any] = Worker(name, fail, bench.store, clock=bench.clock)
            await worker.run_until_idle()

        assert await bench.another_queue("dead").redrive() == 120

        for name in names:
            found = await bench.another_queue(name).get_jobs("waiting")
            assert sorted(job.data for job in found) == list(range(60))

    async def test_a_job_that_fails_again_at_once_goes_back_once_in_a_call(self, bench: Bench) -> None:
        class Failing(WrappedStore):
            """A store where what goes back has failed again before the call goes on."""

            async def delete(self, *args: Any, **options: Any) -> Deleted:
                await bench.run(fail)
                return await super().delete(*args, **options)

        await bench.queue.add("work", dead_letter="dead", remove_on_fail=True)
        await bench.run(fail)
        dead: Queue[Any] = Queue("dead", Failing(bench.store), clock=bench.clock)

        assert await dead.redrive() == 1

        assert len(await letters(bench)) == 1

    async def test_other_jobs_of_the_queue_stay(self, bench: Bench) -> None:
        dead = bench.another_queue("dead")
        own = await dead.add("own")
        await bench.queue.add("work", dead_letter="dead")
        await bench.run(fail)

        assert await dead.redrive() == 1

        assert [job.id for job in await letters(bench)] == [own.id]
        assert (await own.refresh()).state is JobState.WAITING

    async def test_a_letter_stays_where_another_job_has_its_id(self, bench: Bench) -> None:
        await bench.queue.add("work", 1, job_id="order-42", dead_letter="dead", remove_on_fail=True)
        await bench.run(fail)
        await bench.later("1s")
        other = await bench.queue.add("work", 2, job_id="order-42")

        assert await bench.another_queue("dead").redrive() == 0

        [letter] = await letters(bench)
        assert (letter.state, letter.data) == (JobState.WAITING, 1)
        await other.remove()
        assert await bench.another_queue("dead").redrive() == 1

    @needs(Feature.UNIQUE_KEYS)
    @pytest.mark.parametrize("removed", [False, True], ids=["still there", "removed"])
    async def test_a_letter_stays_where_another_job_has_its_key(self, bench: Bench, *, removed: bool) -> None:
        once = Deduplication("report")
        await bench.queue.add("work", 1, deduplication=once, dead_letter="dead", remove_on_fail=removed)
        await bench.run(fail)
        other = await bench.queue.add("work", 2, deduplication=once)

        assert await bench.another_queue("dead").redrive() == 0

        [letter] = await letters(bench)
        assert letter.state is JobState.WAITING
        await other.cancel()
        assert await bench.another_queue("dead").redrive() == 1
        assert [job.data for job in await bench.queue.get_jobs("waiting")] == [1]

    @needs(Feature.UNIQUE_KEYS)
    @pytest.mark.parametrize("taken", ["id", "key"])
    async def test_a_letter_whose_place_is_taken_in_the_last_moment_waits_again(
        self, bench: Bench, taken: str
    ) -> None:
        once = Deduplication("report")

        class Late(WrappedStore):
            async def settle(self, *args: Any, **options: Any) -> Any:
                if taken == "id":
                    await bench.queue.add("work", 2, job_id="order-42")
                else:
                    await bench.queue.add("work", 2, deduplication=once)
                return await super().settle(*args, **options)

        await bench.queue.add(
            "work", 1, job_id="order-42", deduplication=once, dead_letter="dead", remove_on_fail=True
        )
        await bench.run(fail)

        assert await Queue[Any]("dead", Late(bench.store), clock=bench.clock).redrive() == 0

        [letter] = await letters(bench)
        assert (letter.state, letter.data) == (JobState.WAITING, 1)
        assert letter.dead_letter_of is not None
        assert [job.data for job in await bench.queue.get_jobs()] == [2]

    async def test_the_letter_of_a_job_that_was_retried_by_hand_goes_and_is_not_counted(
        self, bench: Bench
    ) -> None:
        job = await bench.queue.add("work", dead_letter="dead")
        await bench.run(fail)
        await job.retry()
        await bench.run()

        assert await bench.another_queue("dead").redrive() == 0

        assert await letters(bench) == []
        assert await bench.state(job) is JobState.COMPLETED

    async def test_two_letters_of_one_job_send_it_back_once(self, bench: Bench) -> None:
        job = await bench.queue.add("work", dead_letter="dead")
        await bench.run(fail)
        await job.retry()
        await bench.run(fail)
        assert len(await letters(bench)) == 2

        assert await bench.another_queue("dead").redrive() == 1

        assert await letters(bench) == []
        assert await bench.state(job) is JobState.WAITING

    async def test_many_who_redrive_at_once_send_each_job_back_once(
        self, handles: tuple[Store, Store]
    ) -> None:
        queue: Queue[Any] = Queue("q", handles[0], dead_letter="dead")
        jobs = [await queue.add("work", n, remove_on_fail=n % 2 == 0) for n in range(40)]
        worker: Worker[Any] = Worker("q", fail, handles[0])
        await worker.run_until_idle()

        sent = await asyncio.gather(*(Queue[Any]("dead", store).redrive() for store in [*handles] * 3))

        assert sum(sent) == 40
        found = await everything(handles[0])
        assert {job.id for job in found} == {job.id for job in jobs}
        assert {job.state for job in found} == {JobState.WAITING}
        assert await everything(handles[1], "dead") == []

    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("removed", [False, True], ids=["still there", "removed"])
    async def test_whoever_dies_at_any_call_loses_and_doubles_nothing(
        self, bench: Bench, *, removed: bool, after: bool
    ) -> None:
        job = await bench.queue.add("work", 1, job_id="order-42", dead_letter="dead", remove_on_fail=removed)
        dead = bench.another_queue("dead")
        at_call, done = 0, False
        while not done:
            at_call += 1
            await bench.run(fail)
            dying: Queue[Any] = Queue("dead", _Dying(bench.store, at_call, after=after), clock=bench.clock)
            try:
                await dying.redrive()
                done = True
            except StoreUnavailableError:
                await bench.later("31s")
                await dead.redrive()

            live = await bench.queue.get_jobs("waiting")
            assert [(one.id, one.data) for one in live] == [("order-42", 1)]
            assert [one.state for one in await letters(bench) if one.state is not JobState.COMPLETED] == []
            await dead.clean("completed")
        assert at_call > 4
        assert job.id == "order-42"

    async def test_a_call_that_is_cancelled_leaves_no_letter_held(self, bench: Bench) -> None:
        reached = asyncio.Event()

        class Slow(WrappedStore):
            async def settle(self, *args: Any, **options: Any) -> Any:
                reached.set()
                await asyncio.sleep(0.01)
                return await super().settle(*args, **options)

        await bench.queue.add("work", dead_letter="dead", remove_on_fail=True)
        await bench.run(fail)
        calling: asyncio.Future[int] = asyncio.ensure_future(
            Queue[Any]("dead", Slow(bench.store), clock=bench.clock).redrive()
        )
        await reached.wait()
        calling.cancel()
        assert await _ends_cancelled(calling)
        for _ in range(50):
            await asyncio.sleep(0.01)
            if await bench.queue.count("waiting") and not await letters(bench):
                break

        assert await bench.queue.count("waiting") == 1
        assert await letters(bench) == []

    async def test_going_back_is_told_in_both_queues(self, handles: tuple[Store, Store]) -> None:
        mine, other = handles
        job = await Queue[Any]("q", mine).add("work", dead_letter="dead")
        worker: Worker[Any] = Worker("q", give_up, mine)
        await worker.run_until_idle()
        dead: Queue[Any] = Queue("dead", mine)

        async with (
            Watcher(Queue("q", other), mine) as watching,
            Watcher(Queue("dead", other), mine) as watching_dead,
        ):
            await dead.redrive()
            waiting = (await watching.until(JobWaiting))[-1]
            await watching_dead.until(JobRemoved)

        assert isinstance(waiting, JobWaiting)
        assert waiting.job_id == job.id

    @needs(Feature.FLOWS)
    async def test_a_letter_has_no_parent_and_a_child_goes_back_as_one(self, bench: Bench) -> None:
        await add(
            bench.store,
            child("kid", options='{"dead_letter":"dead"}'),
            JobRecord(queue="q", id="parent", name="work"),
        )
        held = await take_one(bench.store, "kid")
        await bench.store.settle([Outcome.given_back(held)])
        await bench.run({"work": fail})

        [letter] = await letters(bench)
        assert letter.parent_id is None
        origin = letter.dead_letter_of
        assert origin is not None
        assert (origin.parent_queue_name, origin.parent_id) == ("q", "parent")
        assert await bench.another_queue("dead").redrive() == 1
        kid = await bench.queue.get_job("kid")
        assert kid is not None
        assert (kid.parent_id, kid.state) == ("parent", JobState.WAITING)

    @needs(Feature.FLOWS)
    @pytest.mark.parametrize("removed", [False, True], ids=["kept", "not kept"])
    async def test_a_child_that_goes_back_reopens_what_failed_for_it(
        self, bench: Bench, *, removed: bool
    ) -> None:
        kid = FlowJob("kid", "kids", dead_letter="dead", remove_on_fail=removed)
        flow = FlowJob("root", "q", children=[FlowJob("middle", "q", children=[kid])])
        added = await FlowProducer(bench.store, clock=bench.clock).add(flow)

        async def late(job: Job[Any]) -> None:
            await bench.later("1s")
            await fail(job)

        await Worker("kids", late, bench.store, clock=bench.clock).run_until_idle()
        assert await bench.state(added.job) is JobState.FAILED

        async with Watcher(bench.queue, bench.store) as watcher:
            assert await bench.another_queue("dead").redrive() == 1
            told = await watcher.until(JobWaitingChildren)
        assert told[-1].job_id == added.children[0].job.id  # type: ignore[attr-defined]
        assert await bench.state(added.job) is JobState.WAITING_CHILDREN
        await Worker("kids", nothing, bench.store, clock=bench.clock).run_until_idle()
        await bench.run()

        assert await bench.state(added.job) is JobState.COMPLETED

    @needs(Feature.GROUPS)
    async def test_a_job_goes_back_whatever_is_paused_and_however_full_its_group_is(
        self, bench: Bench
    ) -> None:
        full = Group("g", max_size=2)
        for removed in (False, True):
            await bench.queue.add("work", group=full, dead_letter="dead", remove_on_fail=removed)
        await bench.run(fail)
        await bench.queue.add_bulk([NewJob("work", group=full), NewJob("work", group=full)])
        await bench.queue.pause()
        dead = bench.another_queue("dead")
        await dead.pause()

        assert await dead.redrive() == 2
        assert await bench.queue.count("waiting") == 4


async def _ends_cancelled(task: Awaitable[object]) -> bool:
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


class DeadLetters(Dying, Redriving):
    """Dead letters."""
