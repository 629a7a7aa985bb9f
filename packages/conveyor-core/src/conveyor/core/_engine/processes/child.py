"""The process that a worker's plain handlers run in: it takes a call, runs it, and says how it ended.

Started by `process.py`; it has no store. What a handler asks of its job is asked of the worker, whose job
does it. When the worker is gone the process ends, whatever runs in it.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, cast

from conveyor.core._engine import batch_results
from conveyor.core._engine.handlers import Payloads, Results, payloads_of, results_of
from conveyor.core._engine.processes.import_paths import imported
from conveyor.core._engine.processes.messages import (
    HEAD,
    framed,
    length,
    packed,
    packed_raise,
    unframed,
    unpacked,
    unpacked_error,
)
from conveyor.core._jobs.flow_graph import flow_jobs
from conveyor.core._jobs.payload import Payload
from conveyor.core._jobs.report import Failure, Report
from conveyor.core.clock import SystemClock
from conveyor.core.errors import InvalidOptionError, LeaseLostError, StoreClosedError, StoreForkedError
from conveyor.core.job import Job
from conveyor.core.store import JobRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from conveyor.core._jobs.run_context import RunContext
    from conveyor.core.store import Store

#: Seconds for what a program does at its exit.
_EXIT_TIMEOUT: Final = 1.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def main(descriptor: int) -> None:
    """Run what the worker at the other end of this socket sends, until it closes it."""
    connection = _Connection(socket.socket(fileno=descriptor))
    _leave_signals_to_the_worker(connection)
    plan = connection.receive()
    if plan is None:
        return
    calls: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
    threading.Thread(target=connection.listen, args=[calls], daemon=True).start()
    sys.argv[:] = plan["argv"]
    try:
        runner = _Runner(plan, connection)
    except BaseException as error:  # noqa: BLE001 - a module may raise anything: the worker says so
        connection.send({"unfit": packed_raise(error)})
        return
    connection.send({"ready": True})
    try:
        while (call := calls.get()) is not None:
            runner.run(call)
    except OSError:
        _end()  # the worker is gone, and with it the one that would receive how the run ended


def _leave_signals_to_the_worker(connection: _Connection) -> None:
    """Do nothing on what ends the worker, such as Ctrl-C: it decides how its processes end.

    They are handled and not ignored, since ignoring is inherited by every program that a handler starts.
    What a handler forks gets what it would have had, and closes the connection: the worker knows by its end
    that this process is dead.
    """
    before = {kind: signal.signal(kind, lambda *_: None) for kind in _SIGNALS}

    def forked() -> None:
        for kind, handler in before.items():
            signal.signal(kind, signal.SIG_DFL if handler is None else handler)
        connection.close()

    os.register_at_fork(after_in_child=forked)


class _Connection:
    """The socket between this process and its worker's."""

    def __init__(self, connected: socket.socket) -> None:
        connected.set_inheritable(False)
        self._socket = connected
        self._lock = threading.Lock()
        self.contexts: Sequence[_Context] = ()
        #: The calls of a job's methods that are not answered yet.
        self._asked: dict[int, Future[dict[str, Any]]] = {}
        self._number = 0

    def close(self) -> None:
        self._socket.close()

    def send(self, message: dict[str, Any]) -> None:
        sent = framed(message)
        with self._lock:
            self._socket.sendall(sent)

    def ask(self, message: dict[str, Any]) -> Future[dict[str, Any]]:
        """Send a message that is answered."""
        answer: Future[dict[str, Any]] = Future()
        with self._lock:
            self._number += 1
            number = self._number
        self._asked[number] = answer
        self.send(message | {"ask": number})
        return answer

    def receive(self) -> dict[str, Any] | None:
        """The next message; None when the worker has closed its end, or is dead."""
        try:
            head = self._exactly(HEAD)
            return None if head is None else unframed(self._exactly(length(head)) or b"null")
        except OSError:
            return None

    def listen(self, calls: SimpleQueue[dict[str, Any] | None]) -> None:
        """Take every message, until the worker is gone: then end this process."""
        while (message := self.receive()) is not None:
            if "answer" in message:
                self._asked.pop(message["answer"]).set_result(message)
            elif "stop" in message:
                for number in message["stop"]:
                    if number < len(self.contexts):
                        self.contexts[number].stopped = True
            else:
                self.contexts = [
                    _Context(self, job, message["call"], n) for n, job in enumerate(message["jobs"])
                ]
                calls.put(message)
        calls.put(None)
        if not self.contexts:
            time.sleep(_EXIT_TIMEOUT)  # nothing runs: the program may end in its own way
        _end()

    def _exactly(self, count: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(count - len(parts))
            if not part:
                return None
            parts += part
        return bytes(parts)


def _end() -> None:
    """End this process at once, with what its handler has started, if that is of its group."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class _Context:
    """What a handler's job writes through, in this process."""

    def __init__(self, connection: _Connection, sent: dict[str, Any], call: int, number: int) -> None:
        self._connection = connection
        self._call = call
        self._number = number
        self.record: JobRecord = unpacked(sent["record"])
        self.report = Report.decode(sent["report"])
        self.pid = os.getpid()
        self.stopped = False
        self.noticed = False
        self.over = False

    @property
    def cancelled(self) -> bool:
        self.noticed = self.noticed or self.stopped
        return self.stopped

    def worker(self, job: Job[Any], method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a method of the worker's job; beside a running event loop, return what can be awaited."""
        if self.pid != os.getpid():
            raise StoreForkedError("a forked process has no worker; use the job in the handler's own process")
        if self.over:
            raise LeaseLostError(job.id)
        given = _given(job, method, args, kwargs)
        answer = self._connection.ask({"call": self._call, "job": self._number, "given": packed(given)})
        line = str(given[1]["line"]) if method == "log" else None
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._took(job, answer.result(), line)
        return self._awaited(job, answer, line)

    async def _awaited(self, job: Job[Any], answer: Future[dict[str, Any]], line: str | None) -> Any:
        return self._took(job, await asyncio.wrap_future(answer), line)

    def _took(self, job: Job[Any], answer: dict[str, Any], line: str | None) -> Any:
        """What the worker's job said, once this one is as that; `line` is what it has logged, if it has."""
        if "error" in answer:
            raise unpacked_error(answer["error"])
        if line is not None:
            self.report.log(line)
        if "report" in answer:
            self.report = Report.decode(answer["report"])
        if "record" in answer:
            job._took(unpacked(answer["record"]))  # noqa: SLF001 - a job is its record, to us
        return job if "itself" in answer else _with_jobs(unpacked(answer["value"]))


def _given(job: Job[Any], method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """A call as the worker makes it: what only this process knows the type of goes as it is stored."""
    _, *arguments = inspect.signature(getattr(Job, method)).bind(job, *args, **kwargs).arguments.items()
    given = dict(arguments)
    if method == "update_data":
        return ["write_data", {"text": job.encoded(given["data"])}]
    if method == "add_children":
        if given.pop("queues", ()):
            allowed = "a process has no store: leave them out, and give the jobs' data as JSON"
            raise InvalidOptionError("queues", "…", allowed)
        given["children"] = flow_jobs(given["children"], "children")
    return [method, given]


def _with_jobs(value: Any) -> Any:
    """An answer with jobs for their records."""
    match value:
        case JobRecord():
            return Job(cast("Store", _NoStore()), value, Payload[Any](), SystemClock())
        case list():
            return [_with_jobs(one) for one in value]
        case _:
            return value


def _no_awaitable(value: Any) -> Any:
    if not inspect.isawaitable(value):
        return value
    if inspect.iscoroutine(value):
        value.close()
    raise TypeError("a handler in a process returns its result, and nothing that is awaited")


class _NoStore:
    """Stands for the store of a job, which its worker has."""

    def __getattr__(self, name: str) -> Any:
        raise StoreClosedError("a process that runs handlers has no store of its worker's; open one there")


class _Runner:
    """Runs calls of the worker's handlers, one after the other."""

    def __init__(self, plan: dict[str, Any], connection: _Connection) -> None:
        """Import what the worker has. Raises whatever that raises."""
        load = partial(imported, main=plan["main"])
        found = {name: load(path) for name, path in plan["handlers"].items()}
        handler = found if plan["handler"] is None else load(plan["handler"])
        payload, result = (None if plan[kind] is None else load(plan[kind]) for kind in ("payload", "result"))
        self._connection = connection
        self._handler: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]] = handler
        self._batched: bool = plan["batched"]
        self._most: int = plan["max_payload_bytes"]
        self._payloads: Payloads = payloads_of(handler, payload)
        self._results: Results = results_of(
            handler, result, batched=self._batched, max_bytes=plan["max_result_bytes"]
        )

    def run(self, call: dict[str, Any]) -> None:
        """Run a call, and say how it ended."""
        contexts = self._connection.contexts
        self._connection.send({"begun": call["call"]})
        ending = self._ending([self._job_of(context) for context in contexts])
        for context in contexts:
            context.over = True
        self._connection.contexts = ()
        self._connection.send(
            {"ended": call["call"], "noticed": [context.noticed for context in contexts]} | ending
        )

    def _job_of(self, context: _Context) -> Job[Any]:
        payload = self._payloads.of(context.record.name)
        store = cast("Store", _NoStore())
        return Job(
            store,
            context.record,
            payload,
            SystemClock(),
            max_bytes=self._most,
            run=cast("RunContext", context),
        )

    def _ending(self, jobs: list[Job[Any]]) -> dict[str, Any]:
        name = jobs[0].name
        handler = self._handler if callable(self._handler) else self._handler[name]
        try:
            value = _no_awaitable(handler(jobs if self._batched else jobs[0]))
            return {"value": self._batch(jobs, value) if self._batched else self._one(name, value)}
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is for the worker to decide about
            return {"raised": packed_raise(error)}

    def _batch(self, jobs: list[Job[Any]], value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or len(value) != len(jobs):
            return {"misfit": batch_results.described(value)}
        return [
            {"raised": packed_raise(one)} if isinstance(one, BaseException) else self._one(job.name, one)
            for job, one in zip(jobs, value, strict=True)
        ]

    def _one(self, name: str, value: Any) -> dict[str, str]:
        try:
            return {"json": self._results.encode(name, value)}
        except BaseException as error:  # noqa: BLE001 - a value of the user's own class may raise anything
            return {"reason": Failure.of(error).message}
