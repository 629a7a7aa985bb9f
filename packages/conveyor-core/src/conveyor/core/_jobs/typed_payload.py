"""Values of a type as JSON from which an equal value can be read again; any other value is refused.

What pydantic writes of a value need not be what it reads: fields may be excluded or computed, have other
names in either direction, serialisers and validators that change them, and hold subclasses with fields of
their own. Which types are harmless cannot be known for certain, so every value is read back and compared
once it is written: to an add of a small model on the memory store, the cheapest there is, that adds a fifth.
"""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Secret, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import to_json, to_jsonable_python

from conveyor.core._documents import first_of, step
from conveyor.core.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable

_Mode = Literal["utf8", "base64"]
_MODES: Final[tuple[_Mode, ...]] = ("utf8", "base64")
#: For types without a configuration of their own: any bytes can be written.
_BYTES: Final = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


def adapter_of(kind: Any) -> TypeAdapter[Any]:
    """What validates, writes and reads values of a type. Raises what pydantic raises if it cannot."""
    try:
        return TypeAdapter(kind, config=_BYTES)
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return TypeAdapter(kind)


def validated(adapter: TypeAdapter[Any], value: object, path: str) -> Any:
    """The value as one of the type. Raises PayloadError if it does not fit."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        at, reason = first_of(error)
        raise PayloadError(path + at[1:], reason) from None
    except Exception as error:  # a validator of the user's may raise anything
        raise PayloadError(path, f"validating it failed: {_text_of(error)}") from error


def written(
    adapter: TypeAdapter[Any],
    value: object,
    path: str,
    checked: Callable[[object, str], Any],
    *,
    faithful: bool = True,
) -> tuple[Any, bytes]:
    """A value of the type as JSON, and its text. `checked` raises PayloadError for what is no JSON after all.

    Fields go by their own names, and secrets are written as they are. Raises PayloadError, with the path, for
    a value that cannot be written, or, if it is to be `faithful`, would be read as another one.
    """
    plain = checked(_dumped(adapter, value, path), path)
    text = to_json(plain)
    flaw = _flaw(adapter, value, text, path)
    if flaw is None:
        return plain, text
    # Perhaps for the secrets, which pydantic writes as asterisks; it reads their bytes in either way.
    as_text, as_base64 = (
        checked(_revealed(plain, adapter.dump_python(value, round_trip=True, warnings=False), mode), path)
        for mode in _MODES
    )
    for revealed in (as_text, as_base64):
        shown = to_json(revealed)
        if shown != text and _flaw(adapter, value, shown, path) is None:
            return revealed, shown
    if faithful:
        raise flaw
    return as_text, to_json(as_text)


def read(adapter: TypeAdapter[Any], text: str | bytes) -> Any:
    """The value of JSON text that has fields by their names, or by their aliases.

    Raises PayloadError if it is not JSON or does not fit the type.
    """
    try:
        return adapter.validate_json(text, by_alias=True, by_name=True)
    except ValidationError as error:
        raise PayloadError(*first_of(error)) from None
    except Exception as error:  # a validator of the user's may raise anything
        raise PayloadError("$", f"reading it failed: {_text_of(error)}") from error


# ---------------------------------------------------------------- writing


def _dumped(adapter: TypeAdapter[Any], value: object, path: str) -> Any:
    def dump(include: Any = None) -> Any:
        return adapter.dump_python(
            value, mode="json", include=include, by_alias=False, round_trip=True, warnings=False
        )

    def fails(include: Any) -> bool:
        try:
            dump(include)
        except Exception:  # noqa: BLE001 - a serialiser of the user's may raise anything
            return True
        return False

    try:
        return dump()
    except Exception as error:  # likewise
        reason = f"it cannot be written as JSON: {_text_of(error)}"
        if isinstance(error, UnicodeDecodeError):
            reason = (
                "these bytes are not UTF-8 text; give its type the configuration "
                'ser_json_bytes="base64", val_json_bytes="base64"'
            )
        raise PayloadError(path + _culprit(fails, value), reason) from error


def _culprit(fails: Callable[[Any], bool], value: object) -> str:
    """The path of the part that cannot be written; `fails` tries those parts alone that it is given."""
    path: list[Any] = []
    while (parts := _parts(value)) and not fails(_nested(path, {})):
        keys = list(parts)
        while len(keys) > 1:
            half = keys[: len(keys) // 2]
            keys = half if fails(_nested(path, dict.fromkeys(half, ...))) else keys[len(half) :]
        if not fails(_nested(path, {keys[0]: ...})):
            break  # it fails as a whole only
        path.append(keys[0])
        value = parts[keys[0]]
    return "".join(step(key) for key in path)


def _nested(path: list[Any], inner: Any) -> Any:
    for key in reversed(path):
        inner = {key: inner}
    return inner


def _revealed(plain: Any, value: object, bytes_mode: _Mode) -> Any:
    """JSON with the secrets that it hides; `value` is the same in Python's types."""
    match value:
        case SecretStr() | SecretBytes() | Secret():
            with suppress(ValueError):  # bytes that are not UTF-8
                return to_jsonable_python(value.get_secret_value(), bytes_mode=bytes_mode)
            return plain
        case dict() if isinstance(plain, dict) and len(plain) == len(value):
            pairs = zip(plain.items(), value.values(), strict=True)
            return {key: _revealed(one, other, bytes_mode) for (key, one), other in pairs}
        case list() | tuple() | set() | frozenset() if isinstance(plain, list) and len(plain) == len(value):
            return [_revealed(one, other, bytes_mode) for one, other in zip(plain, value, strict=True)]
        case _:
            return plain


