"""The queue: adding jobs, and looking after them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from conveyor.core import (
    Deduplication,
    Group,
    GroupFullError,
    InvalidJobStateError,
    Job,
    JobState,
    Keep,
    NewJob,
    Order,
    Pause,
    PayloadError,
    Queue,
    StoreUnavailableError,
    Worker,
)
from conveyor.core.store import Claim
from conveyor.core.testing import FaultyStore, ManualClock, make_job, run_maintenance

MakeWorker = Callable[..., Worker[Any]]
S = JobState


async def states(*jobs: Job[Any]) -> list[JobState]:
    return [(await job.refresh()).state for job in jobs]


# -------------------------------------------------------------------- adding


async def test_an_add_is_one_call_of_the_store(queue: Queue[Any], store: FaultyStore) -> None:
    store.calls.clear()

    await queue.add("a", {"n": 1}, delay=5, deduplication=Deduplication("k"), group="g")

    assert store.calls == ["insert"]


async def test_a_bulk_is_one_call_and_comes_back_in_order(queue: Queue[Any], store: FaultyStore) -> None:
    store.calls.clear()

    jobs = await queue.add_bulk(NewJob("a", n, priority=n % 3) for n in range(100))

    assert store.calls == ["insert"]
    assert [job.data for job in jobs] == list(range(100))
    assert len({job.id for job in jobs}) == 100
    assert [job.priority for job in jobs] == [n % 3 for n in range(100)]


async def test_duplicates_in_a_bulk_are_read_in_one_call(queue: Queue[Any], store: FaultyStore) -> None:
    await queue.add_bulk([NewJob("a", job_id=f"id-{n}") for n in range(100)])
    store.calls.clear()

    jobs = await queue.add_bulk([NewJob("b", job_id=f"id-{n}") for n in range(100)])

    assert store.calls == ["insert", "find"]
    assert all(job.deduplicated and job.name == "a" for job in jobs)


async def test_an_empty_bulk_is_no_call(queue: Queue[Any], store: FaultyStore) -> None:
    store.calls.clear()

    assert await queue.add_bulk([]) == []
    assert store.calls == []


async def test_a_bulk_with_one_bad_job_adds_none(queue: Queue[Any]) -> None:
    with pytest.raises(PayloadError):
        await queue.add_bulk([NewJob("a", 1), NewJob("b", object())])

    assert await queue.count() == 0


async def test_an_id_that_exists_returns_the_existing_job_and_changes_nothing(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    first = await queue.add("a", {"n": 1}, job_id="order-42", priority=3)

    second = await queue.add("b", {"n": 2}, job_id="order-42", delay="1h", attempts=9)

    assert (first.deduplicated, second.deduplicated) == (False, True)
    assert (second.id, second.name, second.data, second.priority) == ("order-42", "a", {"n": 1}, 3)
    assert await queue.count() == 1
    await worker(lambda _: "done").run_until_idle()
    third = await queue.add("a", job_id="order-42")
    assert (third.deduplicated, third.state, third.return_value) == (True, S.COMPLETED, "done")


async def test_the_same_id_twice_in_one_bulk_gives_one_job_twice(queue: Queue[Any]) -> None:
    first, second = await queue.add_bulk([NewJob("a", 1, job_id="x"), NewJob("a", 2, job_id="x")])

    assert (first.id, second.id) == ("x", "x")
    assert (first.deduplicated, second.deduplicated) == (False, True)
    assert (first.data, second.data) == (1, 1)


async def test_ids_are_unique_within_their_queue_only(
    queue: Queue[Any], store: FaultyStore, clock: ManualClock
) -> None:
    await queue.add("a", job_id="x")
    other: Queue[Any] = Queue("other", store, clock=clock)

    job = await other.add("a", job_id="x")

    assert (job.deduplicated, job.queue_name) == (False, "other")


@pytest.mark.parametrize("when", ["in 10 minutes", "10 minutes", 600, timedelta(minutes=10), "  in 600s "])
async def test_schedule_takes_a_while_in_any_form(queue: Queue[Any], clock: ManualClock, when: Any) -> None:
    job = await queue.schedule(when, "reminder", {"n": 1})

    assert job.state is S.DELAYED
    assert job.delay_until == clock.now() + timedelta(minutes=10)


async def test_schedule_takes_an_instant(queue: Queue[Any], worker: MakeWorker, clock: ManualClock) -> None:
    at = clock.now() + timedelta(hours=1)
    job = await queue.schedule(at, "reminder")
    assert (job.state, job.delay_until) == (S.DELAYED, at)

    await clock.advance("59m")
    await worker(lambda _: None).run_until_idle()
    assert await states(job) == [S.DELAYED]
    await clock.advance("1m")
    await worker(lambda _: None).run_until_idle()

    assert await states(job) == [S.COMPLETED]


async def test_an_instant_that_has_passed_is_now(queue: Queue[Any]) -> None:
    job = await queue.add("a", run_at=datetime(2001, 1, 1, tzinfo=UTC))

    assert (job.state, job.delay_until) == (S.WAITING, None)


async def test_defaults_hold_for_every_add_and_are_overridden_key_by_key(
    store: FaultyStore, clock: ManualClock
) -> None:
    queue: Queue[Any] = Queue(
        "q", store, default_job_options={"attempts": 3, "priority": 5, "delay": "1h"}, clock=clock
    )

    plain = await queue.add("a")
    urgent = await queue.add("a", priority=1)
    now = await queue.now("a")
    no_delay = await queue.add("a", delay=None)
    later = await queue.add("a", run_at=clock.now() + timedelta(hours=2))
    [bulk] = await queue.add_bulk([NewJob("a", attempts=1)])

    assert (plain.options.attempts, plain.priority, plain.state) == (3, 5, S.DELAYED)
    assert (urgent.options.attempts, urgent.priority) == (3, 1)
    assert (now.state, now.options.attempts) == (S.WAITING, 3)
    assert no_delay.state is S.WAITING
    assert later.delay_until == clock.now() + timedelta(hours=2)
    assert (bulk.options.attempts, bulk.priority) == (1, 5)


# ------------------------------------------------------------ typed payloads


class Money(BaseModel):
    cents: int = Field(alias="amount")


class Row(TypedDict):
    n: int


async def test_typed_data_is_checked_before_it_is_stored_and_comes_back_typed(
    store: FaultyStore, clock: ManualClock
) -> None:
    queue = Queue("q", store, payload=Money, clock=clock)

    job = await queue.add("a", Money(amount=5))
    again = await queue.get_job(job.id)
    with pytest.raises(PayloadError, match=r"\$\.amount"):
        await queue.add("a", {"amount": "much"})  # type: ignore[arg-type]

    assert again is not None
    assert (job.data, again.data) == (Money(amount=5), Money(amount=5))
    assert await queue.count() == 1


async def test_plain_data_is_validated_into_the_type(store: FaultyStore, clock: ManualClock) -> None:
    rows = Queue("q", store, payload=Row, clock=clock)

    assert (await rows.add("a", {"n": 1})).data == {"n": 1}
    with pytest.raises(PayloadError, match="n"):
        await rows.add("a", {})  # type: ignore[arg-type]


async def test_a_wrong_value_is_not_shown_in_the_error(store: FaultyStore) -> None:
    queue = Queue("q", store, payload=Money)

    with pytest.raises(PayloadError) as caught:
        await queue.add("a", {"amount": "hunter2"})  # type: ignore[arg-type]

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


# -------------------------------------------------------------- deduplication


async def test_a_key_is_held_until_its_job_has_finished(queue: Queue[Any], worker: MakeWorker) -> None:
    first = await queue.add("a", 1, deduplication=Deduplication("k"))

    again = await queue.add("b", 2, deduplication=Deduplication("k"))
    assert (again.id, again.data, again.deduplicated) == (first.id, 1, True)
    await worker(lambda _: None).run_until_idle()
    after = await queue.add("a", 3, deduplication=Deduplication("k"))

    assert (after.id != first.id, after.deduplicated) == (True, False)


async def test_a_ttl_holds_the_key_exactly_that_long_finished_or_not(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    first = await queue.add("a", 1, deduplication=Deduplication("k", ttl="1h"), remove_on_complete=True)
    await worker(lambda _: None).run_until_idle()
    assert await states(first) == [S.COMPLETED]

    await clock.advance(timedelta(hours=1) - timedelta(microseconds=1))
    before = await queue.add("a", 2, deduplication=Deduplication("k", ttl="1h"))
    await clock.advance(timedelta(microseconds=1))
    after = await queue.add("a", 3, deduplication=Deduplication("k", ttl="1h"))

    assert (before.id, before.deduplicated) == (first.id, True)
    assert (after.data, after.deduplicated) == (3, False)


async def test_a_ttl_lapses_although_its_job_is_not_finished(queue: Queue[Any], clock: ManualClock) -> None:
    first = await queue.add("a", deduplication=Deduplication("k", ttl=60))
    await clock.advance(60)

    second = await queue.add("a", deduplication=Deduplication("k", ttl=60))

    assert second.id != first.id
    assert await states(first, second) == [S.WAITING, S.WAITING]


async def test_by_payload_looks_at_name_and_data_whatever_the_order_of_keys(queue: Queue[Any]) -> None:
    same = Deduplication.by_payload()
    first = await queue.add("a", {"x": 1, "y": [1, {"p": 1, "q": 2}]}, deduplication=same)

    assert (await queue.add("a", {"y": [1, {"q": 2, "p": 1}], "x": 1}, deduplication=same)).deduplicated
    assert not (await queue.add("b", {"x": 1, "y": [1, {"p": 1, "q": 2}]}, deduplication=same)).deduplicated
    assert not (await queue.add("a", {"x": 1, "y": [{"p": 1, "q": 2}, 1]}, deduplication=same)).deduplicated
    assert not first.deduplicated


@pytest.mark.parametrize("key", ["k", "k" * 255, "k" * 300, "ключ" * 200, "🔑" * 16_000])
async def test_a_key_may_be_of_any_length(queue: Queue[Any], key: str) -> None:
    first = await queue.add("a", deduplication=Deduplication(key))

    assert (await queue.add("a", deduplication=Deduplication(key))).id == first.id
    assert (await queue.add("a", deduplication=Deduplication(key + "2"))).id != first.id
    assert await queue.remove_deduplication_key(key)
    assert not await queue.remove_deduplication_key(key)
    assert (await queue.add("a", deduplication=Deduplication(key))).id != first.id


@pytest.mark.parametrize("delay", [None, "10 minutes"])
async def test_replace_gives_the_waiting_holder_the_new_data_and_delay(
    queue: Queue[Any], clock: ManualClock, delay: Any
) -> None:
    replace = Deduplication("k", mode="replace")
    first = await queue.add("a", 1, delay=delay, deduplication=replace)
    await clock.advance(60)

    second = await queue.add("a", 2, delay=delay, deduplication=replace)

    assert (second.id, second.data, second.deduplicated) == (first.id, 2, True)
    assert await queue.count() == 1
    if delay is not None:
        assert second.delay_until == clock.now() + timedelta(minutes=10)


async def test_replace_without_a_delay_leaves_that_of_the_holder(queue: Queue[Any]) -> None:
    first = await queue.add("a", 1, delay="1h", deduplication=Deduplication("k"))

    second = await queue.add("a", 2, deduplication=Deduplication("k", mode="replace"))

    assert (second.data, second.delay_until) == (2, first.delay_until)


async def test_replace_on_a_holder_that_runs_is_a_plain_duplicate(
    queue: Queue[Any], store: FaultyStore
) -> None:
    replace = Deduplication("k", ttl="1h", mode="replace")
    first = await queue.add("a", 1, deduplication=replace)
    await store.claim(Claim(queue="q", count=1, token="t", lease=timedelta(minutes=1), worker="w"))

    second = await queue.add("a", 2, deduplication=replace)

    assert (second.id, second.data, second.deduplicated, second.state) == (first.id, 1, True, S.ACTIVE)


async def test_in_a_bulk_the_last_replacement_wins(queue: Queue[Any]) -> None:
    replace = Deduplication("k", mode="replace")

    jobs = await queue.add_bulk([NewJob("a", n, deduplication=replace) for n in range(3)])

    assert [job.deduplicated for job in jobs] == [False, True, True]
    assert len({job.id for job in jobs}) == 1
    assert (await jobs[0].refresh()).data == 2


async def test_a_duplicate_whose_holder_vanished_meanwhile_is_still_a_job(
    queue: Queue[Any], store: FaultyStore
) -> None:
    first = await queue.add("a", 1, deduplication=Deduplication("k"))

    class Vanishing(FaultyStore):
        async def find(self, *_: Any, **__: Any) -> Any:
            return []

    second = await Queue[Any]("q", Vanishing(store)).add("a", 2, deduplication=Deduplication("k"))

    assert (second.id, second.deduplicated) == (first.id, True)


async def test_a_full_group_takes_no_more(queue: Queue[Any]) -> None:
    await queue.add("a", group=Group("g", max_size=2))
    await queue.add("a", group=Group("g", max_size=2), delay=60)

    with pytest.raises(GroupFullError, match="max_size of 2") as caught:
        await queue.add("a", group=Group("g", max_size=2))

    assert (caught.value.group, caught.value.max_size) == ("g", 2)
    assert await queue.count() == 2
    with pytest.raises(GroupFullError):
        await queue.add_bulk([NewJob("a", group=Group("h", max_size=2)) for _ in range(3)])
    assert await queue.count() == 2


# ------------------------------------------------------------------- reading


async def test_counts_have_every_state_and_are_exact(queue: Queue[Any], store: FaultyStore) -> None:
    assert await queue.get_job_counts() == dict.fromkeys(JobState, 0)
    for number, state in enumerate(JobState):
        for _ in range(number + 1):
            await make_job(store, state, queue="q")

    counts = await queue.get_job_counts()

    children = counts[S.WAITING] - 1
    assert {state: n for state, n in counts.items() if state is not S.WAITING} == {
        state: number + 1 for number, state in enumerate(JobState) if state is not S.WAITING
    }
    assert await queue.count() == sum(counts.values())
    assert await queue.count("failed", S.COMPLETED) == counts[S.FAILED] + counts[S.COMPLETED]
    assert children == counts[S.WAITING_CHILDREN]


async def test_jobs_come_page_by_page_in_any_order(queue: Queue[Any], worker: MakeWorker) -> None:
    jobs = [await queue.add("a", n, priority=-n) for n in range(5)]

    first = await queue.get_jobs("waiting", limit=2)
    rest = await queue.get_jobs("waiting", after=first[-1])

    assert [job.data for job in (*first, *rest)] == [0, 1, 2, 3, 4]
    assert [job.data for job in await queue.get_jobs(order="newest")] == [4, 3, 2, 1, 0]
    assert [job.data for job in await queue.get_jobs(order=Order.CLAIM)] == [4, 3, 2, 1, 0]
    assert await queue.get_jobs(S.FAILED) == []
    await worker(lambda _: None).run_until_idle()
    assert {job.id for job in await queue.get_jobs("completed", "failed")} == {job.id for job in jobs}


async def test_an_unknown_job_is_none(queue: Queue[Any]) -> None:
    assert await queue.get_job("nowhere") is None


# ------------------------------------------------------------------- pausing


async def test_resuming_the_queue_leaves_the_names_that_were_paused_singly(queue: Queue[Any]) -> None:
    await queue.pause()
    await queue.pause("a")
    await queue.pause(group="g")
    assert set(await queue.get_paused()) == {Pause(), Pause(name="a"), Pause(group="g")}

    await queue.resume()

    assert set(await queue.get_paused()) == {Pause(name="a"), Pause(group="g")}
    await queue.resume("a")
    await queue.resume(group="g")
    assert not await queue.get_paused()


@pytest.mark.parametrize("name", ["__all__", "__ungrouped__", "*", "%", "'; drop table jobs; --", "é" * 255])
async def test_no_name_is_magic(queue: Queue[Any], worker: MakeWorker, name: str) -> None:
    named = await queue.add(name, group=name)
    other = await queue.add("other")
    await queue.pause(name)

    await worker(lambda _: None).run_until_idle()

    assert await states(named, other) == [S.WAITING, S.COMPLETED]


# ---------------------------------------------------------------- sweeping


async def fill(queue: Queue[Any], store: FaultyStore) -> dict[JobState, int]:
    for state in JobState:
        await make_job(store, state, queue="q")
    return await queue.get_job_counts()


async def test_drain_removes_what_waits_and_nothing_else(queue: Queue[Any], store: FaultyStore) -> None:
    before = await fill(queue, store)

    assert await queue.drain(delayed=False) == before[S.WAITING] + before[S.WAITING_CHILDREN]
    assert await queue.count(S.DELAYED) == 1
    assert await queue.drain() == 1

    counts = await queue.get_job_counts()
    assert {state for state, number in counts.items() if number} == {
        S.ACTIVE,
        S.COMPLETED,
        S.FAILED,
        S.CANCELLED,
    }


async def test_drain_goes_on_until_nothing_waits(queue: Queue[Any], store: FaultyStore) -> None:
    await queue.add_bulk([NewJob("a") for _ in range(2_500)])
    store.calls.clear()

    assert await queue.drain() == 2_500

    assert await queue.count() == 0
    assert store.calls.count("delete") > 1


async def test_clean_removes_the_oldest_of_one_state_by_age_and_number(
    queue: Queue[Any], store: FaultyStore, clock: ManualClock
) -> None:
    for _ in range(5):
        await make_job(store, S.FAILED, queue="q")
        await clock.advance(60)
    await make_job(store, S.COMPLETED, queue="q")

    assert await queue.clean("failed", grace="3 minutes", limit=2) == 2
    assert await queue.clean("failed", grace="3 minutes") == 1
    assert await queue.clean("failed", grace="3 minutes") == 0
    assert await queue.clean(S.FAILED) == 2
    assert await queue.count() == 1


async def test_obliterate_leaves_no_trace(queue: Queue[Any], store: FaultyStore) -> None:
    await fill(queue, store)
    await queue.pause("a")

    with pytest.raises(InvalidJobStateError, match="force=True"):
        await queue.obliterate()
    assert await queue.count(S.ACTIVE) == 1
    assert set(await queue.get_paused()) == {Pause(name="a")}
    await queue.obliterate(force=True)

    assert await queue.count() == 0
    assert not await queue.get_paused()


@pytest.mark.parametrize("was_paused", [True, False])
async def test_an_obliterate_that_fails_leaves_the_queue_as_it_was(
    queue: Queue[Any], store: FaultyStore, *, was_paused: bool
) -> None:
    await queue.add("a")
    if was_paused:
        await queue.pause()
    store.fail("find", StoreUnavailableError("gone"))

    with pytest.raises(StoreUnavailableError):
        await queue.obliterate()

    assert (Pause() in await queue.get_paused()) is was_paused
    assert await queue.count() == 1


async def test_retry_jobs_wakes_all_of_one_state(queue: Queue[Any], store: FaultyStore) -> None:
    await fill(queue, store)
    before = await queue.get_job_counts()

    assert await queue.retry_jobs() == 1
    assert await queue.retry_jobs("completed") == 1
    assert await queue.retry_jobs(S.CANCELLED) == 1

    counts = await queue.get_job_counts()
    assert counts[S.WAITING] == before[S.WAITING] + 3
    assert counts[S.FAILED] == counts[S.COMPLETED] == counts[S.CANCELLED] == 0


async def test_promote_jobs_lets_all_delayed_jobs_run_now(queue: Queue[Any], worker: MakeWorker) -> None:
    jobs = await queue.add_bulk([NewJob("a", delay="1h"), NewJob("a", delay="2h")])

    assert await queue.promote_jobs() == 2

    await worker(lambda _: None).run_until_idle()
    assert await states(*jobs) == [S.COMPLETED, S.COMPLETED]


# ------------------------------------------------------------------ retention


async def test_a_job_can_be_removed_as_soon_as_it_completes_or_fails(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    def handler(job: Job[Any]) -> None:
        if job.data:
            raise RuntimeError

    for fails in (True, False):
        await queue.add("a", fails, remove_on_complete=True)
        await queue.add("a", fails, remove_on_fail=True)
    await worker(handler).run_until_idle()

    assert {(job.data, job.state) for job in await queue.get_jobs()} == {
        (True, S.FAILED),
        (False, S.COMPLETED),
    }
    assert await queue.count() == 2


async def test_a_job_with_an_age_is_removed_when_it_is_over(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    for age in ("1h", 3600, timedelta(hours=1), Keep(age="1h")):
        await queue.add("a", remove_on_complete=age)

    async def handler(_: Job[Any]) -> None:
        pass

    async with worker(handler, maintenance_interval="1 minute", poll_interval="1 minute"):
        await clock.advance("59m")
        assert await queue.count(S.COMPLETED) == 4
        await clock.advance("2m")

        assert await queue.count() == 0


async def test_of_the_jobs_with_a_count_the_latest_are_kept(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    async def handler(job: Job[Any]) -> None:
        if job.name == "bad":
            raise RuntimeError

    keep = Keep(count=2)
    async with worker(handler, maintenance_interval=1):
        for n in range(5):
            await queue.add("good", n, remove_on_complete=keep)
            await queue.add("bad", n, remove_on_fail=keep)
            await queue.add("kept", n)
            await clock.advance(1)
        await clock.advance(2)

    found = await queue.get_jobs(order="added")
    assert [job.data for job in found if job.name == "good"] == [3, 4]
    assert [job.data for job in found if job.name == "bad"] == [3, 4]
    assert [job.data for job in found if job.name == "kept"] == [0, 1, 2, 3, 4]


async def test_retention_is_applied_in_bounded_steps(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    await queue.add_bulk([NewJob("a", remove_on_complete=1) for _ in range(1_200)])

    async def handler(_: Job[Any]) -> None:
        pass

    runner = worker(handler, concurrency=200)
    await runner.run_until_idle()
    await clock.advance(1)
    store.calls.clear()
    await run_maintenance(runner)

    # The last one is for workers that died.
    assert store.calls.count("delete") == 13
    assert await queue.count() == 0


async def test_a_closed_queue_is_closed_for_observers_only(queue: Queue[Any]) -> None:
    async with queue:
        pass

    job = await queue.add("a")

    assert await states(job) == [S.WAITING]
    assert [event async for event in queue.events()] == []
