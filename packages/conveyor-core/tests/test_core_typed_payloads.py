"""Payloads with a type: what is taken comes back equal, and all else is refused with its path."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    Secret,
    SecretBytes,
    SecretStr,
    SerializeAsAny,
    TypeAdapter,
    computed_field,
    field_serializer,
    model_serializer,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from conveyor.core import InvalidOptionError, PayloadError, Queue
from conveyor.core._jobs.payload import MAX_BYTES, Payload, decode
from conveyor.core.testing import FaultyStore


class Colour(Enum):
    RED = 1


class Size(StrEnum):
    LARGE = "large"


class Point(NamedTuple):
    x: int
    y: int


class Base(BaseModel):
    n: int = 0


class Derived(Base):
    more: str = "more"


class Same(Base):
    pass


class Everything(BaseModel):
    at: datetime
    day: date
    span: timedelta
    id: UUID
    price: Decimal
    colour: Colour
    size: Size
    point: Point
    names: set[str]
    by_number: dict[int, Base | None]
    either: int | str | list[Decimal]
    text: bytes
    raw: list[int]
    anything: Any


class Secrets(BaseModel):
    model_config = ConfigDict(frozen=True)

    password: SecretStr
    key: SecretBytes
    day: Secret[date]
    by_name: dict[int, list[SecretStr]]
    shown: Annotated[SecretStr, PlainSerializer(lambda value: value.get_secret_value())]


class Renamed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    plain: int = Field(alias="plainAlias")
    validated: int = Field(validation_alias="in")
    serialised: int = Field(serialization_alias="out")
    differing: int = Field(validation_alias="one", serialization_alias="other")
    choices: int = Field(validation_alias=AliasChoices("first", AliasPath("second", 0)))

    @computed_field
    def total(self) -> int:
        return self.plain + self.validated


class Private(BaseModel):
    n: int
    _seen: str = PrivateAttr(default_factory=lambda: secrets.token_hex(8))


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")


class Base64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    data: bytes


class Movie(TypedDict, total=False):
    title: str
    at: datetime


@dataclass
class Parcel:
    weight: float
    at: datetime | None = None
    seen: str = field(default_factory=lambda: secrets.token_hex(8), compare=False)


@dataclass(eq=False)
class NoEquality:
    n: int


@pydantic_dataclass
class Checked:
    n: int
    name: str = Field(validation_alias="called")


class Money:
    """A class that has no idea of equality, and tells pydantic how to go about it."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __repr__(self) -> str:
        return f"Money({self.cents})"


MONEY = Annotated[
    Money,
    BeforeValidator(lambda value: value if isinstance(value, Money) else Money(value)),
    PlainSerializer(lambda value: value.cents),
]


class Purse(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    money: MONEY


RENAMED = Renamed.model_validate({"plainAlias": 1, "in": 2, "serialised": 3, "one": 4, "first": 5})
TWICE = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=1)

KEPT: list[tuple[Any, Any]] = [
    (
        Everything,
        Everything(
            at=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
            day=date(2026, 1, 2),
            span=timedelta(days=1, microseconds=5),
            id=UUID(int=7),
            price=Decimal("1.50"),
            colour=Colour.RED,
            size=Size.LARGE,
            point=Point(1, 2),
            names={"b", "a"},
            by_number={1: Base(n=2), 2: None},
            either=[Decimal(1)],
            text=b"abc",
            raw=[1, 2],
            anything={"a": [1, None, 1.5]},
        ),
    ),
    (
        Secrets,
        Secrets(
            password=SecretStr("hunter2"),
            key=SecretBytes(b"key"),
            day=Secret(date(2026, 1, 2)),
            by_name={1: [SecretStr("a"), SecretStr("b")], 2: []},
            shown=SecretStr("seen"),
        ),
    ),
    (SecretStr, SecretStr("hunter2")),
    (list[SecretBytes], [SecretBytes(b"hunter2")]),
    (Renamed, RENAMED),
    (Extra, Extra.model_validate({"a": 1, "b": [1, {"c": None}]})),
    (Base64, Base64(data=b"\xff\xfe")),
    (Movie, {"title": "Metropolis", "at": datetime(1927, 1, 10, tzinfo=UTC)}),
    (Parcel, Parcel(1.5, datetime(2026, 1, 2, tzinfo=UTC))),
    (Checked, TypeAdapter(Checked).validate_python({"n": 1, "called": "a"})),
    (bytes, b"\xff\xfe"),
    (dict[str, bytes], {"a": b"\xff"}),
    (int | None, None),
    (SerializeAsAny[Base], Base(n=1)),
]


