"""What is logged of jobs and workers, and what never is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn

import pytest
from pydantic import BaseModel, field_validator

from conveyor.core import (
    Batch,
    FlowJob,
    FlowProducer,
    Job,
    JobState,
    NewJob,
    Queue,
    RateLimited,
    Retry,
    Snooze,
    StoreError,
    StoreUnavailableError,
    Unrecoverable,
    Worker,
)
from conveyor.core.store import Where
from conveyor.core.testing import FaultyStore, ManualClock

MakeWorker = Callable[..., Worker[Any]]

#: In the data and the results of jobs, and in nothing that is logged.
CANARY = "canary-7f3a"
#: Every field that a line may have beside logging's own.
FIELDS = {
    "job_id",
    "job_name",
    "queue",
    "attempt",
    "attempts",
    "worker",
    "outcome",
    "duration",
    "error_type",
    "next_run_at",
}


class BoomError(Exception):
    pass


async def fail(_: Job[Any]) -> NoReturn:
    raise BoomError("the mail server is away")


async def succeed(job: Job[Any]) -> Any:
    return job.data


@pytest.fixture(autouse=True)
def every_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def runs(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The lines about runs of jobs."""
    return [record for record in caplog.records if hasattr(record, "outcome")]


def fields(record: logging.LogRecord) -> dict[str, Any]:
    usual = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime"}
    return {name: value for name, value in record.__dict__.items() if name not in usual}


async def test_a_job_that_fails_for_good_is_an_error_with_the_traceback(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    job = await queue.add("welcome")

    async def slow(_: Job[Any]) -> None:
        await clock.advance("1500ms")
        await fail(_)

    await worker(slow, name="w").run_until_idle()

    [record] = runs(caplog)
    assert (record.name, record.levelno) == ("conveyor.worker", logging.ERROR)
    assert record.getMessage() == (
        f"job {job.id} (welcome) of queue 'q' failed for good on attempt 1 of 1 after 1.500 s: "
        "BoomError: the mail server is away"
    )
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], BoomError)
    assert "in fail" in caplog.text
    assert fields(record) == {
        "job_id": job.id,
        "job_name": "welcome",
        "queue": "q",
        "attempt": 1,
        "attempts": 1,
        "worker": "w",
        "outcome": "failed",
        "duration": 1.5,
        "error_type": "BoomError",
    }


