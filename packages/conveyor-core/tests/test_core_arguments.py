"""Every public parameter refuses what it cannot be: by its name, and before the store is asked.

The parameters are read off the public callables, and each has a row in `ROWS`: a new one without a row fails
`test_every_public_parameter_has_a_row`. A row says what kinds of things a parameter takes; whatever else is
in `ANYTHING` must be refused. What core refuses is the same on every store, for no store hears of it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, cast

import pytest

import conveyor.core
from conveyor.conformance.kit import anything
from conveyor.core import (
    AddOptions,
    Backoff,
    Batch,
    Deduplication,
    FlowJob,
    FlowProducer,
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
    RunAll,
    Snooze,
    Store,
    Worker,
    open_store,
    testing,
)
from conveyor.core.signals import Signal
from conveyor.core.testing import (
    ClockedStore,
    FaultyStore,
    ManualClock,
    WrappedStore,
    make_job,
    make_record,
    run_maintenance,
    run_until_idle,
)
from conveyor.store.memory import MemoryStore

ANYTHING = {**anything.ANYTHING, "store class": MemoryStore, "clock class": ManualClock}
TEXTS = {"text", "duration", "state"}


@dataclass(frozen=True)
class Kind:
    """What a parameter takes of `ANYTHING`, by name, and what it raises for the rest."""

    takes: frozenset[str]
    error: type[InvalidOptionError | PayloadError] = InvalidOptionError

    def __or__(self, other: Kind) -> Kind:
        return Kind(self.takes | other.takes, self.error)


def kind(*takes: str) -> Kind:
    assert set(takes) <= ANYTHING.keys()
    return Kind(frozenset(takes))


NOTHING = kind()
NONE = kind("None")
NAME = kind(*TEXTS)
KEY = kind(*TEXTS, "control", "long text")
WHOLE = kind("5")
WHOLE_OR_ZERO = kind("5", "0")
SPAN = kind("5", "1.5", "2**31", "duration", "timedelta")
SPAN_OR_ZERO = SPAN | kind("0")
FLAG = kind("True")
INSTANT = kind("aware")
#: Whatever it is, it is told as text.
TOLD = kind(*ANYTHING)
#: JSON, and what stands for it.
DATA = Kind(
    frozenset(ANYTHING)
    - {"nan", "inf", "1j", "NUL", "surrogate", "10**400", "object", "class", "store class", "clock class"}
    - {"function", "generator", "iterator", "exception", "dict of numbers"}
    | {"10**400"},
    PayloadError,
)
#: What pydantic takes for a type.
TYPE = NONE
#: Several of something else than `ANYTHING` has.
EMPTY = kind("empty list", "iterator")
ROWS: dict[str, Row] = {}


class Make(Protocol):
    """What a row calls."""

    def __call__(self, world: World, /) -> Callable[..., Any]: ...


@dataclass(frozen=True)
class Row:
    """A public callable, what else it needs to be given, and what each of its parameters takes."""

    call: Make
    kinds: dict[str, Kind]
    given: Callable[[World], dict[str, Any]]


@dataclass
class World:
    """What the calls are made on."""

    store: FaultyStore
    queue: Queue[Any]
    worker: Worker[Any]
    #: One that waits, and one that is in its handler's hands.
    job: Job[Any]
    running: Job[Any]


def row(
    name: str,
    call: Make,
    given: Callable[[World], dict[str, Any]] | None = None,
    /,
    **kinds: Kind,
) -> None:
    """Say what the parameters of a public callable take."""
    ROWS[name] = Row(call, kinds, given or (lambda _: {}))


def nothing(_: Job[Any]) -> None:
    """A handler."""


ANY_OPTION = {"options": kind(*ANYTHING)}  # its keys are looked at: see `test_an_option_…`
A = lambda _: {"name": "a"}  # noqa: E731 - the shortest of a table's cells
ID = {"job_id": NAME}

# ------------------------------------------------------------------ queues

row(
    "Queue",
    lambda _: Queue,
    lambda w: {"name": "a", "store": w.store},
    name=NAME,
    store=NOTHING,
    payload=TYPE,
    result=TYPE,
    default_job_options=NONE | kind("empty dict", "dict", "dict of numbers"),  # refused by their keys
    ageing=NONE | SPAN,
    dead_letter=NONE | NAME,
    keep=NONE | SPAN_OR_ZERO,
    max_payload_bytes=WHOLE,
    clock=NONE,
)
row("Queue.add", lambda w: w.queue.add, A, name=NAME, data=DATA, **ANY_OPTION)
row("Queue.add_bulk", lambda w: w.queue.add_bulk, jobs=EMPTY)
row(
    "Queue.schedule",
    lambda w: w.queue.schedule,
    lambda _: {"name": "a", "when": 5},
    when=SPAN_OR_ZERO | INSTANT,
    name=NAME,
    data=DATA,
    **ANY_OPTION,
)
row("Queue.now", lambda w: w.queue.now, A, name=NAME, data=DATA, **ANY_OPTION)
TIMES = {
    "key": NAME,
    "start": NONE | INSTANT,
    "end": NONE | INSTANT,
    "limit": NONE | WHOLE,
    "jitter": NONE | SPAN_OR_ZERO,
    "misfire": NOTHING,
    "overlap": NOTHING,
}
row(
    "Queue.every",
    lambda w: w.queue.every,
    lambda _: {"interval": 5, "name": "a", "key": "k"},
    interval=SPAN,
    name=NAME,
    data=DATA,
    **TIMES,
    **ANY_OPTION,
)
row(
    "Queue.cron",
    lambda w: w.queue.cron,
    lambda _: {"expression": "* * * * *", "name": "a", "key": "k"},
    expression=NOTHING,
    tz=NOTHING,
    name=NAME,
    data=DATA,
    **TIMES,
    **ANY_OPTION,
)
for method in ("get_schedule", "pause_schedule", "resume_schedule", "trigger_schedule", "remove_schedule"):
    row(f"Queue.{method}", lambda w, method=method: getattr(w.queue, method), key=NAME)
row("Queue.remove_deduplication_key", lambda w: w.queue.remove_deduplication_key, key=KEY)
for method in ("get_job", "explain", "observe", "cancel", "remove"):
    row(f"Queue.{method}", lambda w, method=method: getattr(w.queue, method), **ID)
row(
    "Queue.get_jobs",
    lambda w: w.queue.get_jobs,
    states=kind("state"),
    limit=WHOLE,
    after=NONE,
    order=NOTHING,
)
row("Queue.get_job_counts", lambda w: w.queue.get_job_counts, most=NONE | WHOLE)
row("Queue.count", lambda w: w.queue.count, states=kind("state"), most=NONE | WHOLE)
row("Queue.get_groups", lambda w: w.queue.get_groups, finished=FLAG, limit=WHOLE, after=NONE | NAME)
row("Queue.get_group", lambda w: w.queue.get_group, group=NAME)
for method in ("pause", "resume"):
    call = cast("Make", lambda w, method=method: getattr(w.queue, method))
    row(f"Queue.{method}", call, job_name=NONE | NAME, group=NONE | NAME)
row("Queue.drain", lambda w: w.queue.drain, delayed=FLAG, group=NONE | NAME)
row(
    "Queue.clean",
    lambda w: w.queue.clean,
    lambda _: {"state": "failed"},
    state=NOTHING,
    grace=SPAN_OR_ZERO,
    limit=WHOLE,
)
row("Queue.obliterate", lambda w: w.queue.obliterate, force=FLAG)
row("Queue.retry_jobs", lambda w: w.queue.retry_jobs, state=NOTHING)
row(
    "Queue.redrive",
    lambda w: w.queue.redrive,
    ids=NONE | EMPTY,
    limit=NONE | WHOLE,
)
row(
    "NewJob",
    lambda w: lambda **given: w.queue.add_bulk([NewJob(**given)]),
    A,
    name=NAME,
    data=DATA,
    **ANY_OPTION,
)
row(
    "AddOptions",
    lambda w: w.queue.add,
    A,
    attempts=WHOLE,
    backoff=NONE | SPAN_OR_ZERO | NAME | kind("list"),
    delay=NONE | SPAN_OR_ZERO,
    run_at=NONE | INSTANT,
    priority=kind("0", "-1", "5"),
    lifo=FLAG,
    timeout=NONE | SPAN,
    job_id=NONE | NAME,
    deduplication=NONE,
    group=NONE | NAME,
    keep=NONE | SPAN_OR_ZERO,
    remove_on_complete=FLAG | SPAN_OR_ZERO,
    remove_on_fail=FLAG | SPAN_OR_ZERO,
    fail_parent_on_child_failure=NOTHING,
    dead_letter=NONE | NAME,
)

# ------------------------------------------------------------------ jobs

row("Job.wait_until_finished", lambda w: w.job.wait_until_finished, timeout=NONE | SPAN_OR_ZERO)
row(
    "Job.update_progress",
    lambda w: w.running.update_progress,
    progress=kind("0", "5", "1.5"),
)
row("Job.log", lambda w: w.running.log, line=TOLD)
row("Job.move_to_delayed", lambda w: w.running.move_to_delayed, when=SPAN_OR_ZERO | INSTANT)
row("Job.move_to_failed", lambda w: w.running.move_to_failed, reason=TOLD)
row(
    "Job.add_children",
    lambda w: w.running.add_children,
    lambda _: {"children": []},
    children=EMPTY,
    queues=EMPTY,
)
row("Job.update_data", lambda w: w.job.update_data, data=DATA)
row("Job.change_delay", lambda w: w.job.change_delay, delay=SPAN)
row("Job.change_priority", lambda w: w.job.change_priority, priority=kind("0", "-1", "5"))

# ------------------------------------------------------------------ flows

row(
    "FlowProducer",
    lambda _: FlowProducer,
    lambda w: {"store": w.store},
    store=NOTHING,
    queues=EMPTY,
    max_payload_bytes=WHOLE,
    clock=NONE,
)
row("FlowProducer.add", lambda w: FlowProducer(w.store).add, flow=NOTHING)
row("FlowProducer.add_bulk", lambda w: FlowProducer(w.store).add_bulk, flows=EMPTY)
row(
    "FlowJob",
    lambda w: lambda **given: FlowProducer(w.store).add(FlowJob(**given)),
    lambda _: {"name": "a", "queue_name": "q"},
    name=NAME,
    queue_name=NAME,
    data=DATA,
    children=EMPTY,
    **ANY_OPTION,
)

# ------------------------------------------------------------------ workers

row(
    "Worker",
    lambda _: Worker,
    lambda w: {"queue_name": "q", "handler": nothing, "store": w.store},
    queue_name=NAME,
    handler=kind("function", "class", "clock class", "store class"),
    store=NOTHING,
    concurrency=NONE | WHOLE,
    executor=NOTHING,
    processes=NONE,
    kill_after=NONE,
    keep=NONE | SPAN_OR_ZERO,
    max_global_concurrency=NONE | WHOLE,
    limiter=NONE,
    group=NONE,
    batch=NONE,
    lifo=FLAG,
    lock_duration=SPAN,
    max_stalled=WHOLE_OR_ZERO,
    stalled_interval=SPAN,
    poll_interval=SPAN,
    maintenance_interval=SPAN,
    prefetch=NONE | WHOLE_OR_ZERO,
    backoff_strategies=NONE | kind("empty dict"),
    payload=TYPE,
    result=TYPE,
    max_payload_bytes=WHOLE,
    max_result_bytes=WHOLE,
    name=NONE | NAME,
    clock=NONE,
)
row(
    "Worker, in processes",
    lambda _: Worker,
    lambda w: {"queue_name": "q", "handler": nothing, "store": w.store, "executor": "process"},
    processes=NONE | WHOLE,
    kill_after=NONE | SPAN_OR_ZERO,
)
row("Worker.run", lambda w: w.worker.run, grace=SPAN_OR_ZERO, signals=FLAG)
row("Worker.close", lambda w: w.worker.close, timeout=SPAN_OR_ZERO)
row(
    "Worker.on",
    lambda w: w.worker.on,
    lambda _: {"event": "failed", "callback": nothing},
    event=kind("state"),
    callback=kind("function", "class", "clock class", "store class"),
)

# ------------------------------------------------------------------ options that are values

row(
    "Backoff",
    lambda _: Backoff,
    lambda _: {"kind": "fixed"},
    kind=NAME | kind("list"),
    delay=SPAN_OR_ZERO,
    max_delay=NONE | SPAN_OR_ZERO,
    jitter=kind("0"),
)
row("Batch", lambda _: Batch, lambda _: {"size": 5}, size=WHOLE, linger=SPAN_OR_ZERO, by=NONE)
row(
    "Deduplication",
    lambda _: Deduplication,
    lambda _: {"key": "k"},
    key=KEY,
    ttl=NONE | SPAN,
    mode=NOTHING,
)
row("Deduplication.by_payload", lambda _: Deduplication.by_payload, ttl=NONE | SPAN, mode=NOTHING)
row("Group", lambda _: Group, lambda _: {"id": "g"}, id=NAME, max_size=NONE | WHOLE)
row(
    "GroupLimit",
    lambda _: GroupLimit,
    lambda _: {"concurrency": 5},
    concurrency=NONE | WHOLE,
    limiter=NONE,
)
row("Keep", lambda _: Keep, lambda _: {"age": 5}, age=NONE | SPAN_OR_ZERO, count=NONE | WHOLE_OR_ZERO)
row("RateLimit", lambda _: RateLimit, lambda _: {"max": 5, "per": 5}, max=WHOLE, per=SPAN)
row("RunAll", lambda _: RunAll, most=WHOLE)
row("Snooze", lambda _: Snooze, delay=SPAN_OR_ZERO)
row("Retry", lambda _: Retry, lambda _: {"delay": 5}, delay=SPAN_OR_ZERO, reason=TOLD)
row("RateLimited", lambda _: RateLimited, delay=SPAN)
row("Unrecoverable", lambda _: conveyor.core.Unrecoverable, reason=TOLD)

# ------------------------------------------------------------------ stores, and what tests are made of

row("open_store", lambda _: open_store, lambda _: {"url": "memory:"}, url=NOTHING, **ANY_OPTION)
row("ManualClock", lambda _: ManualClock, start=INSTANT)
row("ManualClock.advance", lambda _: ManualClock().advance, by=SPAN_OR_ZERO)
row("WrappedStore", lambda _: WrappedStore, store=NOTHING)
row(
    "ClockedStore",
    lambda _: ClockedStore,
    lambda w: {"store": w.store, "clock": None},
    store=NOTHING,
    clock=NONE,
)
row("FaultyStore", lambda _: FaultyStore, store=NOTHING)
row(
    "FaultyStore.fail",
    lambda w: w.store.fail,
    lambda _: {"method": "insert", "error": ValueError()},
    method=NOTHING,
    error=kind("exception"),
    times=WHOLE,
    after=FLAG,
)
row("run_until_idle", lambda _: run_until_idle, worker=NOTHING)
row("run_maintenance", lambda _: run_maintenance, worker=NOTHING)
RECORD = {"queue": NAME, "name": NAME, "data": DATA, "fields": kind(*ANYTHING)}
row("make_record", lambda _: make_record, **RECORD)
row(
    "make_job",
    lambda _: make_job,
    lambda w: {"store": w.store},
    store=NOTHING,
    state=kind("state"),
    result=TOLD,
    error=NONE | kind("exception"),
    now=NONE | INSTANT,
    **RECORD,
)

# ------------------------------------------------------------------ what is public

#: Made by Conveyor, to be read. Their methods are the user's all the same.
READ = {
    *(
        "Attempt",
        "DeadLetter",
        "Explanation",
        "FlowResult",
        "GroupInfo",
        "InstalledStore",
        "Job",
        "JobOptions",
    ),
    *("Pause", "Reason", "RunningJob", "Schedule", "WorkerInfo", "WorkerStats"),
}
#: For the engine, and in the way of it only because it is another module's.
ENGINES_OWN = {
    *("Backoff.of", "Backoff.wait", "Backoff.from_json", "JobOptions.decode", "WorkerInfo.handles"),
    *("ManualClock.call_later", "Job.encoded", "Job.write_data"),
}


def public_parameters() -> dict[str, set[str]]:
    """The parameters of all that a user can call, by what is called."""
    found: dict[str, set[str]] = {"AddOptions": set(AddOptions.__annotations__)}
    for module in (conveyor.core, testing):
        for name in module.__all__:
            value = getattr(module, name)
            if not isinstance(value, type):
                # What cannot be called is a name for annotations.
                found[name] = parameters(value) if callable(value) else set()
                continue
            told = issubclass(value, Exception) and not issubclass(value, Signal)
            if value in {Store, AddOptions} or told or issubclass(value, Enum):
                continue  # the contract of stores is for their authors; errors and states are told
            if name not in READ:
                found[name] = parameters(value)
            for method in dir(value):
                if not method.startswith("_") and callable(getattr(value, method)):
                    if issubclass(value, WrappedStore) and method in dir(Store):
                        continue
                    if not issubclass(value, Exception):
                        found[f"{name}.{method}"] = parameters(getattr(value, method))
    return {name: given for name, given in found.items() if given and name not in ENGINES_OWN}


def parameters(function: Callable[..., Any]) -> set[str]:
    return {*inspect.signature(function).parameters} - {"self"}


def test_every_public_parameter_has_a_row() -> None:
    there = {f"{name}({one})" for name, given in public_parameters().items() for one in given}
    rows = {f"{name.split(',')[0]}({one})" for name, row in ROWS.items() for one in row.kinds}

    assert there - rows == set(), "say in ROWS what these take"
    assert rows - there == set(), "these are gone: remove them from ROWS"


# ------------------------------------------------------------------ the test


@pytest.fixture
async def world(store: FaultyStore, queue: Queue[Any], clock: ManualClock) -> AsyncIterator[World]:
    hands: asyncio.Future[Job[Any]] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def handler(job: Job[Any]) -> None:
        hands.set_result(job)
        await done.wait()

    await queue.add("a")
    async with Worker("q", handler, store, clock=clock):
        await clock.settle()
        job = await queue.add("a", delay="1h")
        await clock.settle()
        yield World(store, queue, Worker("q", nothing, store, clock=clock), job, await hands)
        done.set()
        await clock.settle()


async def outcome(call: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> object:
    """What a call returns or raises; for an iterator, its first step."""
    try:
        result = call(*args, **given)
        if isinstance(result, AsyncIterator):
            result = anext(result)
        async with asyncio.timeout(5):
            return await result if isinstance(result, Awaitable) else result
    except BaseException as error:  # noqa: BLE001 - it is looked at
        return error


@pytest.mark.parametrize("name", ROWS)
async def test_what_a_parameter_cannot_be_is_refused_by_its_name(world: World, name: str) -> None:
    row = ROWS[name]
    wrong: list[str] = []
    for parameter, takes in row.kinds.items():
        for what in ANYTHING.keys() - takes.takes:
            value = ANYTHING[what]
            args: tuple[Any, ...] = ()
            given = row.given(world) | {parameter: value}
            if parameter == "states":
                args = (given.pop("states"),)
            world.store.calls.clear()

            said = await outcome(row.call(world), args, given)

            if not isinstance(said, takes.error):
                wrong.append(f"{parameter}={what}: {type(said).__name__} {str(said)[:100]}")
            elif isinstance(said, InvalidOptionError) and said.option != parameter:
                wrong.append(f"{parameter}={what}: named {said.option!r}")
            elif world.store.calls:
                wrong.append(f"{parameter}={what}: the store was asked to {world.store.calls}")
    assert not wrong, "\n".join(sorted(wrong))


async def test_an_option_that_does_not_exist_is_refused_wherever_options_are_taken(world: World) -> None:
    for name, row in ROWS.items():
        if not {"options", "fields"} & row.kinds.keys():
            continue
        world.store.calls.clear()
        said = await outcome(row.call(world), (), row.given(world) | {"atempts": 1})

        assert isinstance(said, InvalidOptionError), (name, said)
        assert (said.option, world.store.calls) == ("atempts", []), name
