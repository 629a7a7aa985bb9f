"""What type checkers know of queues, workers and stores: `hatch check types` fails where this is not so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, assert_type

import pytest

from conveyor.core import (
    Batch,
    Handler,
    Job,
    NewJob,
    PayloadError,
    Queue,
    Schedule,
    Store,
    Worker,
    open_store,
)


@dataclass
class Email:
    to: str


@dataclass
class Receipt:
    number: int


async def welcome(job: Job[Email]) -> str:
    return job.data.to


def pay(job: Job[Receipt]) -> int:
    return job.data.number


async def plain(job: Job) -> Any:
    return job.data


async def together(jobs: list[Job[Email]]) -> list[str]:
    return [job.data.to for job in jobs]


class Service:
    async def handle(self, job: Job[Email], greeting: str = "") -> str:
        return greeting + job.data.to


async def test_a_queue_needs_no_annotation_and_keeps_the_types_it_is_given() -> None:
    async with open_store("memory:") as store:
        assert_type(Queue("q", store), Queue[Any, Any])
        queue = Queue("q", store, payload=Email, result=Receipt)
        assert_type(queue, Queue[Email, Receipt])

        job = await queue.add("welcome", Email("ada"))
        assert_type(job, Job[Email, Receipt])
        assert_type(job.data, Email)
        assert_type(job.created_at, datetime)
        assert_type(await queue.add_bulk([NewJob("welcome", Email("bo"))]), list[Job[Email, Receipt]])
        assert_type(await queue.every("1h", "welcome", Email("cy"), key="a"), Schedule)
        assert_type(await queue.cron("@daily", "welcome", Email("cy"), key="b"), Schedule)
        assert_type(await queue.trigger_schedule("a"), Job[Email, Receipt])
        async with store.using() as inside:
            assert_type(inside, Store)

        with pytest.raises(PayloadError):
            await queue.add("welcome", 42)  # type: ignore[arg-type]
        with pytest.raises(PayloadError):
            await queue.every("1h", "welcome", 42, key="c")  # type: ignore[arg-type]
        with pytest.raises(PayloadError):
            await queue.cron("@daily", "welcome", 42, key="d")  # type: ignore[arg-type]


async def test_a_worker_takes_handlers_of_any_payloads() -> None:
    async with open_store("memory:") as store:
        assert_type(Worker("q", welcome, store), Worker[Email])
        assert_type(Worker("q", pay, store), Worker[Receipt])
        assert_type(Worker("q", together, store, batch=Batch(2)), Worker[Email])
        handlers: dict[str, Handler] = {"welcome": welcome, "pay": pay, "plain": plain}
        workers: Sequence[Worker[Any]] = [
            Worker("q", {"welcome": welcome, "pay": pay, "plain": plain}, store),
            Worker("q", {"a": Service().handle, "b": partial(Service().handle, greeting="hello ")}, store),
            Worker("q", handlers, store),
            Worker("q", lambda job: job.id, store),
            Worker("q", plain, store),
        ]

        assert [worker.queue_name for worker in workers] == ["q"] * 5
