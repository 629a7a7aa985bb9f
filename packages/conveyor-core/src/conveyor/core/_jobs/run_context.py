"""What a job's handler writes through while it runs, and its job's methods in a thread."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from conveyor.core.errors import StoreClosedError, StoreForkedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Iterable
    from concurrent.futures import Future

    from conveyor.core._jobs.builder import RecordBuilder
    from conveyor.core._jobs.flow_graph import FlowJob
    from conveyor.core._jobs.report import Report
    from conveyor.core.signals import Signal

R = TypeVar("R")
P = ParamSpec("P")
#: Calls a method, by its name, of a job's twin in another process.
Remote = Callable[[Any, str, Sequence[Any], Mapping[str, Any]], Any]


class AnyQueue(Protocol):
    """A `Queue`, as far as the jobs in it know it."""

    @property
    def builder(self) -> RecordBuilder[Any]:
        """Makes the records of jobs that are to be added to it. Not for users."""
        ...


class RunContext(Protocol):
    """The run of a job, as far as the `Job` that its handler has writes through it."""

    loop: asyncio.AbstractEventLoop
    #: The process that `loop` runs in.
    pid: int
    report: Report

    @property
    def worker(self) -> Remote | None:
        """In a process of the handler's own: how to make a call in that of its worker."""
        ...

    @property
    def over(self) -> bool:
        """Whether nothing can be written any more: the run has ended, or is known to have lost its lease."""
        ...

    @property
    def cancelled(self) -> bool:
        """Whether the handler is asked to stop."""
        ...

    async def write(self, payload: str | None = None) -> None:
        """Store the report (and the payload) now; raises LeaseLostError if the lease is gone."""
        ...

    def write_soon(self) -> None:
        """Store the report within a moment."""
        ...

    async def add_children(self, children: Iterable[FlowJob], queues: Iterable[AnyQueue]) -> None:
        """Add these, and have the job wait for them, when the handler returns."""
        ...

    def decide(self, signal: Signal) -> None:
        """Settle the job so, instead of as completed, when the handler returns."""
        ...


class HasRunContext(Protocol):
    """Something with methods that a handler calls, and with the handler's run, if it has one."""

    @property
    def run_context(self) -> RunContext | None:
        """The run of the handler that it was given to."""
        ...


S = TypeVar("S", bound=HasRunContext)


def from_threads(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Let a handler that runs in a thread call a coroutine method as if it were a plain one.

    There the call blocks until it is done and returns the result itself.
    """

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        run = self.run_context
        if run is not None and (worker := run.worker) is not None:
            return worker(self, method.__name__, args, kwargs)
        made = method(self, *args, **kwargs)
        if run is None:
            return made
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return _elsewhere(made, run).result()
        if running is run.loop:
            return made
        return asyncio.wrap_future(_elsewhere(made, run))

    return call


def statement_from_threads(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, None]],
) -> Callable[Concatenate[S, P], Awaitable[None]]:
    """The same for a method that a plain handler calls as a statement.

    Type checkers take a coroutine that is not awaited for a mistake; an awaitable may be left alone.
    """
    return from_threads(method)


def _elsewhere(made: Coroutine[Any, Any, R], run: RunContext) -> Future[R]:
    """Run it in the worker's event loop, from a thread or from another loop."""
    if run.pid != os.getpid():
        made.close()  # the loop's copy does not run, so that the call would never return
        raise StoreForkedError("a forked process has no worker; use the job in the handler's own process")
    try:
        return asyncio.run_coroutine_threadsafe(made, run.loop)
    except RuntimeError as error:
        made.close()
        raise StoreClosedError(
            "the event loop of this job's worker is closed; open a store, and get the job from a queue"
        ) from error
