"""Plain handlers, at the top level of a module: a worker's processes import them by their names."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from conveyor.core import Job, RateLimited, Retry, Snooze, Unrecoverable


class Unsendable(Exception):  # noqa: N818 - it is more than an error
    """An exception that holds what no other process can have, and has no text."""

    def __init__(self) -> None:
        """Hold something."""
        super().__init__()
        self.held = lambda: None

    def __str__(self) -> str:
        """Have no text."""
        raise ValueError("no text")


def returns(job: Job[Any]) -> dict[str, Any]:
    """Say how far it is, and return what the job says of itself."""
    job.log("a line: é🐝")
    job.update_progress(50)
    return {"data": job.data, "progress": job.progress, "logs": job.logs, "cancelled": job.cancelled}


def raises(_: Job[Any]) -> None:
    """Raise."""
    raise LookupError("there is none")


def raises_what_cannot_be_sent(_: Job[Any]) -> None:
    """Raise what only this process can hold."""
    raise Unsendable


def returns_what_cannot_be_stored(_: Job[Any]) -> object:
    """Return what is no JSON."""
    return object()


def decides(job: Job[Any]) -> str:
    """Fail the job, and return."""
    job.move_to_failed("on purpose")
    return "dropped"


def snoozes(_: Job[Any]) -> None:
    """Ask for a later run."""
    raise Snooze("1h")


def retries(_: Job[Any]) -> None:
    """Fail, and ask for a later run."""
    raise Retry("1h", "not yet")


def gives_up(_: Job[Any]) -> None:
    """Fail for good."""
    raise Unrecoverable("no such user")


def is_limited(_: Job[Any]) -> None:
    """Be told to slow down."""
    raise RateLimited("1h")


def waits(job: Job[Any]) -> str:
    """Tell the number of its process, and wait until it is asked to stop."""
    job.update_data(os.getpid())
    while not job.cancelled:
        time.sleep(0.005)
    return "stopped"


def dies_once(job: Job[Any]) -> int:
    """Be killed in the first run."""
    if job.stalled_count == 0:
        job.log("about to die")
        os.kill(os.getpid(), signal.SIGKILL)
    return job.stalled_count
