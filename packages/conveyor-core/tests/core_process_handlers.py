"""Handlers that processes import: they have no test's names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from conveyor.core import ConveyorError, FlowJob, Job


@dataclass(frozen=True)
class Task:
    number: int


@dataclass(frozen=True)
class Answer:
    number: int
    pid: int


def answer(job: Job[Task]) -> Answer:
    return Answer(job.data.number + 1, os.getpid())


def answer_untyped(job: Job[Any]) -> Any:
    return [job.data, type(job.data).__name__]


def answer_all(jobs: list[Job[Task]]) -> list[Answer | Exception]:
    return [ValueError("zero") if not job.data.number else answer(job) for job in jobs]


def answer_too_few(jobs: list[Job[Any]]) -> list[int]:
    return [0] * (len(jobs) - 1)


def pid(_: Job[Any]) -> int:
    return os.getpid()


def die(job: Job[Any]) -> None:
    if isinstance(job.data, int):
        os._exit(job.data)
    os.kill(os.getpid(), signal.Signals[job.data])


def deaf(job: Job[Any]) -> None:
    """Start another program, tell the numbers of both, and hear nothing."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    job.update_data([os.getpid(), started.pid])
    while not job.cancelled:
        time.sleep(0.005)
    job.update_progress(50)  # it was asked to stop
    time.sleep(600)


def deaf_batch(jobs: list[Job[Any]]) -> None:
    deaf(jobs[0])


def signalled(_: Job[Any]) -> str:
    for kind in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), kind)
    forked = os.fork()
    if not forked:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)
    return f"{os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1])}"


def forks_and_dies(job: Job[Any]) -> None:
    """Leave a copy of this process behind, which has to let go of the line."""
    if job.stalled_count == 0:
        if not os.fork():
            os.setsid()
            time.sleep(2)
            os._exit(0)
        os._exit(7)


def exits_later(_: Job[Any]) -> int:
    """Die when nothing runs any more."""
    threading.Timer(0.05, os._exit, [9]).start()
    return os.getpid()


left: list[Job[Any]] = []


def uses_its_job(job: Job[Any]) -> dict[str, Any]:
    """Call what a job has: what is seen here of each call, or what it raised."""
    seen: dict[str, Any] = {}

    def note(name: str, call: Any) -> None:
        try:
            seen[name] = call()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            seen[name] = f"{type(error).__name__}: {error}"

    async def beside_a_loop() -> None:
        await job.log("from a loop")

    note("log", lambda: (job.log("one"), job.logs)[1])
    asyncio.run(beside_a_loop())
    thread = threading.Thread(target=job.log, args=["from a thread"])
    thread.start()
    thread.join()
    note("logs", lambda: job.logs)
    note("cleared", lambda: (job.clear_logs(), job.logs)[1])
    note("progress", lambda: (job.update_progress(progress=12.5), job.progress)[1])
    note("wrong progress", lambda: job.update_progress(101))
    note("odd progress", lambda: job.update_progress(job))  # type: ignore[arg-type]
    note("no progress", job.update_progress)
    note("data", lambda: (job.update_data({"step": 2}), job.data)[1])
    note("wrong data", lambda: job.update_data({"step": object()}))
    note("discarded", lambda: (job.discard(), job.discarded)[1])
    note("refreshed", lambda: job.refresh() is job)  # type: ignore[comparison-overlap]
    note("active", job.is_active)
    note("retry", job.retry)
    note("no lines", job.get_dependencies)
    note("parent", job.get_parent)
    note("children", job.get_children_values)
    note("forked", lambda: _in_a_fork(job))
    left.append(job)
    return seen


def uses_what_it_left(_: Job[Any]) -> list[str]:
    """The job of an earlier run of this process is as it was, and not written to."""
    raised = []
    for call in (lambda: left[0].log("too late"), left[0].refresh):
        with contextlib.suppress(StopIteration):
            try:
                call()
            except ConveyorError as error:
                raised.append(type(error).__name__)
    return [*raised, left[0].data["step"]]


def _in_a_fork(job: Job[Any]) -> str:
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            job.log("from a fork")
        except ConveyorError as error:
            os.write(theirs, type(error).__name__.encode())
        os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(ours) as pipe:
        return pipe.read()


def adds_children(job: Job[Any]) -> Any:
    if job.children_ids:
        return [child.name for child in job.get_dependencies()] + [job.get_children_values()]  # type: ignore[attr-defined]
    job.add_children([FlowJob("pid", "q", {"n": 1}, job_id="kid", attempts=2)])
    return None


def is_cancelled(_: Job[Any]) -> None:
    raise asyncio.CancelledError


def returns_a_coroutine(_: Job[Any]) -> Any:
    return asyncio.sleep(0)


def noted(function: Any) -> Any:
    @wraps(function)
    def wrapper(job: Job[Any]) -> Any:
        return function(job)

    return wrapper


@noted
def decorated(_: Job[Any]) -> str:
    return "decorated"


class Methods:
    @staticmethod
    def static(_: Job[Any]) -> str:
        return "static"

    @classmethod
    def of_class(cls, _: Job[Any]) -> str:
        return cls.__name__

    def of_object(self, job: Job[Any]) -> None: ...

    def __call__(self, job: Job[Any]) -> None: ...


def writes(job: Job[Any]) -> None:
    """Write its number where it is told to, and never end."""
    Path(job.data).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(600)