async def test_a_failure_with_attempts_left_is_a_warning_that_says_when_it_runs_again(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.add("welcome", attempts=3, backoff="5s")

    async with worker(fail):
        await clock.advance(3)

    [record] = runs(caplog)
    again = (clock.now() - timedelta(seconds=3) + timedelta(seconds=5)).isoformat()
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert f"failed on attempt 1 of 3 after 0.000 s, and runs again at {again}" in record.getMessage()
    assert (fields(record)["outcome"], fields(record)["next_run_at"]) == ("retrying", again)


@pytest.mark.parametrize(
    ("ending", "outcomes"),
    [
        (None, ["completed"]),
        (Snooze("1 minute"), ["snoozed"]),
        (RateLimited("1 minute"), ["snoozed"]),
        (Retry("1 minute"), ["retrying"]),
        (Unrecoverable("no such user"), ["failed"]),
        (asyncio.CancelledError(), ["retrying"]),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_every_run_has_one_line_whatever_it_ends_as(
    queue: Queue[Any],
    worker: MakeWorker,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
    *,
    ending: BaseException | None,
    outcomes: list[str],
) -> None:
    await queue.add("a", attempts=2, backoff="1h")

    async def handler(_: Job[Any]) -> None:
        if ending is not None:
            raise ending

    async with worker(handler):
        await clock.advance(10)

    levels = {"retrying": logging.WARNING, "failed": logging.ERROR}
    assert [fields(record)["outcome"] for record in runs(caplog)] == outcomes
    assert [record.levelno for record in runs(caplog)] == [levels.get(outcomes[0], logging.DEBUG)]
    for record in runs(caplog):
        assert fields(record).keys() <= FIELDS
        assert (fields(record)["attempt"], fields(record)["attempts"]) == (1, 2)


async def test_a_timeout_and_a_cancelled_job_are_logged_as_such(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang(_: Job[Any]) -> None:
        await asyncio.Event().wait()

    late = await queue.add("late", timeout=1)
    unwanted = await queue.add("unwanted")
    async with worker(hang, concurrency=2):
        await clock.settle()
        await unwanted.cancel()
        await clock.advance(1)
        await clock.advance(30)

    found = {fields(record)["job_id"]: record for record in runs(caplog)}
    assert fields(found[late.id])["error_type"] == "JobTimeoutError"
    assert found[late.id].levelno == logging.ERROR
    assert fields(found[unwanted.id])["outcome"] == "cancelled"
    assert found[unwanted.id].levelno == logging.DEBUG


async def test_an_outcome_that_came_too_late_is_not_logged_as_the_jobs(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    job = await queue.add("a")

    async def lose(_: Job[Any]) -> None:
        await store.forget("q")
        raise BoomError

    await worker(lose).run_until_idle()

    assert runs(caplog) == []
    assert f"came too late: the lease was lost, and another run decides: {job.id}" in caplog.text


async def test_a_failure_is_logged_once_however_often_it_must_be_written(
    queue: Queue[Any],
    store: FaultyStore,
    worker: MakeWorker,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await queue.add("a")
    store.fail("settle", StoreUnavailableError("away"), times=3)
    store.fail("settle", StoreUnavailableError("away", outcome_unknown=True), after=True)

    async with worker(fail):
        await clock.advance(1)
        await clock.advance(20)

    assert len(runs(caplog)) == 1


async def test_a_batch_has_a_line_for_each_job_and_its_traceback_once(
    queue: Queue[Any], worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = await queue.add_bulk([NewJob("a", n) for n in range(3)])

    async def handler(_: list[Job[int]]) -> None:
        raise BoomError

    await worker(handler, batch=Batch(3)).run_until_idle()

    assert [fields(record)["job_id"] for record in runs(caplog)] == [job.id for job in jobs]
    assert [record.levelno for record in runs(caplog)] == [logging.ERROR] * 3
    assert [record.exc_info is not None for record in runs(caplog)] == [True, False, False]


async def test_a_job_that_fails_unrun_is_logged_too(
    store: FaultyStore, worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    flow = FlowJob("parent", "q", children=[FlowJob("child", "q")])
    await FlowProducer(store).add(flow)

    await worker(fail).run_until_idle()

    assert [
        (fields(r)["job_name"], r.levelname, fields(r)["error_type"], "duration" in fields(r))
        for r in runs(caplog)
    ] == [("child", "ERROR", "BoomError", True), ("parent", "ERROR", "child-failed", False)]


async def test_a_refused_outcome_is_logged_as_the_jobs_failure(
    queue: Queue[Any], store: FaultyStore, worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    job = await queue.add("a")
    store.fail("settle", StoreError("not in this encoding"), times=2)

    await worker(succeed).run_until_idle()

    assert (await job.refresh()).state is JobState.FAILED
    [record] = runs(caplog)
    assert (record.levelno, fields(record)["error_type"]) == (logging.ERROR, "refused")


async def test_a_worker_says_when_it_starts_is_told_to_stop_and_has_stopped(
    worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker(succeed, name="w"):
        pass

    lines = [record for record in caplog.records if record.levelno == logging.INFO]
    assert [(record.name, record.getMessage()) for record in lines] == [
        ("conveyor.worker", "worker w of queue 'q': started"),
        ("conveyor.worker", "worker w of queue 'q': told to stop: running handlers may finish"),
        ("conveyor.worker", "worker w of queue 'q': stopped"),
    ]
    assert [fields(record) for record in lines] == [{"worker": "w", "queue": "q"}] * 3


async def test_at_the_usual_level_a_job_that_completes_costs_no_line(
    queue: Queue[Any], worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    made: list[str] = []
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made.append(args[0])
        return before(*args, **kwargs)

    logging.setLogRecordFactory(factory)
    try:
        await queue.add_bulk([NewJob("a") for _ in range(20)])
        await worker(succeed, concurrency=5).run_until_idle()
    finally:
        logging.setLogRecordFactory(before)

    assert not [name for name in made if name.startswith("conveyor")]


async def test_a_filter_of_logging_that_raises_costs_no_outcome(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    def broken(record: logging.LogRecord) -> bool:
        if hasattr(record, "outcome"):
            raise BoomError
        return True

    unhandled: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    log = logging.getLogger("conveyor.worker")
    log.addFilter(broken)
    try:
        jobs = await queue.add_bulk([NewJob("a"), NewJob("b")])
        await worker(succeed, concurrency=2).run_until_idle()
    finally:
        log.removeFilter(broken)

    assert {(await job.refresh()).state for job in jobs} == {JobState.COMPLETED}
    assert {type(context["exception"]) for context in unhandled} == {BoomError}


# ------------------------------------------------------------ never logged


class Email(BaseModel):
    to: str

    @field_validator("to")
    @classmethod
    def _told(cls, to: str) -> str:
        raise ValueError(f"{to} is no address")


class Unwritable:
    def __repr__(self) -> str:
        return CANARY

    __str__ = __repr__


def said(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """All that is in the records, the tracebacks and the arguments included."""
    for record in caplog.records:
        yield logging.Formatter("%(message)s").format(record)
        yield repr(record.args)
        yield repr(fields(record))


async def endings(job: Job[Any]) -> Any:  # noqa: PLR0911 - one for each
    """End as the job's name says, with the canary wherever core might take it from."""
    match job.name:
        case "result":
            return {"token": CANARY}
        case "unwritable":
            return Unwritable()
        case "unwritable key":
            return {(CANARY,): 1}
        case "unwritable within":
            return {CANARY: {"inner": object()}}
        case "too large":
            return [CANARY] * 100
        case "snooze":
            raise Snooze("1 minute")
        case "fail":
            raise BoomError("not a secret")
        case "log":
            await job.log(CANARY)
            await job.update_data({"token": CANARY, "more": 1})
            return None
        case _:
            return None


@pytest.mark.parametrize(
    "name",
    ["result", "unwritable", "unwritable key", "unwritable within", "too large", "snooze", "fail", "log"],
)
@pytest.mark.parametrize("batch", [None, Batch(2)], ids=["single", "batch"])
async def test_data_and_results_are_never_logged(
    queue: Queue[Any],
    worker: MakeWorker,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
    *,
    name: str,
    batch: Batch | None,
) -> None:
    async def each(jobs: list[Job[Any]]) -> list[Any]:
        return [await endings(job) for job in jobs]

    handler = endings if batch is None else each
    job = await queue.add(name, {"token": CANARY}, attempts=2, backoff="1s", dead_letter="dead")
    async with worker(handler, batch=batch, max_result_bytes=1000):
        await clock.advance(10)
    await job.refresh()

    assert runs(caplog)
    assert not [text for text in said(caplog) if CANARY in text]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING])
async def test_data_that_cannot_be_read_is_not_logged_either(
    store: FaultyStore,
    worker: MakeWorker,
    caplog: pytest.LogCaptureFixture,
    level: int,
) -> None:
    caplog.set_level(level)
    flow = FlowJob("parent", "q", {"to": "a"}, children=[FlowJob("child", "q", {"to": CANARY})])
    added = await FlowProducer(store).add(flow)

    async def handler(_: Job[Email]) -> None: ...

    await worker(handler).run_until_idle()

    assert (await added.job.refresh()).state is JobState.FAILED
    assert [fields(r)["error_type"] for r in runs(caplog)] == ["undecodable", "child-failed"]
    assert not [text for text in said(caplog) if CANARY in text]
    found = await store.find(Where(queue="q"), limit=10)
    assert any(CANARY in record.payload for record in found)


async def test_the_traceback_in_the_log_is_short_and_can_be_written_anywhere(
    queue: Queue[Any], worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("lone \ud800 surrogate" + "x" * 1_000_000)

    def handler(_: Job[Any]) -> None:
        raise error

    await queue.add("work")
    await worker(handler).run_until_idle()

    [record] = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    text = logging.Formatter().format(record)
    assert "lone \\ud800 surrogate" in text
    assert text.encode().rstrip().endswith(b"x")
    assert len(text) < 20_000
