"""Dataclasses as JSON documents. What a later release has added to one is passed over when it is read."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def encode(value: object) -> str:
    """JSON text of a dataclass: of what differs from its defaults."""
    return _adapter(type(value)).serializer.to_json(value, exclude_defaults=True).decode()


def decode(kind: type[T], text: str) -> T:
    """The dataclass of JSON text. Raises ValueError, with the place, for what is none."""
    try:
        found: T = _adapter(kind).validator.validate_json(text)
    except ValidationError as error:
        raise ValueError(": ".join(first_of(error))) from None
    return found


def plain(value: object, only: set[str]) -> dict[str, Any]:
    """These fields of a dataclass, where they differ from its defaults, as JSON has them."""
    found: dict[str, Any] = _adapter(type(value)).serializer.to_python(
        value, mode="json", exclude_defaults=True, include=only
    )
    return found


def from_plain(kind: type[T], value: object) -> T:
    """The dataclass of what JSON has. Raises ValueError, with the place, for what is none."""
    try:
        found: T = _adapter(kind).validator.validate_python(value)
    except ValidationError as error:
        raise ValueError(": ".join(first_of(error))) from None
    return found


def first_of(error: ValidationError) -> tuple[str, str]:
    """Where and what is wrong; never the value itself, which may be a secret."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return "$" + "".join(step(at) for at in first["loc"]), first["msg"]


def step(key: object) -> str:
    """A step of a path: an index, or a key."""
    return f"[{key}]" if isinstance(key, int) else f".{key}"


# Its own `dump_json` and `validate_json` take as long again as the work itself, for a document of this size.
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    found = _adapters.get(kind)
    if found is None:
        found = _adapters[kind] = TypeAdapter(kind)
    return found


#: Made when they are first needed: each takes milliseconds.
_adapters: Final[dict[type[Any], TypeAdapter[Any]]] = {}
