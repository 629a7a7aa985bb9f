"""What `executor="process"` asks of a worker's handlers, and what its processes receive when they start."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any, Final

from conveyor.core._engine.executor import is_async
from conveyor.core._engine.processes.import_paths import import_path, main_program
from conveyor.core.durations import Duration, duration
from conveyor.core.errors import InvalidOptionError
from conveyor.core.job_options import whole

_PROCESS: Final = "process"
_MOST: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """How many processes a worker has, and the seconds before a handler that is to stop is killed."""

    count: int
    kill_after: float


def checked_processes(
    executor: object, processes: int | None, kill_after: Duration | None, concurrency: int | None
) -> ProcessOptions | None:
    """The processes of a worker; None if its plain handlers run in threads."""
    if executor not in ("thread", _PROCESS):
        raise InvalidOptionError("executor", executor, 'plain functions run by "thread" or by "process"')
    if executor != _PROCESS:
        for option, value in (("processes", processes), ("kill_after", kill_after)):
            if value is not None:
                raise InvalidOptionError(option, value, 'it is for executor="process"')
        return None
    if not hasattr(os, "killpg"):  # pragma: no cover - on Windows
        raise InvalidOptionError("executor", executor, "this system has no process groups; use threads")
    count = _processors() if processes is None else whole(processes, "processes", least=1, most=_MOST)
    if concurrency is not None and whole(concurrency, "concurrency", least=1) > count:
        allowed = f"each handler that runs needs a process of its own, of which there are {count}"
        raise InvalidOptionError("concurrency", concurrency, allowed)
    wait = duration("5s" if kill_after is None else kill_after, "kill_after")
    return ProcessOptions(count=count, kill_after=wait.total_seconds())


def plan_of(
    handler: Any, *, payload: Any, result: Any, batched: bool, max_payload_bytes: int, max_result_bytes: int
) -> dict[str, Any]:
    """What a process receives when it starts.

    Raises InvalidOptionError for a handler that is async, and for a handler or a type that cannot be
    imported.
    """
    handlers = {} if callable(handler) else dict(handler)
    for one in handlers.values() if handlers else [handler]:
        if is_async(one):
            allowed = f"it is for plain functions, and {one!r} is async: that runs in the event loop"
            raise InvalidOptionError("executor", _PROCESS, allowed)
    return {
        "handler": None if handlers else import_path(handler, "handler"),
        "handlers": {name: import_path(one, "handler") for name, one in handlers.items()},
        "payload": None if payload is None else import_path(payload, "payload"),
        "result": None if result is None else import_path(result, "result"),
        "batched": batched,
        "max_payload_bytes": max_payload_bytes,
        "max_result_bytes": max_result_bytes,
        "main": main_program(),
        "argv": [one for one in sys.argv if isinstance(one, str)],
    }


def _processors() -> int:
    """How many processors this process may use."""
    if (count := getattr(os, "process_cpu_count", None)) is not None:  # Python 3.13
        return count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover - on macOS
