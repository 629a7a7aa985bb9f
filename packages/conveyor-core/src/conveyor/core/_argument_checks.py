"""What may be given where an object is wanted: a store, a clock, a list of things of one kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from conveyor.core.clock import Clock, SystemClock
from conveyor.core.errors import InvalidOptionError
from conveyor.core.job_options import checked_name
from conveyor.core.store import Pause

if TYPE_CHECKING:
    from conveyor.core.store import Store

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


def checked_store(value: Any) -> Store:
    """A store, open or not.

    Raises InvalidOptionError for what has none of a store's methods, as a URL or a store's class.
    """
    # Not by all that a store has: queues are made often, and looking at each costs more than making one.
    if isinstance(value, type) or not callable(getattr(value, "claim", None)):
        raise InvalidOptionError("store", value, 'give a store, as open_store("sqlite:///jobs.db") makes one')
    return value  # type: ignore[no-any-return]


def checked_clock(value: Any) -> Clock:
    """The clock given, or else the machine's. Raises InvalidOptionError for what is none."""
    if value is None:
        return SystemClock()
    if isinstance(value, type) or not callable(getattr(value, "call_later", None)):
        raise InvalidOptionError(
            "clock", value, "give a clock, as conveyor.core.testing.ManualClock() is one"
        )
    return value  # type: ignore[no-any-return]


def checked_pause(job_name: str | None, group: str | None) -> Pause:
    """What `pause` and `resume` are given: the queue, one name, or one group. Raises InvalidOptionError."""
    if job_name is not None and group is not None:
        raise InvalidOptionError("group", group, "pause a job name or a group, not both at once")
    if job_name is not None:
        checked_name(job_name, "job_name")
    if group is not None:
        checked_name(group, "group")
    return Pause(name=job_name, group=group)


def one_of(value: object, option: str, kind: type[E]) -> E:
    """The member of an enumeration that is given, or named. Raises InvalidOptionError for what is none."""
    for member in kind:
        if value is member or (isinstance(value, str) and value == member):
            return member
    raise InvalidOptionError(option, value, f"one of {', '.join(kind)}")


def several(value: object, option: str, kind: type[T], example: str) -> list[T]:
    """Things of one kind, as a list.

    Raises InvalidOptionError for anything but an iterable of such things; `example` says how one is made.
    """
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping)):
        raise InvalidOptionError(option, value, f"give a list, also for one: [{example}]")
    found = list(value)
    for one in found:
        if not isinstance(one, kind):
            raise InvalidOptionError(option, one, f"each is a {kind.__name__}: {example}")
    return found
