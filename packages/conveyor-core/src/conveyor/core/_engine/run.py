"""One job that this worker holds, from its claim until its outcome is written."""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from datetime import datetime, timedelta

    from conveyor.core._jobs.flow_graph import FlowJob
    from conveyor.core._jobs.report import Report
    from conveyor.core._jobs.run_context import AnyQueue
    from conveyor.core.job_options import JobOptions
    from conveyor.core.signals import Signal
    from conveyor.core.store import JobRecord, Lease

    AddChildren = Callable[["Run", Iterable[FlowJob], Iterable[AnyQueue]], Awaitable[None]]


class Stop(Enum):
    """Why a handler is asked to stop."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    LEASE_LOST = "lease lost"
    SHUTDOWN = "shutdown"


class LeaseKeeper(Protocol):
    """What holds the leases of runs: renews them, and writes what handlers write."""

    async def write(self, run: Run, payload: str | None) -> None:
        """Store what the run's handler wrote; raises LeaseLostError if the lease is gone."""
        ...

    def write_soon(self, run: Run) -> None:
        """Store what the run's handler wrote, within a moment."""
        ...

    async def write_starts(self, runs: Iterable[Run]) -> None:
        """Store that these jobs are about to run."""
        ...

    def drop(self, leases: Iterable[Lease]) -> None:
        """Renew these no more."""
        ...


class ProcessCall(Protocol):
    """A call of a handler in a process of the worker's own."""

    def halted(self, run: Run) -> None:
        """Pass on that the handler of this run is asked to stop."""
        ...

    def kill(self) -> None:
        """End the process."""
        ...


class Run:
    """A held job: what its handler's `Job` writes through, and what the engine knows of it."""

    __slots__ = (
        "batch",
        "began",
        "call",
        "child_adder",
        "children",
        "claimed_at",
        "data",
        "decision",
        "ended",
        "heartbeat",
        "in_thread",
        "limit",
        "loop",
        "noticed",
        "pid",
        "record",
        "report",
        "settings",
        "started",
        "started_at",
        "stop",
        "task",
    )

    def __init__(
        self,
        *,
        record: JobRecord,
        report: Report,
        settings: JobOptions,
        data: Any,
        heartbeat: LeaseKeeper,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.record = record
        self.report = report
        self.settings = settings
        self.data = data
        self.heartbeat = heartbeat
        self.loop = loop
        self.pid = os.getpid()
        self.stop: Stop | None = None
        self.decision: Signal | None = None
        #: The jobs to be added, children first, when the handler returns.
        self.children: list[JobRecord] = []
        #: Makes them of what the handler gives.
        self.child_adder: AddChildren | None = None
        self.task: asyncio.Task[None] | None = None
        self.started_at: datetime | None = None
        #: By the worker's clock, in seconds.
        self.began = 0.0
        self.claimed_at = 0.0
        #: The jobs that one call of the handler runs, this one included.
        self.batch: Sequence[Run] = (self,)
        #: The timeout that binds the call: the least of them.
        self.limit: timedelta | None = None
        self.started = False
        self.in_thread = False
        #: Its handler's call in a process.
        self.call: ProcessCall | None = None
        #: Whether the handler has seen that it is asked to stop.
        self.noticed = False
        self.ended = False

    @property
    def worker(self) -> None:
        """Its worker is in this process."""
        return

    @property
    def cancelled(self) -> bool:
        """Whether the handler is asked to stop. One that has seen so and returns has not done its work."""
        self.noticed = self.noticed or self.stop is not None
        return self.stop is not None

    @property
    def over(self) -> bool:
        """Whether nothing can be written any more: the run has ended, or is known to have lost its lease."""
        return self.ended or self.stop is Stop.LEASE_LOST

    def halt(self, why: Stop) -> None:
        """Ask the handler to stop; the first reason holds. One in a thread looks at `job.cancelled`.

        A batch goes on while one of its jobs may: its handler, too, has to look.
        """
        if self.stop is not None or self.ended:
            return
        self.stop = why
        if self.call is not None:
            self.call.halted(self)
            return
        if any(run.stop is None for run in self.batch):
            return
        # A task that has not taken its first step would end without the executor's clean-up.
        if self.started and not self.in_thread and self.task is not None:
            self.task.cancel()

    async def write(self, payload: str | None = None) -> None:
        """Store the report (and the payload) now; raises LeaseLostError if the lease is gone."""
        await self.heartbeat.write(self, payload)

    def write_soon(self) -> None:
        """Store the report within a moment; raises LeaseLostError if the lease is known to be gone."""
        self.heartbeat.write_soon(self)

    async def add_children(self, children: Iterable[FlowJob], queues: Iterable[AnyQueue]) -> None:
        """Add these, and have the job wait for them, when the handler returns."""
        if self.child_adder is not None:
            await self.child_adder(self, children, queues)

    def decide(self, signal: Signal) -> None:
        """Settle the job so, instead of as completed, when the handler returns."""
        self.decision = signal
