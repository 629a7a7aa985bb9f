"""What a handler's annotations say of its jobs' data."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import pytest
from pydantic import BaseModel
from typing_extensions import TypeAliasType

from conveyor.core import Batch, InvalidOptionError, Job, NewJob, Queue, Worker
from conveyor.store.memory import MemoryStore

if TYPE_CHECKING:
    from fractions import Fraction as Late
    from types import SimpleNamespace as Unknown

    from conveyor import core

MakeWorker = Callable[..., Worker[Any]]
T = TypeVar("T")


class Email(BaseModel):
    to: str


@dataclass
class Parcel:
    weight: float


EmailJob = TypeAliasType("EmailJob", Job[Email])
JobOf = TypeAliasType("JobOf", Job[T], type_params=(T,))


def kind(job: Any) -> str:
    return type(job.data).__name__


async def email(job: Job[Email]) -> str:
    return kind(job)


async def parcel(job: Job[Parcel]) -> str:
    return kind(job)


async def untyped(job: Any) -> str:
    return kind(job)


async def bare(job: Job) -> str:
    return kind(job)


async def of_anything(job: Job[T]) -> str:
    return kind(job)


async def with_more(prefix: Unknown, job: Job[Email]) -> str:
    assert prefix
    return kind(job)


async def with_default(job: Job[Email], after: Unknown | None = None) -> Unknown:
    return [kind(job), after]  # type: ignore[return-value]


async def or_none(job: Job[Email] | None) -> str:
    return kind(job)


async def annotated(job: Annotated[Job[Email], "a note"]) -> str:
    return kind(job)


async def by_alias(job: EmailJob) -> str:
    return kind(job)


async def by_generic_alias(job: JobOf[Email]) -> str:
    return kind(job)


async def by_text(job: Job["Email"]) -> str:  # noqa: UP037 - that is what is tested
    return kind(job)


async def any_number(*jobs: Job[Email]) -> str:
    return kind(jobs[0])


def plain(job: Job[Email]) -> str:
    return kind(job)


class Sender:
    async def __call__(self, job: Job[Email]) -> str:
        return kind(job)

    async def send(self, job: Job[Email]) -> str:
        return kind(job)

    @classmethod
    async def of_class(cls, job: Job[Email]) -> str:
        return kind(job)

    @staticmethod
    async def static(job: Job[Email]) -> str:
        return kind(job)


def logged(handler: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(handler)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await handler(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    ("handler", "result"),
    [
        (email, "Email"),
        (plain, "Email"),
        (functools.partial(with_more, SimpleNamespace(n=1)), "Email"),
        (functools.partial(functools.partial(with_more), SimpleNamespace(n=1)), "Email"),
        (with_default, ["Email", None]),
        (or_none, "Email"),
        (annotated, "Email"),
        (by_alias, "Email"),
        (by_generic_alias, "Email"),
        (by_text, "Email"),
        (any_number, "Email"),
        (Sender(), "Email"),
        (Sender().send, "Email"),
        (Sender.of_class, "Email"),
        (Sender.static, "Email"),
        (logged(email), "Email"),
        (functools.partial(logged(with_more), SimpleNamespace(n=1)), "Email"),
        (untyped, "dict"),
        (bare, "dict"),
        (of_anything, "dict"),
        (kind, "dict"),
    ],
)
async def test_the_annotation_of_the_job_is_the_type_of_its_data(
    queue: Queue[Any], worker: MakeWorker, handler: Any, result: Any
) -> None:
    job = await queue.add("a", {"to": "ada"})

    await worker(handler).run_until_idle()

    assert (await job.refresh()).return_value == result


async def test_a_name_that_is_imported_for_type_checkers_only_stands_in_no_ones_way(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    """Ruff's rules move `Job` under TYPE_CHECKING, too."""
    names: dict[str, Any] = {"Email": Email}
    exec(  # noqa: S102 - a module in which Job, Sequence and Any do not exist
        "from __future__ import annotations\n"
        "async def one(job: Job[Email]) -> Any: return type(job.data).__name__\n"
        "async def many(jobs: Sequence[Job[Email]]) -> Any: return [type(j.data).__name__ for j in jobs]\n"
        "async def none(job: Job[Any]) -> Any: return type(job.data).__name__\n",
        names,
    )
    jobs = [await queue.add("a", {"to": "ada"}) for _ in range(3)]

    await worker(names["one"], prefetch=0, concurrency=1).run_until_idle()
    assert [(await job.refresh()).return_value for job in jobs] == ["Email"] * 3

    jobs = [await queue.add("a", {"to": "ada"}) for _ in range(3)]
    await worker(names["many"], batch=Batch(3)).run_until_idle()
    assert [(await job.refresh()).return_value for job in jobs] == ["Email"] * 3

    job = await queue.add("a", {"to": "ada"})
    await worker(names["none"]).run_until_idle()
    assert (await job.refresh()).return_value == "dict"


