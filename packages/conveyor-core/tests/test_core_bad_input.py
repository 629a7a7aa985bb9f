"""Bad input is refused by the call that was given it, by name, with what to do, and nothing is stored."""

from __future__ import annotations

import asyncio
import math
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conveyor.core import (
    Backoff,
    Batch,
    ConveyorError,
    Deduplication,
    Group,
    GroupLimit,
    InvalidOptionError,
    Job,
    Keep,
    NewJob,
    PayloadError,
    Queue,
    RateLimit,
    RateLimited,
    Retry,
    Snooze,
    StoreClosedError,
    StoreError,
    UnknownStoreError,
    Worker,
    open_store,
)
from conveyor.core.testing import ClockedStore, FaultyStore, ManualClock
from conveyor.store.memory import MemoryStore

NAIVE = datetime(2026, 5, 1, 9, 0)  # noqa: DTZ001 - that is the point


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError


@contextmanager
def told_of(case: str) -> Iterator[None]:
    """Have what fails say which row of a table it was."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"given {case}")
        raise


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def circular() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


#: What is given to `add` · the option that the message names · what it says to do.
OPTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"delay": -1}, "delay", "cannot be negative"),
    ({"delay": timedelta(microseconds=-1)}, "delay", "cannot be negative"),
    ({"delay": math.nan}, "delay", "finite"),
    ({"delay": math.inf}, "delay", "finite"),
    ({"delay": -math.inf}, "delay", "finite"),
    ({"delay": 1e12}, "delay", "100 years"),
    ({"delay": 10**400}, "delay", "100 years"),
    ({"delay": timedelta.max}, "delay", "100 years"),
    ({"delay": "1000000 weeks"}, "delay", "100 years"),
    ({"delay": "soon"}, "delay", '"10 minutes"'),
    ({"delay": ""}, "delay", '"10 minutes"'),
    ({"delay": "-5s"}, "delay", '"10 minutes"'),
    ({"delay": "5"}, "delay", '"10 minutes"'),
    ({"delay": True}, "delay", "number of seconds"),
    ({"delay": Decimal(5)}, "delay", "number of seconds"),
    ({"delay": [5]}, "delay", "number of seconds"),
    ({"run_at": NAIVE}, "run_at", "tzinfo=UTC"),
    ({"run_at": "2026-05-01"}, "run_at", "aware datetime"),
    ({"run_at": datetime.max.replace(tzinfo=UTC)}, "run_at", "2200"),
    ({"run_at": datetime.min.replace(tzinfo=UTC)}, "run_at", "1970"),
    ({"run_at": datetime(2030, 1, 1, tzinfo=UTC), "delay": 5}, "run_at", "not both"),
    ({"priority": 2**31}, "priority", "2,147,483,647"),
    ({"priority": -(2**31) - 1}, "priority", "-2,147,483,648"),
    ({"priority": 1.5}, "priority", "whole number"),
    ({"priority": "1"}, "priority", "whole number"),
    ({"priority": True}, "priority", "whole number"),
    ({"attempts": 0}, "attempts", "from 1"),
    ({"attempts": -1}, "attempts", "from 1"),
    ({"attempts": 2.0}, "attempts", "whole number"),
    ({"timeout": 0}, "timeout", "longer than zero"),
    ({"timeout": -1}, "timeout", "negative"),
    ({"backoff": "soon ish" * 100}, "backoff", "strategy"),
    ({"backoff": ""}, "backoff", "strategy"),
    ({"backoff": []}, "backoff", "empty"),
    ({"backoff": [1, -2]}, "backoff", "negative"),
    ({"backoff": {"kind": "fixed"}}, "backoff", "Backoff("),
    ({"backoff": True}, "backoff", "Backoff("),
    ({"backoff": -5}, "backoff", "negative"),
    ({"backoff": "5 lightyears"}, "backoff", '"10 minutes"'),
    ({"lifo": 1}, "lifo", "True or False"),
    ({"job_id": ""}, "job_id", "1 to 255"),
    ({"job_id": "x" * 256}, "job_id", "1 to 255"),
    ({"job_id": "a\x00b"}, "job_id", "control"),
    ({"job_id": "a\nb"}, "job_id", "control"),
    ({"job_id": "\ud800"}, "job_id", "control"),
    ({"job_id": 42}, "job_id", "string"),
    ({"group": ""}, "group", "1 to 255"),
    ({"group": 7}, "group", "string"),
    ({"deduplication": "key"}, "deduplication", "Deduplication("),
    ({"deduplication": {"key": "k"}}, "deduplication", "Deduplication("),
    ({"remove_on_complete": "never"}, "remove_on_complete", '"10 minutes"'),
    ({"remove_on_complete": -1}, "remove_on_complete", "negative"),
    ({"remove_on_fail": {"age": 1}}, "remove_on_fail", "Keep("),
    ({"remove_on_fail": None}, "remove_on_fail", "Keep("),
    ({"keep": "for ever"}, "keep", '"10 minutes"'),
    ({"keep": True}, "keep", '"forever"'),
    ({"keep": -1}, "keep", "negative"),
    ({"atempts": 3}, "atempts", "attempts"),
    ({"jobId": "x"}, "jobId", "job_id"),
    ({"job_id": Broken()}, "job_id", "<Broken>"),
]


@pytest.mark.parametrize("adding", ["add", "add_bulk", "defaults"])
async def test_an_option_that_cannot_be_used_is_refused_before_anything_is_stored(
    queue: Queue[Any], store: FaultyStore, adding: str
) -> None:
    store.calls.clear()

    async def call(options: dict[str, Any]) -> None:
        match adding:
            case "add":
                await queue.add("a", **options)
            case "add_bulk":
                await queue.add_bulk([NewJob("a"), NewJob("a", **options)])
            case _:
                Queue("q", store, default_job_options=options)  # type: ignore[arg-type]

    for n, (options, name, advice) in enumerate(OPTIONS):
        with told_of(f"OPTIONS[{n}], {name}"):
            with pytest.raises(InvalidOptionError) as caught:
                await call(options)

            assert caught.value.option == name
            assert str(caught.value).startswith(f"{name}=")
            assert advice in str(caught.value)
            assert len(str(caught.value)) < 500
            assert isinstance(caught.value, ValueError)
            assert store.calls == []


async def test_a_name_that_cannot_be_used_is_refused(queue: Queue[Any], store: FaultyStore) -> None:
    store.calls.clear()
    wrong: list[Any] = ["", "x" * 256, "a\x00b", "tab\there", "\x7f", "\ud800", None, 5, b"a"]
    for name in wrong:
        calls: list[Callable[[Any], Any]] = [
            queue.add,
            lambda name: queue.schedule(5, name),
            queue.now,
            lambda name: queue.add_bulk([NewJob("a"), NewJob(name)]),
            lambda name: Queue(name, store),
            lambda name: Worker(name, print, store),
            lambda name: Worker("q", {name: print}, store),
            lambda _: Worker("q", {}, store),
        ]
        if name is not None:
            calls += [queue.pause, lambda name: queue.resume(group=name)]
        for n, call in enumerate(calls):
            with (
                told_of(f"{name!r} to call {n}"),
                pytest.raises(InvalidOptionError, match=r"characters|names no job"),
            ):
                await asyncio.ensure_future(call(name))

    assert store.calls == []


async def test_every_other_name_is_kept_as_it_is(queue: Queue[Any]) -> None:
    for name in ("x" * 255, "🎉" * 255, "a b", "'\"; --", "\u202eabc", "\u2028", "é", "e\u0301"):
        job = await queue.add(name, job_id=name, group=name)

        found = await queue.get_job(name)
        assert found is not None, ascii(name)
        assert (found.id, found.name, found.group_id) == (job.id, name, name)


PAYLOADS: list[tuple[str, Any, str, str]] = [
    ("class", {"a": [1, {"b": Decimal}]}, "$.a[1].b", "give a payload (or result) type"),
    ("object", {"x": {"y": object()}}, "$.x.y", "object is not JSON"),
    ("generator", (n for n in "ab"), "$", "generator is not JSON"),
    ("function", print, "$", "is not JSON"),
    ("complex", 1j, "$", "complex is not JSON"),
    ("nan", {"price": math.nan}, "$.price", "finite"),
    ("inf", [1, -math.inf], "$[1]", "finite"),
    ("integer key", {"a": {1: 2}}, "$.a", "the key 1 is not a string"),
    ("none key", {None: 2}, "$", "is not a string"),
    ("nul", {"a": "x\x00y"}, "$.a", "NUL"),
    ("nul beside others", {"a": "é\x00"}, "$.a", "NUL"),
    ("nul in a key", {"a\x00": 1}, "$", "NUL"),
    ("surrogate", ["\ud800"], "$[0]", "surrogate"),
    ("surrogate in a key", {"\udfff": 1}, "$", "surrogate"),
    ("deep", nested(65), "$" + "[0]" * 64, "64 levels"),
    ("very deep", nested(100_000), "$" + "[0]" * 64, "64 levels"),
    ("circular", circular(), "$" + "[0]" * 64, "64 levels"),
    ("huge integer", [10**5_000], "$[0]", "4,300 digits"),
    ("huge negative integer", -(10**5_000), "$", "4,300 digits"),
    ("large", "x" * 1_048_575, "$", "1,048,576"),
    ("large in UTF-8", "é" * 600_000, "$", "1,048,576"),
]


async def test_data_that_is_not_json_is_refused_with_its_path(queue: Queue[Any], store: FaultyStore) -> None:
    store.calls.clear()
    calls: list[Callable[[Any], Awaitable[Any]]] = [
        lambda data: queue.add("a", data),
        lambda data: queue.add_bulk([NewJob("a", 1), NewJob("a", data)]),
        lambda data: queue.schedule(5, "a", data),
    ]
    for kind, data, path, advice in PAYLOADS:
        for n, call in enumerate(calls):
            with told_of(f"{kind} to call {n}"):
                with pytest.raises(PayloadError) as caught:
                    await call(data)
                assert caught.value.path == path
                assert advice in str(caught.value)
                assert isinstance(caught.value, ValueError)

    assert store.calls == []


async def test_data_just_within_the_limits_is_taken(queue: Queue[Any], store: FaultyStore) -> None:
    for data in (nested(64), "x" * 1_048_574, 10**4_299, -(10**4_299), [10**4_299]):
        assert (await queue.add("a", data)).data == data
        [record] = [job._record for job in await queue.get_jobs(order="newest", limit=1)]
        assert (await Queue[Any]("q", store).get_job(record.id)).data == data  # type: ignore[union-attr]


async def test_the_size_limit_is_the_queues(store: FaultyStore) -> None:
    queue: Queue[Any] = Queue("q", store, max_payload_bytes=10)

    await queue.add("a", "x" * 8)
    with pytest.raises(PayloadError, match="11 bytes as JSON; at most 10"):
        await queue.add("a", "x" * 9)

    job = await queue.add("a", "x")
    with pytest.raises(PayloadError):
        await job.update_data("x" * 9)
    assert await queue.count() == 2


def takes_nothing() -> None:
    pass


def takes_more(job: object, more: object) -> None:
    raise AssertionError(job, more)


#: A call that is wrong · the option that the message names.
CALLS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda _: Backoff("fixed", delay=-1), "delay"),
    (lambda _: Backoff("fixed", jitter=1.5), "jitter"),
    (lambda _: Backoff("fixed", jitter=True), "jitter"),
    (lambda _: Backoff("fixed", max_delay="x"), "max_delay"),
    (lambda _: Backoff(5), "kind"),  # type: ignore[arg-type]
    (lambda _: Deduplication(), "key"),
    (lambda _: Deduplication(""), "key"),
    (lambda _: Deduplication("a\x00"), "key"),
    (lambda _: Deduplication("\ud800"), "key"),
    (lambda _: Deduplication("k", ttl=0), "ttl"),
    (lambda _: Deduplication("k", ttl="x"), "ttl"),
    (lambda _: Deduplication("k", mode="swap"), "mode"),  # type: ignore[arg-type]
    (lambda _: Deduplication.by_payload(ttl=-1), "ttl"),
    (lambda _: Group(""), "id"),
    (lambda _: Group("g", max_size=0), "max_size"),
    (lambda _: Keep(), "age"),
    (lambda _: Keep(age=-1), "age"),
    (lambda _: Keep(count=-1), "count"),
    (lambda _: RateLimit(0, per=1), "max"),
    (lambda _: RateLimit(1, per=0), "per"),
    (lambda _: GroupLimit(), "group"),
    (lambda _: GroupLimit(concurrency=0), "concurrency"),
    (lambda _: GroupLimit(limiter=5), "limiter"),  # type: ignore[arg-type]
    (lambda _: Snooze(-1), "delay"),
    (lambda _: Retry("x"), "delay"),
    (lambda _: RateLimited(0), "delay"),
    (lambda s: Queue("q", s, max_payload_bytes=0), "max_payload_bytes"),
    (lambda s: Queue("q", s, payload=threading_lock()), "payload"),
    (lambda s: Worker("q", "handler", s), "handler"),  # type: ignore[arg-type]
    (lambda s: Worker("q", None, s), "handler"),  # type: ignore[arg-type]
    (lambda s: Worker("q", takes_nothing, s), "handler"),  # type: ignore[arg-type]
    (lambda s: Worker("q", takes_more, s), "handler"),  # type: ignore[arg-type]
    (lambda s: Worker("q", {"a": print, "b": "no"}, s), "handler"),  # type: ignore[dict-item]
    (lambda s: Worker("q", print, s, concurrency=0), "concurrency"),
    (lambda s: Worker("q", print, s, concurrency=1.0), "concurrency"),  # type: ignore[arg-type]
    (lambda s: Worker("q", print, s, max_global_concurrency=0), "max_global_concurrency"),
    (lambda s: Worker("q", print, s, limiter=5), "limiter"),  # type: ignore[arg-type]
    (lambda s: Worker("q", print, s, lifo="yes"), "lifo"),  # type: ignore[arg-type]
    (lambda s: Worker("q", print, s, lock_duration=0), "lock_duration"),
    (lambda s: Worker("q", print, s, max_stalled=-1), "max_stalled"),
    (lambda s: Worker("q", print, s, stalled_interval=0), "stalled_interval"),
    (lambda s: Worker("q", print, s, poll_interval="often"), "poll_interval"),
    (lambda s: Worker("q", print, s, maintenance_interval=0), "maintenance_interval"),
    (lambda s: Worker("q", print, s, keep=False), "keep"),
    (lambda s: Queue("q", s, keep={"age": 1}), "keep"),  # type: ignore[arg-type]
    (lambda s: Worker("q", print, s, prefetch=-1), "prefetch"),
    (lambda s: Worker("q", print, s, prefetch=1, max_global_concurrency=5), "prefetch"),
    (lambda s: Worker("q", print, s, backoff_strategies={"x": 5}), "backoff_strategies"),  # type: ignore[dict-item]
    (lambda s: Worker("q", print, s, name=""), "name"),
    (lambda s: Worker("q", print, s, payload=threading_lock()), "payload"),
    (lambda s: Queue("q", s, result=threading_lock()), "result"),
    (lambda s: Worker("q", print, s, result=threading_lock()), "result"),
    (lambda s: Worker("q", print, s, max_payload_bytes=0), "max_payload_bytes"),
    (lambda s: Worker("q", print, s, max_result_bytes=0), "max_result_bytes"),
    (lambda s: Worker("q", print, s).on("progres", print), "event"),
    (lambda s: Worker("q", print, s).on("failed", 5), "callback"),  # type: ignore[arg-type]
    (lambda s: Worker("q", print, s).close(-1), "timeout"),
    (lambda s: Queue("q", s).get_jobs("running"), "states"),
    (lambda s: Queue("q", s).get_jobs(limit=0), "limit"),
    (lambda s: Queue("q", s).get_jobs(order="random"), "order"),
    (lambda s: Queue("q", s).count("running"), "states"),
    (lambda s: Queue("q", s).clean("active"), "state"),
    (lambda s: Queue("q", s).clean("failed", grace=-1), "grace"),
    (lambda s: Queue("q", s).clean("failed", limit=0), "limit"),
    (lambda s: Queue("q", s).count("waiting", most=0), "most"),
    (lambda s: Queue("q", s).get_job_counts(most=2.5), "most"),  # type: ignore[arg-type]
    (lambda s: Queue("q", s).retry_jobs("waiting"), "state"),
    (lambda s: Queue("q", s).drain(delayed=1), "delayed"),  # type: ignore[arg-type]
    (lambda s: Queue("q", s).obliterate(force="yes"), "force"),  # type: ignore[arg-type]
    (lambda s: Queue("q", s).pause("a", group="g"), "group"),
    (lambda s: Queue("q", s).schedule("tomorrow", "a"), "when"),
    (lambda s: Queue("q", s).schedule(NAIVE, "a"), "when"),
    (lambda s: Queue("q", s).schedule(None, "a"), "when"),  # type: ignore[arg-type]
    (lambda _: open_store("jobs.db"), "url"),
    (lambda _: open_store(""), "url"),
    (lambda _: open_store(Path("jobs.db")), "url"),  # type: ignore[arg-type]
    (lambda _: open_store("memory:", colour="red"), "colour"),
]


def threading_lock() -> Any:
    class Opaque:
        pass

    return Opaque


async def test_a_call_that_cannot_work_is_refused_by_the_name_of_what_is_wrong(store: FaultyStore) -> None:
    store.calls.clear()

    async def made(call: Callable[[Any], Any]) -> None:
        result = call(store)
        if isinstance(result, Awaitable):
            await result

    for n, (call, option) in enumerate(CALLS):
        with told_of(f"CALLS[{n}], {option}"):
            with pytest.raises(InvalidOptionError) as caught:
                await made(call)

            assert caught.value.option == option
            assert str(caught.value).startswith(f"{option}=")
            assert caught.value.allowed in str(caught.value)
            assert store.calls == []


USES: list[Callable[[Queue[Any], Any], Awaitable[Any]]] = [
    lambda queue, _: queue.add("a"),
    lambda queue, _: queue.get_job("x"),
    lambda queue, _: queue.get_job_counts(),
    lambda queue, _: queue.pause(),
    lambda queue, _: queue.cancel("x"),
    lambda queue, _: queue.drain(),
    lambda queue, _: queue.clean("failed"),
    lambda queue, _: queue.obliterate(),
    lambda queue, _: queue.retry_jobs(),
    lambda _, worker: worker.run_until_idle(),
]


@pytest.mark.parametrize("use", USES)
async def test_a_store_is_of_no_use_before_it_is_opened_and_after_it_is_closed(
    clock: ManualClock, use: Callable[[Queue[Any], Any], Awaitable[Any]]
) -> None:
    store = ClockedStore(MemoryStore(), clock)
    queue: Queue[Any] = Queue("q", store)

    for moment in ("before", "after"):
        with pytest.raises(StoreClosedError, match="open") as caught:
            await use(queue, Worker("q", print, store))
        assert isinstance(caught.value, StoreError)
        assert not caught.value.retryable
        if moment == "before":
            await store.open()
            await store.close()


def test_every_error_is_one_of_ours() -> None:
    with pytest.raises(ConveyorError):
        open_store("nowhere://x")
    with pytest.raises(LookupError):
        open_store("nowhere://x")
    with pytest.raises(UnknownStoreError):
        open_store("nowhere://x")


@pytest.mark.parametrize("name", ["conveyor:schedules:emails", "conveyor:"])
async def test_a_queue_name_that_is_kept_for_core_is_refused(name: str, store: FaultyStore) -> None:
    with pytest.raises(InvalidOptionError, match="Conveyor's own"):
        Queue(name, store)
    with pytest.raises(InvalidOptionError, match="Conveyor's own"):
        Worker(name, print, store)
    assert Queue("conveyor", store).name == "conveyor"


async def test_what_cannot_be_a_deduplication_key_is_refused_before_the_store_is_asked(
    queue: Queue[Any], store: FaultyStore
) -> None:
    store.calls.clear()
    wrong: list[Any] = ["", "\x00", "\ud800", 7, None]
    for key in wrong:
        with told_of(ascii(key)), pytest.raises(InvalidOptionError, match="key"):
            await queue.remove_deduplication_key(key)

    assert store.calls == []


def yields(_: Job[Any]) -> Iterator[int]:
    yield 1


async def yields_async(_: Job[Any]) -> AsyncIterator[int]:
    yield 1


@types.coroutine
def awaitable(_: Job[Any]) -> Iterator[None]:
    """Older than `async def`, and awaited like it."""
    yield


class Yields:
    def __call__(self, _: Job[Any]) -> Iterator[int]:
        yield 1

    def method(self, _: Job[Any]) -> Iterator[int]:
        yield 1


class YieldsAsync:
    async def __call__(self, _: Job[Any]) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    "handler",
    [
        yields,
        yields_async,
        partial(yields),
        partial(partial(yields_async)),
        Yields(),
        Yields().method,
        YieldsAsync(),
        partial(YieldsAsync()),
        lambda _: (yield),
    ],
)
def test_a_generator_is_no_handler_and_no_callback(handler: Any) -> None:
    store = MemoryStore()

    made: list[Callable[[], Any]] = [
        lambda: Worker("q", handler, store),
        lambda: Worker("q", {"a": print, "b": handler}, store),
        lambda: Worker("q", handler, store, batch=Batch(2)),
    ]
    for make in made:
        with pytest.raises(InvalidOptionError, match="write return, not yield") as caught:
            make()
        assert caught.value.option == "handler"
    with pytest.raises(InvalidOptionError, match="write return, not yield") as caught:
        Worker("q", print, store).on("failed", handler)
    assert caught.value.option == "callback"


def test_what_only_looks_like_a_generator_is_a_handler() -> None:
    for handler in (awaitable, lambda job: [*yields(job)], partial(awaitable), list):
        assert Worker("q", handler, MemoryStore())
