"""What a worker and its processes say to each other: JSON, each message behind its length.

Plain JSON is what a message is made of; in it, `packed` values may be the few other kinds that the methods of
a job take and give. What is none of these arrives as something with the same text, so that it is refused with
the same words there.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, Final

from conveyor.core import errors
from conveyor.core._engine.outcome_policy import Raised
from conveyor.core._jobs.flow_graph import FlowJob
from conveyor.core._jobs.payload import decode, encode
from conveyor.core._jobs.report import Failure
from conveyor.core.backoff import Backoff
from conveyor.core.errors import ConveyorError
from conveyor.core.job_options import Deduplication, Group, Keep
from conveyor.core.signals import RateLimited, Retry, Signal, Snooze, Unrecoverable
from conveyor.core.store import JobKey, JobRecord, JobState

#: The bytes that say how long a message is.
HEAD: Final = 8
_OPTIONS: Final = {one.__name__: one for one in (Backoff, Deduplication, Group, Keep)}
#: What most of a record is like, and so need not be sent: that costs less than half.
_USUAL: Final = {one.name: one.default for one in fields(JobRecord)}
_DELAYED: Final = {one.__name__: one for one in (Snooze, Retry, RateLimited)}


class RemoteError(Exception):
    """What a handler raised in a process: of the exception itself there is only its text."""


class _Opaque:
    """Stands for a value that cannot be sent, and looks the same in an error."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def framed(message: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    text = json.dumps(message).encode()  # all ASCII: whatever a string holds can be sent
    return len(text).to_bytes(HEAD) + text


def length(head: bytes) -> int:
    """How long the message is that comes behind these bytes."""
    return int.from_bytes(head)


def unframed(text: bytes) -> dict[str, Any]:
    """A message that was received."""
    message: dict[str, Any] = json.loads(text)
    return message


# --------------------------------------------------------------------- arguments and answers


def packed(value: object) -> Any:  # noqa: PLR0911 - one for each kind
    """A value as JSON from which `unpacked` makes it again. Raises PayloadError for data of a flow's job."""
    match value:
        case None | bool() | str() | float():
            return value
        case int():
            return value if abs(value) < 1 << 63 else {"opaque": repr(value)}
        case list() | tuple():
            return [packed(one) for one in value]
        case dict():
            return {"dict": [[packed(key), packed(one)] for key, one in value.items()]}
        case datetime():
            return {"datetime": value.isoformat()}
        case timedelta():
            return {"timedelta": [value.days, value.seconds, value.microseconds]}
        case Backoff() | Deduplication() | Group() | Keep():
            parts = {one.name: packed(getattr(value, one.name)) for one in fields(value)}
            return {"option": type(value).__name__, "parts": parts}
        case FlowJob():
            parts = {
                name: packed(getattr(value, name)) for name in ("name", "queue_name", "children", "options")
            }
            return {"flow": parts, "data": encode(value.data)}
        case JobRecord():
            given = ((name, getattr(value, name), usual) for name, usual in _USUAL.items())
            return {"record": {name: packed(one) for name, one, usual in given if one != usual}}
        case _:
            return {"opaque": repr(value)}


def unpacked(value: Any) -> Any:  # noqa: C901, PLR0911 - one for each kind
    """What was packed: a tuple as a list."""
    match value:
        case list():
            return [unpacked(one) for one in value]
        case {"dict": pairs}:
            return {unpacked(key): unpacked(one) for key, one in pairs}
        case {"datetime": text}:
            return datetime.fromisoformat(text)
        case {"timedelta": [days, seconds, microseconds]}:
            return timedelta(days, seconds, microseconds)
        case {"option": name, "parts": parts}:
            option = object.__new__(_OPTIONS[name])
            for part, one in parts.items():
                found = unpacked(one)
                object.__setattr__(option, part, tuple(found) if isinstance(found, list) else found)
            return option
        case {"flow": parts, "data": data}:
            found = {name: unpacked(one) for name, one in parts.items()}
            options = found.pop("options")
            return FlowJob(**found, data=decode(data), **options)
        case {"record": parts}:
            found = {name: unpacked(one) for name, one in parts.items()}
            if "parent" in found:
                found["parent"] = JobKey(*found["parent"])
            if "state" in found:
                found["state"] = JobState(found["state"])
            return JobRecord(**found)
        case {"opaque": text}:
            return _Opaque(text)
        case _:
            return value


# ------------------------------------------------------------------------------------ errors


def packed_error(error: BaseException) -> dict[str, Any]:
    """An error of a method, with what it holds."""
    kind = type(error).__name__
    known = isinstance(error, ConveyorError) and vars(errors).get(kind) is type(error)
    text = Failure.of(error).message
    facts = {name: packed(one) for name, one in vars(error).items()} if known else {}
    return {"kind": kind, "text": text, "known": known, "facts": facts}


def unpacked_error(sent: dict[str, Any]) -> Exception:
    """The same error; of one that is none of Conveyor's, its text."""
    if not sent["known"]:
        return RemoteError(f"{sent['kind']}: {sent['text']}")
    kind: type[ConveyorError] = vars(errors)[sent["kind"]]
    error = kind.__new__(kind, sent["text"])
    vars(error).update({name: unpacked(one) for name, one in sent["facts"].items()})
    return error


def packed_raise(error: BaseException) -> dict[str, Any]:
    """What a handler raised: what is kept of it, and what it means."""
    failure = Failure.of(error)
    sent: dict[str, Any] = {"failure": [failure.type, failure.message, failure.traceback]}
    if isinstance(error, asyncio.CancelledError):
        sent["cancelled"] = True
    elif isinstance(error, Unrecoverable):
        sent["final"] = True
    elif isinstance(error, (Snooze, Retry, RateLimited)):
        name = next(name for name, kind in _DELAYED.items() if isinstance(error, kind))
        sent |= {"signal": name, "delay": packed(error.delay)}
    return sent


def unpacked_raise(sent: dict[str, Any]) -> Raised:
    """How the run ended, to be judged as if it had raised here."""
    kind, message, traceback = sent["failure"]
    error: BaseException
    if sent.get("cancelled"):
        error = asyncio.CancelledError(message)
    elif sent.get("final"):
        error = Unrecoverable(message)
    elif (name := sent.get("signal")) is not None:
        error = _signal(name, unpacked(sent["delay"]))
    else:
        error = RemoteError(f"{kind}: {message}")
    return Raised(error, carried=Failure(type=kind, message=message, traceback=traceback))


def _signal(name: str, delay: timedelta) -> Signal:
    return _DELAYED[name](delay)