async def test_a_type_that_is_local_to_a_function_is_found_where_the_handler_uses_it(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    class Local(BaseModel):
        to: str

    async def handler(job: Job[Local]) -> bool:
        return isinstance(job.data, Local)

    job = await queue.add("a", {"to": "ada"})
    await worker(handler).run_until_idle()

    assert (await job.refresh()).return_value is True


async def late(job: Job[Late]) -> None:
    raise AssertionError(job)


async def late_batch(jobs: list[Job[Late]]) -> None:
    raise AssertionError(jobs)


async def qualified(job: core.Job[Email]) -> None:
    raise AssertionError(job)


def with_local_type() -> Any:
    class Local(BaseModel):
        to: str

    async def handler(job: Job[Local]) -> None:
        raise AssertionError(job)

    return handler


@pytest.mark.parametrize(
    "handler",
    [late, late_batch, qualified, with_local_type(), functools.partial(late), {"a": email, "b": late}],
)
def test_a_typed_annotation_that_cannot_be_resolved_is_refused(worker: MakeWorker, handler: Any) -> None:
    with pytest.raises(
        InvalidOptionError, match=r"Job\[.*is not defined; give the worker payload="
    ) as caught:
        worker(handler)

    assert caught.value.option == "handler"


async def test_with_a_payload_type_given_the_annotation_is_not_looked_at(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    seen: list[Any] = []

    async def handler(job: Job[Late]) -> None:
        seen.append(job.data)

    await queue.add("a", {"to": "ada"})
    await worker(handler, payload=Email).run_until_idle()

    assert seen == [Email(to="ada")]


async def test_an_annotation_that_names_no_job_and_cannot_be_resolved_says_nothing(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    async def handler(job: Late) -> str:
        return kind(job)

    job = await queue.add("a", {"to": "ada"})
    await worker(handler).run_until_idle()

    assert (await job.refresh()).return_value == "dict"


async def test_every_name_of_a_mapping_has_the_type_of_its_own_handler(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    names = {"email": {"to": "ada"}, "parcel": {"weight": 1.5}, "untyped": {"to": "ada"}}
    jobs = await queue.add_bulk([NewJob(name, data) for name, data in names.items()])

    await worker({"email": email, "parcel": parcel, "untyped": untyped}, concurrency=3).run_until_idle()

    assert [(await job.refresh()).return_value for job in jobs] == ["Email", "Parcel", "dict"]


async def test_a_handler_of_two_types_takes_either(queue: Queue[Any], worker: MakeWorker) -> None:
    async def handler(job: Job[Email] | Job[Parcel]) -> str:
        return kind(job)

    jobs = await queue.add_bulk([NewJob("a", {"to": "ada"}), NewJob("a", {"weight": 1.5})])
    await worker(handler, concurrency=2).run_until_idle()

    assert [(await job.refresh()).return_value for job in jobs] == ["Email", "Parcel"]


async def test_the_data_that_a_handler_replaces_is_of_its_own_type(
    queue: Queue[Any], worker: MakeWorker
) -> None:
    async def handler(job: Job[Parcel]) -> None:
        await job.update_data(Parcel(2.5))

    job = await queue.add("b", {"weight": 1.5})
    await worker({"a": email, "b": handler}).run_until_idle()

    assert (await job.refresh()).data == {"weight": 2.5}


def test_a_type_that_pydantic_does_not_know_is_refused_for_any_name() -> None:
    async def handler(job: Job[threading.Lock]) -> None:
        raise AssertionError(job)

    with pytest.raises(InvalidOptionError) as caught:
        Worker("q", {"a": email, "b": handler}, MemoryStore())

    assert caught.value.option == "payload"
