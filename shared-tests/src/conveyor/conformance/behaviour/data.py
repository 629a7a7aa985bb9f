"""Queue behaviour: data and results of every kind, with a type and without."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, NoReturn
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, computed_field

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.bench import Bench, Recorder
from conveyor.core import Backoff, Job, JobState, Keep, NewJob, PayloadError, Queue


class Colour(Enum):
    """One that is no text."""

    RED = 1


@dataclass
class Letter:
    """Data of a type."""

    weight: int


@dataclass
class Shipment:
    """Data of another type that looks the same as JSON."""

    weight: float


class Sealed(BaseModel):
    """Data with a secret, names of its own in either direction, and a field that is computed."""

    model_config = ConfigDict(extra="forbid")

    code: SecretStr
    to: str = Field(validation_alias="recipient", serialization_alias="addressee")
    letters: dict[int, Letter] = {}

    @computed_field
    def length(self) -> int:
        """Not stored."""
        return len(self.letters)


class Registered(Letter):
    """A letter that is more than one."""


class Excluding(BaseModel):
    """Data of which a part is not written."""

    letter: Letter = Field(default=Letter(1), exclude=True)


class Holding(BaseModel):
    """Data that may hold a subclass of what it is to hold."""

    letter: Letter


class Span(timedelta):
    """A duration with an arithmetic of its own, as some libraries have: not all of Python's."""

    def _refused(self, *_: object) -> NoReturn:
        raise TypeError("not in the arithmetic of this class")

    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __mul__ = __rmul__ = _refused
    __add__ = __radd__ = __sub__ = __rsub__ = total_seconds = _refused


class Moment(datetime):
    """An instant that is not written as Python's are."""

    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:  # noqa: ARG002 - as of `datetime`
        """In its own way."""
        return "the second of March"

    def __sub__(self, _: object) -> NoReturn:
        raise TypeError("not in the arithmetic of this class")


