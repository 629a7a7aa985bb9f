"""What handlers return, and what comes back of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from pydantic import BaseModel, Field, SecretStr

from conveyor.core import (
    Batch,
    FlowJob,
    InvalidOptionError,
    Job,
    JobState,
    NewJob,
    PayloadError,
    Queue,
    Worker,
)
from conveyor.core.testing import FaultyStore, ManualClock

if TYPE_CHECKING:
    from fractions import Fraction as Late

MakeWorker = Callable[..., Worker[Any]]


class Colour(Enum):
    RED = 1


class Receipt(BaseModel):
    number: int
    at: datetime | None = None
    internal: str = Field(default="", exclude=True)


class Detailed(Receipt):
    more: str = "more"


@dataclass
class Weight:
    grams: Decimal
    raw: bytes = b""


class Unknown:
    pass


@dataclass
class Odd:
    n: Any
    unknown: Unknown | None = None


class Locked(BaseModel):
    code: SecretStr
    internal: str = Field(default="x", exclude=True)


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("result", "form"),
    [
        (Receipt(number=1, at=NOON), {"number": 1, "at": "2026-01-02T12:00:00Z"}),
        (Receipt(number=1, internal="left out"), {"number": 1, "at": None}),
        (Detailed(number=1), {"number": 1, "at": None, "more": "more"}),
        (Locked(code=SecretStr("hunter2"), internal="y"), {"code": "hunter2"}),
        (Weight(Decimal("1.50"), b"abc"), {"grams": "1.50", "raw": "abc"}),
        (Odd({1}), {"n": [1], "unknown": None}),
        ([Colour.RED, NOON, b"\xff", {2, 1}], [1, "2026-01-02T12:00:00Z", "_w==", [1, 2]]),
    ],
)
async def test_a_result_comes_back_as_the_json_that_stands_for_it(
    queue: Queue[Any], worker: MakeWorker, result: Any, form: Any
) -> None:
    job = await queue.add("a")

    await worker(lambda _: result).run_until_idle()

    assert await job.wait_until_finished() == form
    assert (await job.refresh()).return_value == form
    assert job.to_dict()["return_value"] == form


async def receipt(_: Job[Any]) -> Receipt:
    return Receipt(number=1, at=NOON)


async def no_receipt(_: Job[Any]) -> Receipt:
    return "5"  # type: ignore[return-value]


async def number(_: Job[Any]) -> int | None:
    return "5"  # type: ignore[return-value]


async def whole_float(_: Job[Any]) -> float:
    return 3


async def late(_: Job[Any]) -> Late:
    return "5"  # type: ignore[return-value]


async def unknown(_: Job[Any]) -> Unknown:
    return "5"  # type: ignore[return-value]


async def by_number(_: Job[Any]) -> dict[int, Decimal]:
    return {1: Decimal("1.50")}


async def raw(_: Job[Any]) -> bytes:
    return b"\xff"


def awaitable(job: Job[Any]) -> Awaitable[dict[int, Decimal]]:
    return by_number(job)


async def excluded(_: Job[Any]) -> Receipt:
    return Receipt(number=1, internal="left out")


@pytest.mark.parametrize(
    ("handler", "stored"),
    [
        (receipt, {"number": 1, "at": "2026-01-02T12:00:00Z"}),
        (no_receipt, "5"),
        (number, "5"),
        (whole_float, 3),
        (late, "5"),
        (unknown, "5"),
        (by_number, {"1": "1.50"}),
        (raw, "_w=="),
        (awaitable, {"1": "1.50"}),
        (excluded, {"number": 1, "at": None}),
    ],
)
async def test_an_annotation_helps_to_store_a_result_and_never_fails_or_changes_it(
    queue: Queue[Any], worker: MakeWorker, handler: Any, stored: Any
) -> None:
    job = await queue.add("a")

    await worker(handler).run_until_idle()

    found = await job.wait_until_finished()
    assert (type(found), found) == (type(stored), stored)


async def test_the_results_of_a_batch_are_each_of_the_type(queue: Queue[Any], worker: MakeWorker) -> None:
    jobs = [await queue.add("a") for _ in range(3)]

    async def handler(jobs: list[Job[Any]]) -> list[dict[int, Decimal]]:
        return [{n: Decimal(n)} for n, _ in enumerate(jobs)]

    await worker(handler, batch=Batch(3)).run_until_idle()

    assert [await job.wait_until_finished() for job in jobs] == [{"0": "0"}, {"1": "1"}, {"2": "2"}]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"number": "many"}, "result.number: Input should be a valid integer"),
        (None, "result: Input should be a valid dictionary"),
        (Detailed(number=1), "result: it is of the type Detailed, and would come back as Receipt"),
        (Receipt(number=1, internal="left out"), "result.internal: it would come back as another value"),
    ],
)
async def test_a_result_that_is_not_of_the_type_given_fails_its_job_without_a_retry(
    queue: Queue[Any], worker: MakeWorker, result: Any, reason: str
) -> None:
    job = await queue.add("a", attempts=3)

    await worker(lambda _: result, result=Receipt).run_until_idle()

    await job.refresh()
    assert job.state is JobState.FAILED
    assert reason in (job.failed_reason or "")
    assert [run.error_type for run in job.attempt_history] == ["UnserialisableResultError"]


class Hostile(BaseModel):
    n: Any

    def __eq__(self, other: object) -> NoReturn:
        raise BaseException(other)  # noqa: TRY002 - the worst there is

    __hash__ = None  # type: ignore[assignment]


async def test_a_result_that_raises_whatever_it_likes_fails_its_job_alone(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    jobs = [await queue.add("a", n) for n in range(2)]

    async def handler(job: Job[int]) -> Any:
        return Hostile(n=1) if job.data else "fine"

    await worker(handler).run_until_idle()

    assert [(await job.refresh()).state for job in jobs] == [JobState.COMPLETED, JobState.FAILED]


async def test_a_queue_gives_results_back_typed_by_every_way(
    store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    queue: Queue[Any, Receipt] = Queue("q", store, result=Receipt, clock=clock)
    added = await queue.add("a")
    [bulk] = await queue.add_bulk([NewJob("a")])

    await worker(receipt, concurrency=2).run_until_idle()

    found = await queue.get_job(added.id)
    assert found is not None
    assert found.return_value == await added.wait_until_finished() == Receipt(number=1, at=NOON)
    assert [job.return_value for job in await queue.get_jobs("completed")] == [found.return_value] * 2
    assert (await bulk.refresh()).return_value == found.return_value
    assert found.to_dict()["return_value"] == {"number": 1, "at": "2026-01-02T12:00:00Z"}


async def test_a_result_that_does_not_fit_the_queues_type_is_told_to_who_reads_it(
    store: FaultyStore, worker: MakeWorker, clock: ManualClock
) -> None:
    queue: Queue[Any, Receipt] = Queue("q", store, result=Receipt, clock=clock)
    job = await queue.add("a")
    assert job.return_value is None

    await worker(lambda _: {"number": "hunter2"}).run_until_idle()

    with pytest.raises(PayloadError, match=r"^\$\.number: Input should be a valid integer") as waiting:
        await job.wait_until_finished()
    await job.refresh()
    with pytest.raises(PayloadError, match=r"^\$\.number: Input should be a valid integer") as reading:
        _ = job.return_value
    assert "hunter2" not in f"{waiting.value} {reading.value}"


async def test_children_that_a_handler_adds_have_the_workers_limit(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    refused: list[str] = []

    async def handler(job: Job[Any]) -> None:
        for size in (9, 10):
            try:
                await job.add_children([FlowJob("child", "q", "x" * size, job_id=f"{job.id}-{size}")])
            except PayloadError as error:
                refused.append(str(error))

    await queue.add("parent")
    await worker({"parent": handler}, max_payload_bytes=11).run_until_idle()

    assert refused == ["children[0].data: it is 12 bytes as JSON; at most 11 are allowed"]
    assert await queue.count("waiting") == 1


def test_a_result_type_that_pydantic_does_not_know_is_refused_if_it_is_given(
    store: FaultyStore, worker: MakeWorker
) -> None:
    for make in (lambda: Queue("q", store, result=Unknown), lambda: worker(receipt, result=Unknown)):
        with pytest.raises(InvalidOptionError) as caught:
            make()
        assert caught.value.option == "result"