@pytest.mark.parametrize(("kind", "value"), KEPT, ids=lambda value: getattr(value, "__name__", ""))
async def test_what_is_taken_comes_back_equal(store: FaultyStore, kind: Any, value: Any) -> None:
    queue: Queue[Any] = Queue("q", store, payload=kind)

    job = await queue.add("a", value)

    found = await queue.get_job(job.id)
    assert found is not None
    for data in (job.data, found.data):
        assert type(data) is type(value)
        assert data == value


#: No `==` of theirs says so, but they are the same.
ALIKE: list[tuple[Any, Any, Callable[[Any], Any]]] = [
    (Private, Private(n=1), lambda private: private.n),
    (NoEquality, NoEquality(3), lambda one: one.n),
    (list[NoEquality], [NoEquality(3)], lambda many: [one.n for one in many]),
    (Purse, Purse(money=Money(100)), lambda purse: purse.money.cents),
    (datetime, TWICE, lambda instant: instant.astimezone(UTC)),
    (Parcel, Parcel(1, TWICE), lambda parcel: parcel.at.astimezone(UTC)),
]


@pytest.mark.parametrize(("kind", "value", "what"), ALIKE)
async def test_what_has_no_equality_comes_back_alike(
    store: FaultyStore, kind: Any, value: Any, what: Callable[[Any], Any]
) -> None:
    queue: Queue[Any] = Queue("q", store, payload=kind)

    job = await queue.add("a", value)

    assert type(job.data) is type(value)
    assert what(job.data) == what(value)


def test_a_secret_is_stored_in_clear_and_never_shown() -> None:
    payload: Payload[Any] = Payload(Secrets)
    [value] = [value for kind, value in KEPT if kind is Secrets]

    text = payload.encode(value, MAX_BYTES)

    assert decode(text)["password"] == "hunter2"
    assert payload.decode(text) == value
    assert "hunter2" not in repr(payload.decode(text))


def test_data_by_its_aliases_is_read_too() -> None:
    """As an untyped producer writes it, or one in another language."""
    payload: Payload[Any] = Payload(Renamed)

    by_alias = payload.decode('{"plainAlias":1,"in":2,"serialised":3,"one":4,"second":[5]}')

    assert by_alias == RENAMED


class Holds(BaseModel):
    items: list[Base] = []
    any_of: Any = None


@dataclass
class HoldsToo:
    item: Base


@dataclass
class MoreParcel(Parcel):
    more: int = 0


class Excludes(BaseModel):
    token: str = Field(default="", exclude=True)


class Shouts(BaseModel):
    text: str

    @field_serializer("text")
    def shout(self, text: str) -> str:
        return text.upper()


class Salted(BaseModel):
    hashed: Annotated[str, AfterValidator(lambda text: f"salted {text}")]


class Whole(BaseModel):
    n: int

    @model_serializer
    def whole(self) -> int:
        return self.n


class Required(BaseModel):
    token: str = Field(exclude=True)


class Assigned(BaseModel):
    n: int


def assigned() -> Assigned:
    one = Assigned(n=1)
    one.n = "text"  # type: ignore[assignment]
    return one


REFUSED: list[tuple[Any, Any, str, str]] = [
    (Base, Derived(n=1), "$", "Derived, and would come back as Base"),
    (Base, Same(n=1), "$", "Same, and would come back as Base"),
    (SerializeAsAny[Base], Derived(n=1), "$", "Derived, and would come back as Base"),
    (Holds, Holds(items=[Base(), Derived()]), "$.items[1]", "Derived, and would come back as Base"),
    (dict[str, list[Base]], {"a": [Derived()]}, "$.a[0]", "Derived"),
    (HoldsToo, HoldsToo(Derived()), "$.item", "Derived"),
    (Parcel, MoreParcel(1), "$", "MoreParcel"),
    (Holds, Holds(any_of={"a": [(1, 2)]}), "$.any_of.a[0]", "tuple, and would come back as list"),
    (Holds, Holds(any_of=[Base()]), "$.any_of[0]", "Base, and would come back as dict"),
    (Holds, Holds(any_of=Decimal(1)), "$.any_of", "Decimal, and would come back as str"),
    (Excludes, Excludes(token="secret-7"), "$.token", "excluded"),
    (Required, Required(token="secret-7"), "$.token", "Field required"),
    (Shouts, Shouts(text="secret-7"), "$.text", "serialiser"),
    (Salted, {"hashed": "secret-7"}, "$.hashed", "validator"),
    (Whole, Whole(n=7), "$", "could not be read back"),
    (Assigned, assigned(), "$.n", "valid integer"),
    (float, float("nan"), "$", "finite"),
    (Holds, Holds(any_of=["\ud800"]), "$.any_of[0]", "surrogate"),
    (Holds, Holds(any_of={"a\x00": 1}), "$.any_of", "NUL"),
]