#: What a payload without a type is taken as · what comes back.
FORMS: list[tuple[Any, Any]] = [
    (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "2026-01-02T03:04:05.000006Z"),
    (datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T03:00:00+02:00"),
    (date(2026, 1, 2), "2026-01-02"),
    (time(3, 4, 5), "03:04:05"),
    (timedelta(hours=1, seconds=30), "PT1H30S"),
    (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    (Decimal("1.50"), "1.50"),
    (Decimal("1E+30"), "1E+30"),
    (b"\xff\xfe?", "__4_"),
    (Colour.RED, 1),
    ((1, ("a",)), [1, ["a"]]),
    ({"b", "a"}, ["a", "b"]),
    (Letter(2), {"weight": 2}),
    (
        Sealed.model_validate({"code": "hunter2", "recipient": "ada"}),
        {"code": "hunter2", "to": "ada", "letters": {}},
    ),
]
TYPED: list[Any] = [
    Sealed.model_validate({"code": "hunter2", "recipient": "ada", "letters": {1: Letter(2), 30: Letter(3)}}),
    Excluding(),
    Holding(letter=Letter(4)),
]
CHANGED: list[Any] = [Excluding(letter=Letter(2)), Holding(letter=Registered(2))]


@area("queue behaviour")
class Data:
    """What goes in comes out."""

    async def test_typed_data_comes_back_typed(self, bench: Bench) -> None:
        @dataclass
        class Email:
            to: str
            copies: list[str]

        queue: Queue[Email] = bench.another_queue("q", payload=Email)
        await queue.add("welcome", Email("ada@example.com", ["bob@example.com"]))
        recorder = Recorder()

        await bench.run(recorder, payload=Email)

        assert recorder.data == [Email("ada@example.com", ["bob@example.com"])]

    @pytest.mark.parametrize(("given", "form"), FORMS, ids=lambda value: type(value).__name__)
    async def test_data_and_results_that_are_no_json_come_back_as_what_stands_for_them(
        self, bench: Bench, given: Any, form: Any
    ) -> None:
        job = await bench.queue.add("work", {"a": [given]})
        recorder = Recorder(result=given)

        await bench.run(recorder)

        assert recorder.data == [{"a": [form]}]
        assert type(recorder.data[0]["a"][0]) is type(form)
        found = await bench.queue.get_job(job.id)
        assert found is not None
        assert (job.data, found.data, found.return_value) == ({"a": [form]}, {"a": [form]}, form)

    @pytest.mark.parametrize("data", TYPED, ids=lambda value: type(value).__name__)
    async def test_typed_data_that_is_taken_comes_back_equal(self, bench: Bench, data: Any) -> None:
        queue: Queue[Any] = bench.another_queue("q", payload=type(data))
        job = await queue.add("work", data)
        recorder = Recorder()

        await bench.run(recorder, payload=type(data))

        assert [job.data, *recorder.data] == [data, data]

    @pytest.mark.parametrize("data", CHANGED, ids=lambda value: type(value).__name__)
    async def test_typed_data_that_would_come_back_changed_is_refused(self, bench: Bench, data: Any) -> None:
        queue: Queue[Any] = bench.another_queue("q", payload=type(data))

        with pytest.raises(PayloadError, match=r"^\$\.letter"):
            await queue.add("work", data)

        assert await queue.count() == 0

    async def test_typed_results_come_back_typed(self, bench: Bench) -> None:
        queue: Queue[Any, Letter] = bench.another_queue("q", result=Letter)
        jobs = [await queue.add(name) for name in ("said", "given", "as it is")]

        async def said(_: Job[Any]) -> Letter:
            return Letter(1)

        async def given(_: Job[Any]) -> Any:
            return {"weight": 2}

        async def as_it_is(_: Job[Any]) -> Shipment:
            return Letter(3)  # type: ignore[return-value]

        await bench.run({"said": said})
        await bench.run({"given": given}, result=Letter)
        await bench.run({"as it is": as_it_is})

        letters = [Letter(1), Letter(2), Letter(3)]
        assert [await job.wait_until_finished() for job in jobs] == letters
        assert [(await job.refresh()).return_value for job in jobs] == letters
        plain = [await bench.queue.get_job(job.id) for job in jobs]
        assert [job and job.return_value for job in plain] == [{"weight": 1}, {"weight": 2}, {"weight": 3}]

    async def test_results_and_data_that_a_handler_writes_have_the_workers_limits(self, bench: Bench) -> None:
        async def handler(job: Job[Any]) -> str:
            with pytest.raises(PayloadError, match="12 bytes as JSON; at most 11"):
                await job.update_data("x" * 10)
            await job.update_data("x" * 9)
            return "x" * (2 * len(job.data))

        job = await bench.queue.add("work")
        await bench.run(handler, max_payload_bytes=11, max_result_bytes=19)

        await job.refresh()
        assert (job.state, job.data) == (JobState.FAILED, "x" * 9)
        assert "20 bytes as JSON; at most 19" in (job.failed_reason or "")
        assert job.attempt_history[-1].error_type == "UnserialisableResultError"

    async def test_every_handler_of_a_mapping_gets_the_type_it_names(self, bench: Bench) -> None:
        seen: dict[str, Any] = {}

        async def letter(job: Job[Letter]) -> None:
            seen[job.name] = job.data

        async def shipment(job: Job[Shipment]) -> None:
            seen[job.name] = job.data

        async def untyped(job: Job[Any]) -> None:
            seen[job.name] = job.data

        await bench.queue.add_bulk(
            [NewJob(name, {"weight": 2}) for name in ("letter", "shipment", "untyped")]
        )
        await bench.run({"letter": letter, "shipment": shipment, "untyped": untyped})

        assert seen == {"letter": Letter(2), "shipment": Shipment(2.0), "untyped": {"weight": 2}}
        assert [type(seen[name]) for name in seen] == [Letter, Shipment, dict]

    async def test_instants_and_durations_of_any_subclass_are_taken_as_plain_ones(self, bench: Bench) -> None:
        hour, ten = Span(hours=1), Moment(2026, 3, 2, 12, tzinfo=timezone(timedelta(hours=2)))
        backoff = Backoff([hour, hour])
        jobs = [
            await bench.queue.add("work", delay=hour, timeout=hour, backoff=backoff, attempts=2),
            await bench.queue.schedule(hour, "work", remove_on_complete=Keep(age=hour)),
            await bench.queue.add("work", run_at=ten, remove_on_fail=hour),
        ]
        assert [job.delay_until for job in jobs] == [datetime(2026, 3, 2, 10, tzinfo=UTC)] * 3
        assert jobs[0].options.timeout == timedelta(hours=1)
        assert [await bench.queue.clean("delayed", grace=hour), await bench.state(jobs[0])] == [0, "delayed"]

        await bench.later(timedelta(hours=1))
        await bench.run()

        assert [await bench.state(job) for job in jobs] == [JobState.COMPLETED] * 3

    async def test_a_schedule_takes_instants_and_durations_of_any_subclass(self, bench: Bench) -> None:
        hour, zone = Span(hours=1), timezone(timedelta(hours=2))
        start, end = Moment(2026, 3, 2, 11, tzinfo=zone), Moment(2026, 3, 2, 13, 30, tzinfo=zone)

        made = await bench.queue.every(hour, "work", key="k", start=start, end=end)
        assert await bench.queue.get_schedule("k") == made
        assert (made.every, made.next_run_at) == (timedelta(hours=1), datetime(2026, 3, 2, 10, tzinfo=UTC))
        recorder = Recorder()
        for _ in range(4):
            await bench.later(timedelta(hours=1))
            await bench.run(recorder)

        assert len(recorder.ids) == 2