# -------------------------------------------------------------- comparing


def _flaw(adapter: TypeAdapter[Any], value: object, text: bytes, path: str) -> PayloadError | None:
    """What is lost between a value and its text."""
    try:
        back = read(adapter, text)
    except PayloadError as error:
        return PayloadError(path + error.path[1:], f"it could not be read back: {error.reason}")
    found = _difference(value, back, path)
    return None if found is None else PayloadError(*found)


def _difference(sent: object, back: object, path: str) -> tuple[str, str] | None:
    """Where a value that came back is not equal to what was sent, and how; None if it is."""
    equal = _equal(sent, back)
    if equal:
        return None
    if type(sent) is not type(back):
        was, now = type(sent).__name__, type(back).__name__
        return path, f"it is of the type {was}, and would come back as {now}"
    ours, theirs = _parts(sent), _parts(back)
    if ours is None or theirs is None:
        return None if equal is None else (path, _CHANGED)
    for key, one in ours.items():
        if key not in theirs:
            return path + step(key), "it would not come back"
        found = _difference(one, theirs[key], path + step(key))
        if found is not None:
            return found
    added = [key for key in theirs if key not in ours]
    return (path + step(added[0]), "it would be there when it comes back") if added else None


_CHANGED: Final = (
    "it would come back as another value: a field that is excluded, or that a serialiser or validator "
    "changes, cannot be stored"
)


def _equal(sent: object, back: object) -> bool | None:
    """Whether the values are equal; None if they do not say."""
    if isinstance(sent, datetime) and isinstance(back, datetime) and sent.tzinfo and back.tzinfo:
        # Python takes times in an hour that happens twice as different from those of any other zone.
        sent, back = sent.astimezone(UTC), back.astimezone(UTC)
    try:
        equal = bool(sent == back)
    except Exception:  # noqa: BLE001 - an array, for one, has no answer
        return None
    return True if equal else (False if _has_equality(sent) else None)


def _parts(value: object) -> dict[Any, Any] | None:
    """What a value is made of, by field, key or index; None if that is not known."""
    match value:
        case BaseModel():
            return {name: getattr(value, name) for name in type(value).model_fields} | (
                value.model_extra or {}
            )
        case dict():
            return value
        case list() | tuple():
            return dict(enumerate(value))
        case _ if dataclasses.is_dataclass(value):
            return {one.name: getattr(value, one.name) for one in dataclasses.fields(value) if one.compare}
        case _ if not _has_equality(value):
            return getattr(value, "__dict__", None)
        case _:
            return None


def _has_equality(value: object) -> bool:
    return type(value).__eq__ is not object.__eq__


def _text_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
