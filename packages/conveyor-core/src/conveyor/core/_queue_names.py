"""The queues that core keeps for itself, beside those of users."""

from __future__ import annotations

from typing import Final

from conveyor.core.errors import InvalidOptionError
from conveyor.core.job_options import checked_name

_PREFIX: Final = "conveyor:"


def schedules_of(queue: str) -> str:
    """The queue that holds a queue's schedules."""
    return f"{_PREFIX}schedules:{queue}"


def workers_of(queue: str) -> str:
    """The queue whose active jobs are the registered workers of a queue."""
    return f"{_PREFIX}workers:{queue}"


def checked_queue_name(value: object, option: str) -> str:
    """A name that a user may give a queue.

    Raises InvalidOptionError for one that is no name, or that is kept for core.
    """
    name = checked_name(value, option)
    if name.startswith(_PREFIX):
        raise InvalidOptionError(option, name, f"names that begin with {_PREFIX!r} are Conveyor's own")
    return name
