"""The job: what it shows, and what can be done with it in each of its states."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from conveyor.core import (
    Attempt,
    Backoff,
    Deduplication,
    Group,
    InvalidJobStateError,
    InvalidOptionError,
    Job,
    JobNotFoundError,
    JobState,
    Keep,
    PayloadError,
    Queue,
    StoreClosedError,
    Worker,
)
from conveyor.core.store import Store
from conveyor.core.testing import FaultyStore, ManualClock, make_job, make_record
from conveyor.store.memory import MemoryStore

MakeWorker = Callable[..., Worker[Any]]
S = JobState
EVERY = list(JobState)


async def in_state(queue: Queue[Any], store: Store, state: JobState, **fields: Any) -> Job[Any]:
    record = await make_job(store, state, queue="q", data={"n": 1}, **fields)
    job = await queue.get_job(record.id)
    assert job is not None
    assert job.state is state
    return job


async def test_a_new_job_shows_what_it_was_added_with(queue: Queue[Any], clock: ManualClock) -> None:
    job = await queue.add(
        "report",
        {"n": [1]},
        attempts=3,
        backoff=Backoff("exponential", delay=2, jitter=0.5),
        delay="5 minutes",
        priority=7,
        timeout=30,
        job_id="order-42",
        group=Group("tenant-7"),
        remove_on_complete=True,
        remove_on_fail=Keep(age="7 days", count=1000),
    )

    again = await queue.get_job("order-42")
    assert again is not None
    for seen in (job, again):
        assert (seen.id, seen.name, seen.queue_name) == ("order-42", "report", "q")
        assert seen.data == {"n": [1]}
        assert seen.options.attempts == 3
        assert seen.options.backoff == Backoff("exponential", delay=2, jitter=0.5)
        assert seen.options.timeout == timedelta(seconds=30)
        assert seen.options.remove_on_complete is not None
        assert seen.options.remove_on_complete.age == timedelta(0)
        assert seen.options.remove_on_fail is not None
        assert seen.options.remove_on_fail.count == 1000
        assert (seen.state, seen.priority, seen.group_id) == (S.DELAYED, 7, "tenant-7")
        assert seen.created_at == clock.now()
        assert seen.delay_until == clock.now() + timedelta(minutes=5)
        assert (seen.parent_id, seen.parent_queue_name) == (None, None)
        assert (seen.progress, seen.return_value, seen.failed_reason) == (0, None, None)
        assert (seen.attempts_made, seen.stalled_count) == (0, 0)
        assert (seen.logs, seen.stacktrace, seen.attempt_history) == ([], [], [])
        assert (seen.processed_at, seen.completed_at, seen.failed_at, seen.cancelled_at) == (None,) * 4
        assert (seen.discarded, seen.deduplicated, seen.cancelled) == (False, False, False)


async def test_a_child_knows_its_parent(queue: Queue[Any], store: FaultyStore) -> None:
    parent = await make_job(store, JobState.WAITING_CHILDREN)
    [child] = [job for job in await queue.get_jobs() if job.id != parent.id]

    assert (child.parent_id, child.parent_queue_name) == (parent.id, "q")


async def test_what_a_job_shows_is_a_copy(queue: Queue[Any]) -> None:
    job = await queue.add("a")

    job.logs.append("mine")
    job.attempt_history.append(None)  # type: ignore[arg-type]
    job.stacktrace.append("mine")

    assert (job.logs, job.attempt_history, job.stacktrace) == ([], [], [])
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.options.attempts = 5  # type: ignore[misc]


async def test_each_end_has_its_instant(queue: Queue[Any], store: FaultyStore, clock: ManualClock) -> None:
    for state, field in (
        (S.COMPLETED, "completed_at"),
        (S.FAILED, "failed_at"),
        (S.CANCELLED, "cancelled_at"),
    ):
        job = await in_state(queue, store, state)
        set_fields = [f for f in ("completed_at", "failed_at", "cancelled_at") if getattr(job, f)]
        assert set_fields == [field]
        assert getattr(job, field) == clock.now()
        assert job.processed_at == clock.now()


async def test_a_job_never_shows_its_data_in_its_repr(queue: Queue[Any]) -> None:
    job = await queue.add("welcome", {"password": "hunter2"})

    assert repr(job) == f"<Job 'welcome' {job.id} waiting in 'q'>"
    assert repr(queue) == "<Queue 'q'>"


async def test_a_job_is_a_snapshot_until_it_is_refreshed(queue: Queue[Any], worker: MakeWorker) -> None:
    job = await queue.add("a")
    await worker(lambda _: 5).run_until_idle()

    assert (job.state, job.return_value) == (S.WAITING, None)
    assert await job.refresh() is job
    assert (job.state, job.return_value) == (S.COMPLETED, 5)


async def test_to_dict_has_everything(queue: Queue[Any], worker: MakeWorker) -> None:
    job = await queue.add("a", {"n": 1}, priority=3)
    await worker(lambda _: 5).run_until_idle()

    found = (await job.refresh()).to_dict()

    assert found["data"] == {"n": 1}
    assert found["state"] is S.COMPLETED
    assert (found["return_value"], found["priority"]) == (5, 3)
    assert isinstance(found["attempt_history"][0], Attempt)
    properties = {name for name, value in vars(Job).items() if isinstance(value, property) and name[0] != "_"}
    assert properties - found.keys() <= {"cancelled", "run_context", "record"}


async def test_a_report_that_cannot_be_read_shows_nothing_and_stops_nobody(
    queue: Queue[Any], store: FaultyStore
) -> None:
    record = await make_job(store, report="[not json", queue="q")
    job = await queue.get_job(record.id)

    assert job is not None
    assert (job.progress, job.logs, job.attempts_made) == (0, [], 0)
    assert await job.cancel()
    assert (await job.refresh()).state is S.CANCELLED


# ------------------------------------------------------------------- guards

ASIDE = {S.WAITING, S.DELAYED, S.WAITING_CHILDREN}
LIVE = ASIDE | {S.ACTIVE}
OVER = {S.COMPLETED, S.FAILED, S.CANCELLED}
GUARDS: list[tuple[str, tuple[Any, ...], set[JobState]]] = [
    ("update_data", ({"n": 2},), LIVE),
    ("update_progress", (50,), ASIDE),
    ("log", ("line",), ASIDE),
    ("clear_logs", (), ASIDE | OVER),
    ("discard", (), ASIDE),
    ("change_delay", (60,), {S.DELAYED}),
    ("change_priority", (5,), {S.WAITING, S.DELAYED}),
    ("promote", (), {S.DELAYED}),
    ("retry", (), OVER),
    ("remove", (), set(EVERY) - {S.ACTIVE}),
    ("move_to_delayed", (5,), set()),
    ("move_to_failed", ("reason",), set()),
]


@pytest.mark.parametrize("state", EVERY)
@pytest.mark.parametrize(("method", "args", "allowed"), GUARDS, ids=[guard[0] for guard in GUARDS])
async def test_each_method_is_for_certain_states_and_changes_nothing_in_others(
    *,
    queue: Queue[Any],
    store: FaultyStore,
    method: str,
    args: tuple[Any, ...],
    allowed: set[JobState],
    state: JobState,
) -> None:
    job = await in_state(queue, store, state)
    before = await queue.get_jobs()

    if state in allowed:
        await getattr(job, method)(*args)
        return
    with pytest.raises(InvalidJobStateError) as caught:
        await getattr(job, method)(*args)

    assert caught.value.job_id == job.id
    assert caught.value.state == state
    assert state in str(caught.value)
    assert set(caught.value.expected) <= allowed
    assert "and must be" not in str(caught.value) or caught.value.expected
    assert [found._record for found in await queue.get_jobs()] == [found._record for found in before]


@pytest.mark.parametrize(
    ("method", "args"),
    [
        *[
            (method, args)
            for method, args, _ in GUARDS
            if method not in {"remove", "move_to_delayed", "move_to_failed"}
        ],
        ("refresh", ()),
        ("is_completed", ()),
        ("is_failed", ()),
        ("is_active", ()),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_job_that_was_removed_is_not_found(
    queue: Queue[Any], method: str, args: tuple[Any, ...]
) -> None:
    job = await queue.add("a")
    await queue.remove(job.id)

    with pytest.raises(JobNotFoundError, match=job.id) as caught:
        await getattr(job, method)(*args)

    assert (caught.value.queue_name, caught.value.job_id) == ("q", job.id)
    assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("update_progress", -1),
        ("update_progress", 100.1),
        ("update_progress", float("nan")),
        ("update_progress", "50"),
        ("update_progress", True),
        ("change_delay", 0),
        ("change_delay", -5),
        ("change_priority", 1.5),
        ("change_priority", 2**31),
        ("change_priority", True),
    ],
)
async def test_a_value_that_cannot_be_used_is_refused(queue: Queue[Any], method: str, value: Any) -> None:
    job = await queue.add("a", delay=5)

    with pytest.raises(InvalidOptionError) as caught:
        await getattr(job, method)(value)

    assert caught.value.value is value
    assert await queue.get_jobs() != []


async def test_data_that_is_not_json_is_refused_and_the_old_data_stays(queue: Queue[Any]) -> None:
    job = await queue.add("a", 1)

    with pytest.raises(PayloadError):
        await job.update_data(object())

    assert (job.data, (await job.refresh()).data) == (1, 1)


# ------------------------------------------------------------------ effects


@pytest.mark.parametrize("state", sorted(ASIDE))
async def test_progress_logs_and_discards_from_outside_leave_the_job_where_it_was(
    queue: Queue[Any], store: FaultyStore, state: JobState
) -> None:
    job = await in_state(queue, store, state)
    until, record = job.delay_until, job._record

    await job.update_progress(12.5)
    await job.log("first")
    await job.log("second")
    await job.discard()

    again = await queue.get_job(job.id)
    assert again is not None
    for seen in (job, again):
        assert (seen.state, seen.delay_until) == (state, until)
        assert (seen.progress, seen.logs, seen.discarded) == (12.5, ["first", "second"], True)
        assert (seen._record.attempt, seen._record.stalled) == (record.attempt, record.stalled)
    await job.clear_logs()
    assert (await again.refresh()).logs == []
    assert again.progress == 12.5


async def test_new_data_is_what_the_handler_gets(queue: Queue[Any], worker: MakeWorker) -> None:
    job = await queue.add("a", {"n": 1})
    await job.update_data({"n": 2})
    assert job.data == {"n": 2}

    await worker(lambda job: job.data).run_until_idle()

    assert (await job.refresh()).return_value == {"n": 2}


async def test_a_handlers_new_data_is_there_for_its_next_run(queue: Queue[Any], worker: MakeWorker) -> None:
    job = await queue.add("a", {"step": 1}, attempts=2)
    seen: list[Any] = []

    async def handler(job: Job[Any]) -> None:
        seen.append(job.data)
        if job.data["step"] == 1:
            await job.update_data({"step": 2})
            assert job.data == {"step": 2}
            raise RuntimeError

    await worker(handler).run_until_idle()

    assert seen == [{"step": 1}, {"step": 2}]
    assert (await job.refresh()).state is S.COMPLETED


async def test_change_delay_counts_from_now(queue: Queue[Any], clock: ManualClock) -> None:
    job = await queue.add("a", delay="1h")
    await clock.advance("30 minutes")

    await job.change_delay("10 minutes")

    assert job.delay_until == clock.now() + timedelta(minutes=10)


async def test_a_promoted_job_keeps_its_original_place(queue: Queue[Any], worker: MakeWorker) -> None:
    runs: list[Any] = []
    first = await queue.add("a", 1, delay="1h")
    await queue.add("a", 2)

    await first.promote()
    assert (first.state, first.delay_until) == (S.WAITING, None)
    await worker(lambda job: runs.append(job.data)).run_until_idle()

    assert runs == [1, 2]


async def test_a_changed_priority_is_heeded_at_once(queue: Queue[Any], worker: MakeWorker) -> None:
    runs: list[Any] = []
    await queue.add("a", 1)
    second = await queue.add("a", 2)

    await second.change_priority(-5)
    await worker(lambda job: runs.append(job.data)).run_until_idle()

    assert (second.priority, runs) == (-5, [2, 1])


async def test_a_retried_job_starts_afresh_and_keeps_its_logs_and_history(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    job = await queue.add("a", attempts=2)
    broken = True

    async def handler(job: Job[Any]) -> str:
        assert (job.attempts_made, job.progress) == (
            (0, 0) if not broken else (job.attempts_made, job.progress)
        )
        await job.update_progress(80)
        await job.log("ran")
        if broken:
            raise RuntimeError("broken")
        return "mended"

    await worker(handler).run_until_idle()
    await job.refresh()
    assert (job.state, job.attempts_made, job.progress) == (S.FAILED, 2, 80)
    broken = False

    await job.retry()
    assert job.state is S.WAITING
    assert (job.attempts_made, job.progress, job.failed_reason, job.failed_at) == (0, 0, None, None)
    assert (job.discarded, job.processed_at, job.stalled_count) == (False, None, 0)
    assert job.logs == ["ran", "ran"]
    assert len(job.attempt_history) == 2
    await worker(handler).run_until_idle()

    await job.refresh()
    assert (job.state, job.return_value, job.attempts_made) == (S.COMPLETED, "mended", 0)
    assert [a.outcome for a in job.attempt_history] == ["failed", "failed", "completed"]


async def test_a_retried_job_has_all_its_attempts_again(queue: Queue[Any], worker: MakeWorker) -> None:
    job = await queue.add("a", attempts=3)

    def handler(_: Job[Any]) -> None:
        raise RuntimeError

    await worker(handler).run_until_idle()
    await job.retry()
    await worker(handler).run_until_idle()

    await job.refresh()
    assert (job.state, job.attempts_made, len(job.attempt_history)) == (S.FAILED, 3, 6)


async def test_a_retry_whose_key_another_job_holds_is_refused_and_names_it(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    first = await queue.add("a", deduplication=Deduplication("key"))
    await worker(lambda _: None).run_until_idle()
    second = await queue.add("a", deduplication=Deduplication("key"))

    with pytest.raises(InvalidJobStateError, match=second.id):
        await first.retry()

    assert (await first.refresh()).state is S.COMPLETED


async def test_is_completed_and_its_like_read_the_store(queue: Queue[Any], store: FaultyStore) -> None:
    for state in EVERY:
        job = await in_state(queue, store, state)
        assert await job.is_completed() is (state is S.COMPLETED)
        assert await job.is_failed() is (state is S.FAILED)
        assert await job.is_active() is (state is S.ACTIVE)


async def test_removing_twice_is_fine(queue: Queue[Any]) -> None:
    job = await queue.add("a")

    await job.remove()
    await job.remove()

    assert await queue.get_job(job.id) is None
    assert not await queue.remove(job.id)


# -------------------------------------------------------------------- cancel


@pytest.mark.parametrize("state", sorted(ASIDE))
async def test_a_job_that_does_not_run_is_cancelled_at_once(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, state: JobState, clock: ManualClock
) -> None:
    job = await in_state(queue, store, state, name="mine")
    runs: list[str] = []

    assert await job.cancel()

    await job.refresh()
    assert (job.state, job.cancelled) == (S.CANCELLED, True)
    await clock.advance("2h")
    await worker(lambda job: runs.append(job.name)).run_until_idle()
    assert "mine" not in runs


async def test_a_paused_queue_does_not_keep_a_job_from_being_cancelled(queue: Queue[Any]) -> None:
    job = await queue.add("a")
    await queue.pause()

    assert await queue.cancel(job.id)

    assert (await job.refresh()).state is S.CANCELLED


async def test_a_running_handler_is_cancelled_without_delay(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a", attempts=5)
    seen: list[bool] = []

    async def handler(job: Job[Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(job.cancelled)

    async with worker(handler) as runner:
        await clock.settle()
        assert await job.cancel()
        await clock.settle()

        assert seen == [True]
        await job.refresh()
        assert (job.state, job.attempts_made) == (S.CANCELLED, 0)
        assert [a.outcome for a in job.attempt_history] == ["cancelled"]
        assert runner.stats().free_slots == 1


async def test_a_cancellation_whose_event_was_lost_arrives_with_the_next_renewal(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    handler_ended = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            handler_ended.set()

    from conveyor.core.store import Change, Where  # noqa: PLC0415

    async with worker(handler, lock_duration=3):
        await clock.settle()
        await store.update(Where(queue="q", ids=frozenset({job.id})), Change(cancel=True))
        await clock.advance(0.9)
        assert not handler_ended.is_set()
        await clock.advance(0.2)

        assert handler_ended.is_set()
        assert (await job.refresh()).state is S.CANCELLED


@pytest.mark.parametrize("ending", ["returns", "raises"])
async def test_a_handler_that_swallows_its_cancellation_ends_cancelled_all_the_same(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, ending: str
) -> None:
    job = await queue.add("a", attempts=3)

    async def handler(_: Job[Any]) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if ending == "raises":
                raise RuntimeError from None
        return "finished anyway"

    async with worker(handler):
        await clock.settle()
        await job.cancel()
        await clock.settle()

        await job.refresh()
        assert (job.state, job.return_value) == (S.CANCELLED, None)


async def test_a_handler_can_cancel_its_own_job(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    async def handler(job: Job[Any]) -> None:
        await job.cancel()
        await asyncio.Event().wait()

    job = await queue.add("a")
    async with worker(handler):
        await clock.settle()

    assert (await job.refresh()).state is S.CANCELLED


async def test_unknown_and_finished_jobs_cannot_be_cancelled(queue: Queue[Any], store: FaultyStore) -> None:
    assert not await queue.cancel("no-such-job")
    for state in sorted(OVER):
        job = await in_state(queue, store, state)

        assert not await job.cancel()

        assert (await job.refresh()).state is state


async def test_a_job_that_was_asked_to_stop_and_failed_does_not_run_again(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    record = await make_job(store, S.ACTIVE, queue="q")
    job = await queue.get_job(record.id)
    assert job is not None
    assert await job.cancel()
    await clock.advance(31)
    runs: list[str] = []

    await worker(lambda job: runs.append(job.id)).run_until_idle()

    assert runs == []
    assert (await job.refresh()).state is S.CANCELLED


async def test_a_prefetched_job_that_is_cancelled_is_not_run(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    gate = asyncio.Event()
    runs: list[int] = []

    async def handler(job: Job[Any]) -> None:
        runs.append(job.data)
        await gate.wait()

    await queue.add("a", 1)
    ready = await queue.add("a", 2)
    async with worker(handler, prefetch=1):
        await clock.settle()
        assert await ready.cancel()
        gate.set()
        await clock.settle()

        assert runs == [1]
        assert (await ready.refresh()).state is S.CANCELLED


async def test_what_is_for_a_jobs_handler_is_refused_elsewhere(queue: Queue[Any]) -> None:
    job = await queue.add("a")

    with pytest.raises(InvalidJobStateError, match="own handler"):
        await job.move_to_failed("from outside")
    with pytest.raises(InvalidJobStateError, match="own handler"):
        await job.move_to_delayed("1h")
    with pytest.raises(InvalidJobStateError, match="own handler"):
        await job.add_children([])
    assert (await job.refresh()).state is S.WAITING


async def test_a_parent_finds_its_children_and_a_child_its_parent(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    other: Queue[Any] = Queue("other", store, clock=clock)
    parent = make_record("other", "parent")
    await store.insert(
        [
            make_record("q", "good", 1, parent=parent.key),
            make_record("q", "bad", 2, parent=parent.key),
            make_record("q", "removed", 3, parent=parent.key),
            parent,
        ]
    )

    async def handler(job: Job[Any]) -> Any:
        if job.name == "bad":
            raise RuntimeError
        return {"n": job.data}

    await worker(handler).run_until_idle()
    [removed] = [job for job in await queue.get_jobs() if job.name == "removed"]
    await removed.remove()

    job = await other.get_job(parent.id)
    assert job is not None
    children = {child.name: child for child in await job.get_dependencies()}
    assert set(children) == {"good", "bad"}
    assert await job.get_children_values() == {children["good"].id: {"n": 1}}
    found = await children["good"].get_parent()
    assert found is not None
    assert (found.id, found.queue_name, found.state) == (parent.id, "other", S.WAITING)
    assert await job.get_parent() is None
    await other.remove(parent.id)
    assert await children["good"].get_parent() is None


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(hours=-1)])
async def test_a_handler_can_move_its_job_to_an_instant(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, ahead: timedelta
) -> None:
    job = await queue.add("a")
    at = clock.now() + ahead
    runs = 0

    async def handler(job: Job[Any]) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            await job.move_to_delayed(at)

    await worker(handler).run_until_idle()

    await job.refresh()
    if ahead > timedelta(0):
        assert (job.state, job.delay_until) == (S.DELAYED, at)
    else:
        assert (job.state, runs) == (S.COMPLETED, 2)


async def test_a_jobs_methods_work_from_another_event_loop_of_its_handler(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    job = await queue.add("a")

    def handler(job: Job[Any]) -> None:
        async def inner() -> None:
            await job.update_progress(42)
            await job.log("from another loop")

        asyncio.run(inner())

    await worker(handler).run_until_idle()

    await job.refresh()
    assert (job.state, job.progress, job.logs) == (S.COMPLETED, 42, ["from another loop"])


def test_a_method_called_when_the_workers_loop_is_closed_raises_and_leaves_nothing_behind() -> None:
    kept: list[Job[Any]] = []

    async def main() -> None:
        async with MemoryStore() as store:
            await Queue[Any]("q", store).add("a")
            await Worker[Any]("q", lambda job: kept.append(job), store).run_until_idle()  # noqa: PLW0108

    asyncio.run(main())

    with pytest.raises(StoreClosedError, match="closed; open a store"):
        _ = kept[0].refresh()
