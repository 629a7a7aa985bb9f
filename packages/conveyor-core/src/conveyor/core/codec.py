"""User data as JSON text, checked once, so that every store gives back the same.

Taken: None, booleans, finite floats, integers of up to 4,300 digits, strings of valid Unicode without NUL,
lists and tuples, and dictionaries with such strings as keys; 64 levels deep at most. Tuples come back as
lists.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import from_json, to_json

from conveyor.core.errors import InvalidOptionError, PayloadError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")

MAX_DEPTH: Final = 64
MAX_BYTES: Final = 1_048_576

#: What Python reads back from text unless told otherwise: sys.int_info.default_max_str_digits.
_LARGEST: Final = 10**4_300


def encode(value: object, *, max_bytes: int = MAX_BYTES, root: str = "$") -> str:
    """JSON text of a value.

    Raises PayloadError, with the path of what is wrong, for anything that JSON cannot carry
    faithfully, and for text of more than `max_bytes` bytes of UTF-8.
    """
    _check(value, root, 0)
    text = to_json(value)
    if len(text) > max_bytes:
        raise PayloadError(root, f"it is {len(text):,} bytes as JSON; at most {max_bytes:,} are allowed")
    return text.decode()


def decode(text: str) -> Any:
    """The value of JSON text.

    Raises ValueError for text that is not JSON.
    """
    return from_json(text)


def fingerprint(*parts: str) -> str:
    """A short text that is the same for the same parts, and for no others."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8) + encoded)
    return digest.hexdigest()


def canonical(text: str) -> str:
    """JSON text that is the same for equal values, whatever the order of their keys."""
    return to_json(_sorted(from_json(text))).decode()


class Payload(Generic[T]):
    """What the data of a queue's jobs are: any JSON, or a type that pydantic can validate."""

    def __init__(self, kind: Any = None) -> None:
        """Take any JSON (None), or instances of `kind`: as a model, a dataclass or a TypedDict.

        Raises InvalidOptionError for a type that pydantic cannot validate.
        """
        try:
            self._adapter: TypeAdapter[T] | None = None if kind is None else TypeAdapter(kind)
        except (PydanticUserError, PydanticUndefinedAnnotation) as error:
            allowed = (
                f"use a model, a dataclass, a TypedDict or another type that pydantic takes: {error.message}"
            )
            raise InvalidOptionError("payload", kind, allowed) from error

    def encode(self, data: object, max_bytes: int) -> str:
        """Validate and encode a job's data.

        Raises PayloadError if it does not fit the type, or is not JSON.
        """
        if self._adapter is None:
            return encode(data, max_bytes=max_bytes)
        try:
            valid = self._adapter.validate_python(data)
        except ValidationError as error:
            raise PayloadError(*_first_of(error)) from None
        return encode(self._adapter.dump_python(valid, mode="json", by_alias=True), max_bytes=max_bytes)

    def decode(self, text: str) -> T:
        """A job's data from its JSON text.

        Raises PayloadError if it is not JSON or does not fit the type.
        """
        try:
            if self._adapter is None:
                return decode(text)  # type: ignore[no-any-return]
            return self._adapter.validate_json(text)
        except ValidationError as error:
            raise PayloadError(*_first_of(error)) from None
        except ValueError as error:
            raise PayloadError("$", f"the stored text is not JSON: {error}") from None


def _first_of(error: ValidationError) -> tuple[str, str]:
    """Where and what is wrong; never the value itself, which may be a secret."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path = "$" + "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in first["loc"])
    return path, first["msg"]


def _check(value: object, path: str, depth: int) -> None:
    match value:
        case None:
            return
        case int():
            _check_integer(value, path)
        case str():
            _check_text(value, path)
        case float():
            if not math.isfinite(value):
                raise PayloadError(path, f"{value} is not JSON; use a finite number or None")
        case dict():
            _check_mapping(value, path, depth)
        case list() | tuple():
            _check_sequence(value, path, depth)
        case _:
            raise PayloadError(
                path, f"{type(value).__name__} is not JSON; convert it, or give the queue a payload type"
            )


def _check_sequence(value: Sequence[object], path: str, depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise PayloadError(path, f"it is nested more than {MAX_DEPTH} levels deep")
    for index, item in enumerate(value):
        # Long lists of numbers are common: no path is made for what is fine.
        if type(item) is not int or not -_LARGEST < item < _LARGEST:
            _check(item, f"{path}[{index}]", depth + 1)


def _check_mapping(value: Mapping[object, object], path: str, depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise PayloadError(path, f"it is nested more than {MAX_DEPTH} levels deep")
    for key, item in value.items():
        if not isinstance(key, str):
            raise PayloadError(path, f"the key {key!r} is not a string, as JSON's keys are")
        _check_text(key, path)
        _check(item, f"{path}.{key}", depth + 1)


def _check_integer(value: int, path: str) -> None:
    if not -_LARGEST < value < _LARGEST:
        raise PayloadError(path, "the integer has more than 4,300 digits, which cannot be read back")


def _check_text(text: str, path: str) -> None:
    if text.isascii():
        if "\x00" in text:
            raise PayloadError(path, "it contains NUL, which not every store can keep")
        return
    if "\x00" in text:
        raise PayloadError(path, "it contains NUL, which not every store can keep")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PayloadError(path, "it contains a lone surrogate, which is not valid Unicode") from None


def _sorted(value: Any) -> Any:
    match value:
        case dict():
            return {key: _sorted(value[key]) for key in sorted(value)}
        case list():
            return [_sorted(item) for item in value]
        case _:
            return value
