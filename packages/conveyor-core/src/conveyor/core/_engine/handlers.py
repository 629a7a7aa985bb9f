"""What may be a handler, and what its annotations say."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from conveyor.core.errors import InvalidOptionError
from conveyor.core.job import Job
from conveyor.core.options import checked_name


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
    try:
        inspect.signature(handler).bind(object())
    except TypeError:
        raise InvalidOptionError("handler", handler, "it must take one argument, the job") from None
    except ValueError:
        # Some built-in functions have no signature to look at: the first call will tell.
        return


def annotated_payload(handler: Any) -> Any:
    """The payload type of a handler annotated `Job[Email]`; None if there is none, or several differ.

    The handler of a batch is annotated `list[Job[Email]]`.
    """
    handlers = [handler] if callable(handler) else list(handler.values())
    found = {_payload_of(one) for one in handlers}
    return found.pop() if len(found) == 1 else None


def _payload_of(handler: Any) -> Any:
    function = handler if inspect.isroutine(handler) else getattr(handler, "__call__", handler)  # noqa: B004
    try:
        hints = typing.get_type_hints(function)
        parameters = inspect.signature(handler).parameters
    except Exception:  # noqa: BLE001 - an annotation that cannot be resolved, or is not there, says nothing
        return None
    for parameter in parameters:
        hint = hints.get(parameter)
        if typing.get_origin(hint) in (list, Sequence):  # of a batch
            [hint] = typing.get_args(hint)
        if typing.get_origin(hint) is Job:
            [kind] = typing.get_args(hint)
            return None if kind is Any or isinstance(kind, TypeVar) else kind
    return None
