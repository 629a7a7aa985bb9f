"""User data as JSON text, checked once, so that every store gives back the same.

Taken as they are: None, booleans, finite floats, integers of up to 4,300 digits, strings of valid Unicode
without NUL, lists, and dictionaries with such strings as keys; 64 levels deep at most. Some other values are
taken as JSON that stands for them (`_stand_in`, and the table in docs/jobs.md); they come back as that JSON.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
from contextlib import suppress
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic_core import from_json, to_json, to_jsonable_python

from conveyor.core._jobs import typed_payload
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

    Raises PayloadError, with the path of what is wrong, for anything that JSON cannot carry, and for text
    of more than `max_bytes` bytes of UTF-8.
    """
    try:
        text = to_json(_plain(value, root, 0))
    except PayloadError:
        raise
    except Exception as error:  # a value of the user's own class may raise anything
        raise PayloadError(root, f"it cannot be written as JSON: {error!r}") from error
    return _sized(text, max_bytes, root)


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

    def __init__(self, kind: Any = None, option: str = "payload") -> None:
        """Take any JSON (None), or instances of `kind`: as a model, a dataclass or a TypedDict.

        Raises InvalidOptionError, naming `option`, for a type that pydantic cannot validate.
        """
        self._adapter: TypeAdapter[T] | None = None
        if kind is None:
            return
        # Pydantic makes something else of these: what the name may mean, and the function's arguments.
        if isinstance(kind, str) or inspect.isroutine(kind):
            raise InvalidOptionError(
                option, kind, "give the type itself: a model, a dataclass, a TypedDict, …"
            )
        try:
            self._adapter = typed_payload.adapter_of(kind)
        except Exception as error:  # pydantic raises much, and a type may have a hook that raises anything
            allowed = f"use a model, a dataclass, a TypedDict or another type that pydantic takes: {error}"
            raise InvalidOptionError(option, kind, allowed) from error

    def encode(self, data: object, max_bytes: int, root: str = "$") -> str:
        """Validate and encode a job's data, or its result.

        Raises PayloadError if it does not fit the type, is not JSON, or would come back as something else.
        """
        if self._adapter is None:
            return encode(data, max_bytes=max_bytes, root=root)
        return self._written(typed_payload.validated(self._adapter, data, root), max_bytes, root)

    def encode_as_it_is(self, value: object, max_bytes: int, root: str) -> str:
        """Encode a value that may be of the type; one that is not goes by what it is.

        Raises PayloadError if it is not JSON in either way.
        """
        if self._adapter is not None:
            with suppress(PayloadError):
                return self._written(value, max_bytes, root)
        return encode(value, max_bytes=max_bytes, root=root)

    def _written(self, value: object, max_bytes: int, root: str) -> str:
        assert self._adapter is not None  # noqa: S101 - for type checkers
        try:
            _, text = typed_payload.written(self._adapter, value, root, _checked)
        except PayloadError:
            raise
        except Exception as error:  # a value of the user's own class may raise anything
            raise PayloadError(root, f"it cannot be written as JSON: {error!r}") from error
        return _sized(text, max_bytes, root)

    def decode(self, text: str) -> T:
        """A job's data from its JSON text.

        Raises PayloadError if it is not JSON or does not fit the type.
        """
        if self._adapter is not None:
            return typed_payload.read(self._adapter, text)  # type: ignore[no-any-return]
        try:
            return decode(text)  # type: ignore[no-any-return]
        except ValueError as error:
            raise PayloadError("$", f"the stored text is not JSON: {error}") from None

    def of_json(self, value: Any) -> T:
        """What a value is that was stored as part of a larger document.

        Raises PayloadError if it does not fit the type.
        """
        return value if self._adapter is None else typed_payload.read(self._adapter, to_json(value))  # type: ignore[no-any-return]


def _sized(text: bytes, max_bytes: int, root: str) -> str:
    if len(text) > max_bytes:
        raise PayloadError(root, f"it is {len(text):,} bytes as JSON; at most {max_bytes:,} are allowed")
    return text.decode()


def _checked(value: object, path: str) -> Any:
    return _plain(value, path, 0)


def _plain(value: object, path: str, depth: int) -> Any:
    """The value as JSON has it: itself, if that is what it is."""
    match value:
        case None:
            pass
        case int():
            _check_integer(value, path)
        case str():
            _check_text(value, path)
        case float():
            if not math.isfinite(value):
                raise PayloadError(path, f"{value} is not JSON; use a finite number or None")
        case dict():
            return _plain_mapping(value, path, depth)
        case list() | tuple():
            return _plain_sequence(value, path, depth)
        case _:
            try:
                other = _stand_in(value, path)
            except PayloadError:
                raise
            except Exception as error:  # a class of the user's may raise anything
                raise PayloadError(path, f"it cannot be written as JSON: {error!r}") from error
            return _plain(other, path, depth)
    return value


def _stand_in(value: object, path: str) -> Any:
    """What stands for a value that is not JSON: one level of it, for its parts are looked at in turn."""
    match value:
        case Enum():
            return value.value
        case date() | time() | timedelta() | UUID() | Decimal() | bytes() | bytearray():
            return to_jsonable_python(value, bytes_mode="base64")
        case set() | frozenset():
            # Sorted, so that equal sets have the same text: deduplication by payload compares that.
            return sorted((_plain(one, path, 0) for one in value), key=to_json)
        case BaseModel():
            return _written(value, path)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            with suppress(PydanticUserError):  # it has fields that pydantic does not know
                return _written(value, path)
            return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        case _:
            reason = f"{type(value).__name__} is not JSON; convert it, or give a payload (or result) type"
            raise PayloadError(path, reason)


def _written(value: object, path: str) -> Any:
    """As its own type has it, so that a reader that knows the type can read it."""
    kind: Any = type(value)
    return typed_payload.written(_adapter_of(kind), value, path, _checked, faithful=False)[0]


_adapter_of: Final = lru_cache(maxsize=256)(typed_payload.adapter_of)


def _plain_sequence(value: Sequence[object], path: str, depth: int) -> Sequence[object]:
    if depth >= MAX_DEPTH:
        raise PayloadError(path, f"it is nested more than {MAX_DEPTH} levels deep")
    plain: list[object] | None = None
    for index, item in enumerate(value):
        # Long lists of numbers are common: no path is made for what is fine.
        if type(item) is not int or not -_LARGEST < item < _LARGEST:
            found = _plain(item, f"{path}[{index}]", depth + 1)
            if found is not item:
                plain = list(value) if plain is None else plain
                plain[index] = found
    return value if plain is None else plain


def _plain_mapping(value: Mapping[object, object], path: str, depth: int) -> Mapping[object, object]:
    if depth >= MAX_DEPTH:
        raise PayloadError(path, f"it is nested more than {MAX_DEPTH} levels deep")
    plain: dict[object, object] | None = None
    for key, item in value.items():
        if not isinstance(key, str):
            raise PayloadError(path, f"the key {key!r} is not a string, as JSON's keys are")
        _check_text(key, path)
        found = _plain(item, f"{path}.{key}", depth + 1)
        if found is not item:
            plain = dict(value) if plain is None else plain
            plain[key] = found
    return value if plain is None else plain


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
