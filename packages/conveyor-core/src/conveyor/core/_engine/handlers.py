"""What may be a handler, and what its annotations say."""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Awaitable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar, Union

from conveyor.core._jobs.payload import Payload
from conveyor.core.errors import InvalidOptionError, UnserialisableResultError
from conveyor.core.job import Job
from conveyor.core.job_options import checked_name

#: What an annotation may name although the handler's module imports it for type checkers only.
_KNOWN: Final = {"Job": Job, "Any": Any, "Sequence": Sequence}
#: What says nothing of a result that it does not say itself.
_NO_TYPES: Final = (inspect.Parameter.empty, Any, object, types.NoneType, bool, int, float, str, list, dict)
_TYPED: Final = re.compile(r"\bJob\[")


@dataclass(frozen=True, slots=True)
class Payloads:
    """The types of the data that a worker's handlers take, by the names of the jobs."""

    usual: Payload[Any]
    by_name: Mapping[str, Payload[Any]] = field(default_factory=dict)

    def of(self, name: str) -> Payload[Any]:
        """What the data of jobs of this name are."""
        return self.by_name.get(name, self.usual)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A result that was encoded where its handler ran: its JSON text, or why there is none."""

    json: str | None = None
    reason: str = ""

    def text(self) -> str:
        """Its JSON text. Raises UnserialisableResultError if there is none."""
        if self.json is None:
            raise UnserialisableResultError(self.reason)
        return self.json


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """How a worker's results are encoded: as its option says, or else as its handlers' annotations do.

    An annotation is no more than a hint: a result that does not fit it goes by what it is. A job must not
    fail for that, with its work done.
    """

    kinds: Payloads
    given: bool
    max_bytes: int

    def encode(self, name: str, value: object) -> str:
        """The JSON text of a result. Raises PayloadError if it has none, or does not fit the type given."""
        if isinstance(value, Encoded):
            return value.text()
        kind = self.kinds.of(name)
        if self.given:
            return kind.encode(value, self.max_bytes, "result")
        return kind.encode_as_it_is(value, self.max_bytes, "result")


def checked_handler(handler: object) -> Any:
    if isinstance(handler, Mapping):
        if not handler:
            raise InvalidOptionError("handler", handler, "the mapping names no job")
        for name, one in handler.items():
            checked_name(name, "handler")
            _checked_callable(one)
        return dict(handler)
    _checked_callable(handler)
    return handler


def _checked_callable(handler: object) -> None:
    if not callable(handler):
        raise InvalidOptionError(
            "handler", handler, "it is a function that takes the job, or a mapping of such by job name"
        )
    refuse_generator(handler, "handler")
    try:
        _signature(handler).bind(object())
    except TypeError:
        raise InvalidOptionError("handler", handler, "it must take one argument, the job") from None
    except ValueError:
        # Some built-in functions have no signature to look at: the first call will show.
        return


def refuse_generator(function: object, option: str) -> None:
    """Raise InvalidOptionError for what would only make a generator when it is called, and do nothing."""
    while isinstance(function, partial):
        function = function.func
    called = function if isinstance(function, type) else getattr(function, "__call__", None)  # noqa: B004 - not called
    for one in (function, called):
        # A generator that `types.coroutine` has marked can be awaited, as what an async function makes.
        marked = getattr(getattr(one, "__code__", None), "co_flags", 0) & inspect.CO_ITERABLE_COROUTINE
        if not marked and (inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one)):
            allowed = "it is a generator, which runs no line when it is called: write return, not yield"
            raise InvalidOptionError(option, function, allowed)


def payloads_of(handler: Any, given: Any) -> Payloads:
    """The payload types of a worker: the one given for all its jobs, or those that its handlers name.

    Raises InvalidOptionError for a type that pydantic cannot validate, and for an annotation `Job[...]` that
    cannot be resolved while no type is given.
    """
    if given is not None:
        return Payloads(Payload(given))
    if callable(handler):
        return Payloads(Payload(annotated_payload(handler)))
    return Payloads(Payload(), {name: Payload(annotated_payload(one)) for name, one in handler.items()})


def annotated_payload(handler: Any) -> Any:
    """The payload type of a handler whose parameter is annotated `Job[Email]`; None if it has none.

    The handler of a batch is annotated `list[Job[Email]]`. Of the annotations only that of the job is looked
    at, for any other may name what exists for type checkers only.

    Raises InvalidOptionError if it says `Job[...]` and cannot be resolved.
    """
    annotation = _annotation_of_job(handler)
    if annotation is None:
        return None
    try:
        hint = _resolved(annotation, handler)
    except Exception as error:  # an annotation is an expression: it may raise anything
        if _TYPED.search(str(annotation)) is None:
            return None
        allowed = (
            f"its annotation {annotation!s} cannot be resolved: {error}; give the worker payload=, or import "
            "the type when the program runs (not under TYPE_CHECKING), at the top of the handler's module"
        )
        raise InvalidOptionError("handler", handler, allowed) from error
    found = list(_payloads_in(hint))
    if not found or any(kind is Any or isinstance(kind, TypeVar) for kind in found):
        return None
    return Union[tuple(found)]  # noqa: UP007 - of a number that is not known


def results_of(handler: Any, given: Any, *, batched: bool, max_bytes: int) -> Results:
    """How a worker's results are encoded.

    Raises InvalidOptionError for a type given that pydantic cannot validate. An annotation is passed over
    then, and where it cannot be resolved.
    """
    if given is not None:
        return Results(kinds=Payloads(Payload(given, "result")), given=True, max_bytes=max_bytes)
    if callable(handler):
        kinds = Payloads(_annotated_result(handler, batched=batched))
    else:
        found = {name: _annotated_result(one, batched=batched) for name, one in handler.items()}
        kinds = Payloads(Payload(), found)
    return Results(kinds=kinds, given=False, max_bytes=max_bytes)


def _annotated_result(handler: Any, *, batched: bool) -> Payload[Any]:
    try:
        hint = _resolved(_signature(handler).return_annotation, handler)
        if typing.get_origin(hint) in (Awaitable, Coroutine):  # of a plain function
            hint = typing.get_args(hint)[-1]
        if batched:
            [hint, *_] = typing.get_args(hint)
        return Payload() if hint in _NO_TYPES or isinstance(hint, TypeVar) else Payload(hint)
    except Exception:  # noqa: BLE001 - an annotation is an expression: it may raise anything
        return Payload()


def _annotation_of_job(handler: Any) -> Any:
    try:
        signature = _signature(handler)
    except (TypeError, ValueError):
        return None  # of some built-in functions, which have no annotations either
    [name] = signature.bind(object()).arguments
    annotation = signature.parameters[name].annotation
    return None if annotation is inspect.Parameter.empty else annotation


def _signature(handler: Any) -> inspect.Signature:
    if sys.version_info >= (3, 14):  # pragma: no cover - there annotations are evaluated late
        from annotationlib import Format  # noqa: PLC0415

        return inspect.signature(handler, annotation_format=Format.FORWARDREF)
    return inspect.signature(handler)


def _resolved(annotation: Any, handler: Any) -> Any:
    """What an annotation means where the handler is written, as far as that can be known."""

    def bearer() -> None: ...

    bearer.__annotations__ = {"job": annotation}
    function = _function_of(handler)
    names = _KNOWN | getattr(function, "__globals__", {})
    local = {one.__name__: one for one in getattr(function, "__type_params__", ())}
    code = getattr(function, "__code__", None)
    for name, cell in zip(
        code.co_freevars if code else (), getattr(function, "__closure__", ()) or (), strict=True
    ):
        with suppress(ValueError):  # not assigned yet
            local[name] = cell.cell_contents
    return typing.get_type_hints(bearer, names, local, include_extras=True)["job"]


def _function_of(handler: Any) -> Any:
    """The function as it is written in a module, below `partial`, methods, objects and decorators."""
    while True:
        if isinstance(handler, partial):
            handler = handler.func
        elif isinstance(handler, types.MethodType):
            handler = handler.__func__
        elif hasattr(handler, "__wrapped__"):
            handler = handler.__wrapped__
        elif inspect.isroutine(handler) or isinstance(handler, type):
            return handler
        else:
            handler = type(handler).__call__


def _payloads_in(hint: Any) -> Iterator[Any]:
    """The type of each `Job[...]` in an annotation: of a list, a union, `Annotated`, an alias."""
    arguments = typing.get_args(hint)
    alias = getattr(hint, "__value__", None)
    if typing.get_origin(hint) is Job:
        yield arguments[0]
    elif alias is not None:
        yield from _payloads_in(alias[arguments] if arguments else alias)
    else:
        for one in arguments:
            yield from _payloads_in(one)