@pytest.mark.parametrize(("kind", "value", "path", "reason"), REFUSED)
async def test_what_would_come_back_as_something_else_is_refused(
    store: FaultyStore, kind: Any, value: Any, path: str, reason: str
) -> None:
    queue: Queue[Any] = Queue("q", store, payload=kind)
    store.calls.clear()

    with pytest.raises(PayloadError, match=reason) as caught:
        await queue.add("a", value)

    assert caught.value.path == path
    assert "secret-7" not in str(caught.value)
    assert store.calls == []


async def test_what_a_handler_replaces_is_held_to_the_same(store: FaultyStore) -> None:
    queue: Queue[Any] = Queue("q", store, payload=Base)
    job = await queue.add("a", Base(n=1))

    with pytest.raises(PayloadError, match="Derived"):
        await job.update_data(Derived(n=2))

    assert (await job.refresh()).data == Base(n=1)


class Raises(BaseModel):
    parts: dict[str, list[Part]]


class Part(BaseModel):
    name: str
    data: bytes = b""
    any_of: Any = None

    @field_serializer("name")
    def named(self, name: str) -> str:
        if name == "boom":
            raise RuntimeError("a serialiser with a bug")
        return name


def parts(*fields: dict[str, Any], among: int = 1) -> Raises:
    fine = [Part(name="fine") for _ in range(among)]
    return Raises(parts={"a": fine, "b": [*fine, *(Part(**one) for one in fields), *fine], "c": []})


class Hostile(list[int]):
    def __iter__(self) -> Any:
        raise RuntimeError("no")


@dataclass
class Unfinished:
    n: int = field(init=False)


def fails(_: object) -> Any:
    raise RuntimeError("a validator with a bug")


RAISED: list[tuple[Any, Callable[[], Any], str, str]] = [
    (Raises, lambda: parts({"name": "ok", "data": b"\xff"}), "$.parts.b[1].data", "not UTF-8.*base64"),
    (Raises, lambda: parts({"name": "ok", "any_of": object()}), "$.parts.b[1].any_of", "object"),
    (
        Raises,
        lambda: parts({"name": "ok", "any_of": {"x": [1, 1j, print]}}),
        "$.parts.b[1].any_of.x[2]",
        "print|func",
    ),
    (Raises, lambda: parts({"name": "boom"}), "$.parts.b[1].name", "a serialiser with a bug"),
    (Raises, lambda: parts({"name": "boom"}, among=999), "$.parts.b[999].name", "a serialiser with a bug"),
    (Annotated[int, AfterValidator(fails)], lambda: 1, "$", "a validator with a bug"),
    (Annotated[int, PlainSerializer(fails)], lambda: 1, "$", "a validator with a bug"),
    (None, lambda: {"a": [Hostile((1,))]}, "$", "RuntimeError"),
    (None, lambda: {"a": [Unfinished()]}, "$.a[0]", "AttributeError"),
    (None, lambda: {"a": parts({"name": "boom"})}, "$.a.parts.b[1].name", "a serialiser with a bug"),
    (None, lambda: [SecretStr("x")], "$[0]", "SecretStr is not JSON"),
    (None, lambda: [Parcel(float("inf"))], "$[0].weight", "finite"),
    (None, lambda: {"a": {frozenset({1j})}}, "$.a", "complex"),
]


@pytest.mark.parametrize(("kind", "make", "path", "reason"), RAISED)
async def test_whatever_a_value_raises_add_raises_a_payload_error_with_its_path(
    store: FaultyStore, kind: Any, make: Callable[[], Any], path: str, reason: str
) -> None:
    queue: Queue[Any] = Queue("q", store, payload=kind)
    store.calls.clear()

    with pytest.raises(PayloadError, match=reason) as caught:
        await queue.add("a", make())

    assert caught.value.path == path
    assert store.calls == []


class Later(BaseModel):
    other: NeverDefined  # type: ignore[name-defined]  # noqa: F821


def test_a_model_that_is_never_finished_is_refused_when_it_is_used(store: FaultyStore) -> None:
    """What its annotations name may be defined after the queue is."""
    queue: Queue[Any] = Queue("q", store, payload=Later)

    with pytest.raises(PayloadError, match="not fully defined"):
        asyncio.run(queue.add("a", {"other": 1}))


class Hooked:
    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> Any:
        raise RuntimeError("a hook with a bug")


@pytest.mark.parametrize("kind", [Hooked, list[Hooked]])
def test_a_type_that_cannot_be_used_is_refused_whatever_it_raises(store: FaultyStore, kind: Any) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Queue("q", store, payload=kind)

    assert caught.value.option == "payload"
