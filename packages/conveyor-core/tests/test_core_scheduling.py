"""Schedules in core: what is refused, what a worker without schedules pays, what is decided."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor.core import (
    Feature,
    InvalidOptionError,
    PayloadError,
    Queue,
    RunAll,
    StoreUnavailableError,
    UnsupportedFeatureError,
    Worker,
)
from conveyor.core._schedules import definition, due_runs
from conveyor.core._schedules.cron import Cron
from conveyor.core._schedules.timing import Every
from conveyor.core.durations import duration
from conveyor.core.job_options import Deduplication
from conveyor.core.store import JobRecord
from conveyor.core.testing import ClockedStore, FaultyStore, ManualClock, WrappedStore
from conveyor.store.memory import MemoryStore

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - that is what is refused
AWARE = datetime(2026, 1, 1, tzinfo=UTC)


async def nothing(_: Any) -> None: ...


async def test_a_schedule_that_cannot_be_computed_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> NoReturn:
        raise ArithmeticError("no time can be computed")

    async with FaultyStore(MemoryStore()) as store:
        queue: Queue[Any] = Queue("q", store)
        store.calls.clear()
        for kind in (Every, Cron):
            monkeypatch.setattr(kind, "next_after", broken)

        for made in (queue.every("1 hour", "a", key="k"), queue.cron("0 9 * * *", "a", key="k")):
            with pytest.raises(ArithmeticError):
                await made

        assert store.calls == []


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"interval": 0}, "interval"),
        ({"interval": "soon"}, "interval"),
        ({"interval": -1}, "interval"),
        ({"interval": None}, "interval"),
        ({"key": ""}, "key"),
        ({"key": 5}, "key"),
        ({"key": "x" * 256}, "key"),
        ({"name": ""}, "name"),
        ({"start": NAIVE}, "start"),
        ({"start": "tomorrow"}, "start"),
        ({"end": NAIVE}, "end"),
        ({"start": AWARE, "end": AWARE}, "end"),
        ({"limit": 0}, "limit"),
        ({"limit": 1.5}, "limit"),
        ({"jitter": -1}, "jitter"),
        ({"misfire": "never"}, "misfire"),
        ({"misfire": 5}, "misfire"),
        ({"overlap": "queue"}, "overlap"),
        ({"job_id": "mine"}, "job_id"),
        ({"run_at": AWARE}, "run_at"),
        ({"attempts": 0}, "attempts"),
        ({"tz": "Europe/Paris"}, "tz"),
    ],
)
async def test_a_bad_argument_is_refused_before_anything_is_stored(
    given: dict[str, Any], option: str
) -> None:
    store = FaultyStore(MemoryStore())
    queue = Queue[Any]("q", store)
    asked: dict[str, Any] = {"interval": "1 hour", "name": "x", "key": "k"} | given

    with pytest.raises(InvalidOptionError) as caught:
        await queue.every(asked.pop("interval"), asked.pop("name"), **asked)

    assert caught.value.option == option
    assert store.calls == []


async def test_bad_data_zones_dates_and_counts_are_refused_before_anything_is_stored() -> None:
    store = FaultyStore(MemoryStore())
    queue = Queue[Any]("q", store)

    with pytest.raises(PayloadError):
        await queue.every("1 hour", "x", object(), key="k")
    for expression, tz in (("0 0 30 2 *", "UTC"), ("@daily", "Mars/Olympus"), (None, "UTC")):
        with pytest.raises(InvalidOptionError):
            await queue.cron(expression, "x", key="k", tz=tz)  # type: ignore[arg-type]  # what is tested
    for most in (0, 1_001, True, 2.0):
        with pytest.raises(InvalidOptionError):
            RunAll(most)  # type: ignore[arg-type]  # what is tested
    assert store.calls == []


async def test_what_the_store_does_not_offer_is_refused_at_the_call() -> None:
    class Plain(WrappedStore):
        @property
        def features(self) -> frozenset[Feature]:
            return frozenset()

    queue = Queue[Any]("q", Plain(MemoryStore()))

    with pytest.raises(UnsupportedFeatureError):
        await queue.every("1 hour", "x", key="k", group="g")
    with pytest.raises(UnsupportedFeatureError):
        await queue.every("1 hour", "x", key="k", deduplication=Deduplication("d"))


async def test_a_queue_without_schedules_costs_a_worker_one_read_now_and_then() -> None:
    clock = ManualClock()
    async with MemoryStore() as memory:
        store = FaultyStore(ClockedStore(memory, clock))
        scheduler = Worker("q", nothing, store, clock=clock)._parts.scheduler

        assert await scheduler.tick() == 5.0
        assert store.calls == ["find"]


async def test_a_scheduler_sleeps_until_the_next_is_due() -> None:
    clock = ManualClock()
    async with MemoryStore() as memory:
        store = ClockedStore(memory, clock)
        queue = Queue[Any]("q", store, clock=clock)
        await queue.every("2.5 s", "a", key="a")
        await queue.every("4 s", "b", key="b")
        scheduler = Worker("q", nothing, store, clock=clock)._parts.scheduler

        assert await scheduler.tick() == 2.5
        await clock.advance(2.5)
        assert await scheduler.tick() == 1.5
        await clock.advance(1.5)
        assert await scheduler.tick() == 1.0
        await queue.remove_schedule("a")
        await queue.remove_schedule("b")
        assert await scheduler.tick() == 5.0


async def test_more_schedules_than_one_step_takes_are_all_fired() -> None:
    clock = ManualClock()
    async with MemoryStore() as memory:
        store = ClockedStore(memory, clock)
        queue = Queue[Any]("q", store, clock=clock)
        for n in range(250):
            await queue.every("1 hour", "x", key=str(n))
        scheduler = Worker("q", nothing, store, clock=clock)._parts.scheduler
        while not await scheduler.tick():
            pass
        await clock.advance("1 hour")

        assert [await scheduler.tick() for _ in range(3)] == [0.0, 0.0, 5.0]
        assert await queue.count() == 250


async def test_a_worker_fires_on_when_its_store_is_back() -> None:
    clock = ManualClock()
    async with MemoryStore() as memory:
        store = FaultyStore(ClockedStore(memory, clock))
        queue = Queue[Any]("q", ClockedStore(memory, clock), clock=clock)
        await queue.every("1 minute", "x", key="x")
        async with Worker("q", nothing, store, clock=clock):
            await clock.advance(30)
            for method in ("advance", "claim", "settle"):
                store.fail(method, StoreUnavailableError("gone"), times=5)
            await clock.advance(90)

            assert await queue.count() == 2


def a_spec(**given: Any) -> definition.ScheduleSpec:
    fields: dict[str, Any] = {
        "key": "k",
        "job": JobRecord(queue="q", id="", name="x"),
        "replaces": False,
        **dict.fromkeys(("start", "end", "limit", "jitter")),
        "misfire": "run_once",
        "overlap": "allow",
    }
    return definition.checked_spec(**fields | given)


@given(data=st.data())
def test_a_schedule_and_its_state_are_the_same_after_storage(data: st.DataObject) -> None:
    spans = st.timedeltas(timedelta(microseconds=1), timedelta(days=3_000))
    instants = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds it
    start = data.draw(st.none() | instants)
    made = a_spec(
        **data.draw(
            st.one_of(
                st.fixed_dictionaries({"interval": spans}),
                st.just({"expression": "*/5 9 * * fri", "tz": "Asia/Tokyo"}),
            )
        ),
        job=JobRecord(
            queue="q",
            id="",
            name="x",
            payload='{"a":"\\u00e9"}',
            priority=data.draw(st.integers(-5, 5)),
            delay=data.draw(st.none() | spans),
            unique_key="u",
            unique_for=data.draw(st.none() | spans),
        ),
        start=start,
        end=None if start is None else start + data.draw(spans),
        limit=data.draw(st.none() | st.integers(1, 100)),
        jitter=data.draw(st.none() | spans),
        misfire=data.draw(st.sampled_from(["run_once", "skip", RunAll(7)])),
    )
    state = definition.ScheduleState(
        since=data.draw(instants),
        next=data.draw(st.none() | instants),
        last=data.draw(st.none() | instants),
        runs=3,
        paused=data.draw(st.booleans()),
        made=("a", "b"),
    )

    assert definition.decode(definition.encode(made, state)) == (made, state)
    assert definition.decode(definition.encode(made)) == (made, None)


def test_a_key_of_any_length_makes_ids_that_every_store_takes() -> None:
    long = due_runs.occurrence(a_spec(key="k" * 255, interval="1s"), AWARE)
    short = due_runs.occurrence(a_spec(key="k", interval="1s"), AWARE)

    assert len(long.id) <= 255
    assert short.id == "schedule:k:2026-01-01T00:00:00Z"
    assert due_runs.occurrence(a_spec(key="k", interval="1s"), AWARE) == short


@given(
    start=st.integers(0, 10_000),
    looks=st.lists(st.integers(0, 20_000), min_size=1, max_size=20).map(sorted),
    misfire=st.sampled_from(["run_once", "skip", RunAll(3), RunAll(1_000)]),
    limit=st.none() | st.integers(1, 10),
    cron=st.booleans(),
)
def test_no_run_is_made_twice_or_before_its_time(
    start: int, looks: list[int], misfire: Any, limit: int | None, *, cron: bool
) -> None:
    times: dict[str, Any] = {"expression": "*/10 * * * *"} if cron else {"interval": duration("7 min", "x")}
    made = a_spec(**times, misfire=misfire, limit=limit)
    state = due_runs.begin(made, AWARE + timedelta(seconds=start))
    planned: list[str] = []

    for look in looks:
        now = AWARE + timedelta(seconds=start + look)
        fired = due_runs.fire(made, state, now, unfinished=(), random=lambda: 0.5)
        state = fired.state
        assert all(
            job.id.rpartition("Z")[0].rpartition("k:")[2] <= f"{now:%Y-%m-%dT%H:%M:%S}" for job in fired.jobs
        )
        assert state.next is None or state.next > now
        planned += [job.id for job in fired.jobs]

    assert planned == sorted(set(planned))
    assert state.runs == len(planned)
    assert limit is None or len(planned) <= limit
    if misfire == RunAll(1_000) and limit is None:
        timing = made.timing(AWARE + timedelta(seconds=start))
        end = AWARE + timedelta(seconds=start + looks[-1])
        wanted, at = 0, timing.next_after(AWARE + timedelta(seconds=start))
        while at is not None and at <= end:
            wanted, at = wanted + 1, timing.next_after(at)
        assert len(planned) == wanted


def test_cron_is_a_timing_that_can_be_kept() -> None:
    assert Cron.of("@daily", "UTC") == Cron.of("0 0 * * *", "UTC")
