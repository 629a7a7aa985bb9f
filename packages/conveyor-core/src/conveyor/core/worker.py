"""Worker: runs the jobs of a queue."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self
from uuid import uuid4

from typing_extensions import TypeVar

from conveyor.core import events as happened
from conveyor.core._argument_checks import checked_clock, checked_store
from conveyor.core._engine.assembly import Callbacks, Parts, assemble
from conveyor.core._engine.event_publisher import EventPublisher
from conveyor.core._engine.handlers import refuse_generator
from conveyor.core._engine.lifecycle import Lifecycle
from conveyor.core._engine.option_checks import checked_strategies
from conveyor.core._engine.outcome_policy import OutcomePolicy
from conveyor.core._engine.processes.process_options import checked_processes
from conveyor.core._engine.retry_policy import RetryPolicy
from conveyor.core._engine.run import Run
from conveyor.core._engine.worker_context import WorkerContext
from conveyor.core._engine.worker_options import Handling, Intervals, Limits, rules_of
from conveyor.core._engine.worker_state import WorkerState
from conveyor.core._inspect import worker_registry
from conveyor.core._inspect.worker_registry import RunningJob, WorkerInfo
from conveyor.core._jobs.payload import MAX_BYTES
from conveyor.core._queue_names import checked_queue_name
from conveyor.core.batch import Batch
from conveyor.core.durations import Duration, duration
from conveyor.core.errors import InvalidOptionError
from conveyor.core.flow import add_children
from conveyor.core.job import Job
from conveyor.core.job_options import Keeping, checked_keep, checked_name, flag
from conveyor.core.limits import GroupLimit, RateLimit

if TYPE_CHECKING:
    from datetime import timedelta
    from types import TracebackType

    from conveyor.core._jobs.settlements import Settlement
    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.store import Retention, Store

T = TypeVar("T", default=Any)
#: A function of a job; or, with `batch`, of a list of jobs.
Handler = Callable[[Job[T]], object] | Callable[[list[Job[T]]], object]

_EVENTS: Final[dict[str, type[Event]]] = {
    "waiting": happened.JobWaiting,
    "delayed": happened.JobDelayed,
    "active": happened.JobActive,
    "completed": happened.JobCompleted,
    "retrying": happened.JobRetrying,
    "failed": happened.JobFailed,
    "stalled": happened.JobStalled,
    "cancelled": happened.JobCancelled,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """What a worker is doing now, and has done since it started."""

    running: int
    ready: int
    free_slots: int
    unwritten: int
    settled: int


class Worker(Generic[T]):
    """Runs the jobs of a queue with a handler.

    The handler is an async function, or a plain one, which runs in a thread; with `executor="process"`, in
    one of `processes`. Or it is a mapping of such by job name: then only jobs of these names are claimed. It
    takes a job; with `batch`, a list of jobs, of each of which it returns the result, by position. `async
    with` starts the worker and closes it; `run()` does so until the process is told to stop.

    A handler may run again after a crash; of its outcomes exactly one is accepted.
    """

    def __init__(
        self,
        queue_name: str,
        handler: Handler[T] | Mapping[str, Handler[Any]],
        store: Store,
        *,
        concurrency: int | None = None,
        executor: Literal["thread", "process"] = "thread",
        processes: int | None = None,
        kill_after: Duration | None = None,
        max_global_concurrency: int | None = None,
        limiter: RateLimit | None = None,
        group: GroupLimit | None = None,
        batch: Batch | None = None,
        lifo: bool = False,
        lock_duration: Duration = "30s",
        max_stalled: int = 3,
        stalled_interval: Duration = "30s",
        poll_interval: Duration = "1s",
        maintenance_interval: Duration = "30s",
        prefetch: int | None = None,
        backoff_strategies: Mapping[str, Callable[[int], Duration]] | None = None,
        keep: Keeping | None = None,
        payload: type[T] | None = None,
        result: Any = None,
        max_payload_bytes: int = MAX_BYTES,
        max_result_bytes: int = MAX_BYTES,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Make a worker; nothing runs yet.

        Raises InvalidOptionError for an option that cannot be used, UnsupportedFeatureError if the store
        does not offer what the options need. `clock` is for tests.
        """
        self.queue_name = checked_queue_name(queue_name, "queue_name")
        #: Unique to this worker, in this process, this time.
        self.id = f"{_host()}:{os.getpid()}:{uuid4().hex[:8]}"
        self.name = self.id if name is None else checked_name(name, "name")
        in_processes = checked_processes(executor, processes, kill_after, concurrency)
        kinds, most = (payload, result), (max_payload_bytes, max_result_bytes)
        self._handling = Handling.of(
            handler, batch, kinds=kinds, most=most, processes=in_processes, concurrency=concurrency
        )
        self._limits = Limits.of(checked_store(store), max_global_concurrency, limiter, group)
        timing = Intervals.of(lock_duration, stalled_interval, poll_interval, maintenance_interval)
        self._rules = rules_of(
            self.queue_name,
            self.name,
            self._handling,
            self._limits,
            timing,
            max_stalled=max_stalled,
            prefetch=prefetch,
            lifo=lifo,
        )
        strategies = checked_strategies(backoff_strategies)
        self._context = self._shared(store, checked_clock(clock), timing.lease)
        self._parts = self._assembled(strategies, checked_keep(keep), timing.maintenance_interval)
        self._lifecycle = Lifecycle(self._context, self._parts)

    def _shared(self, store: Store, clock: Clock, lease: timedelta) -> WorkerContext:
        state = WorkerState()
        return WorkerContext(
            store=store,
            queue=self.queue_name,
            worker=self.name,
            lease=lease,
            clock=clock,
            # Python seeds its own generator anew in forked children; with one of ours all would wait for the
            # same times. Pinned by test_workers_of_forked_processes_draw_their_own_waits.
            random=random.random,
            publisher=EventPublisher(store=store, state=state),
            state=state,
        )

    def _assembled(
        self,
        strategies: Mapping[str, Callable[[int], Duration]],
        keep: Retention | None,
        maintenance_interval: float,
    ) -> Parts:
        handling, context = self._handling, self._context
        policy = OutcomePolicy(
            worker=self.name,
            retries=RetryPolicy(strategies=strategies, random=context.random),
            encoded=handling.results.encode,
            keep=keep,
        )
        callbacks = Callbacks(
            job_of=self._job_of, described=self._described, applied=self._applied, freed=self._freed
        )
        return assemble(
            context,
            handling,
            self._rules,
            policy,
            callbacks,
            id=self.id,
            maintenance_interval=maintenance_interval,
        )

    def __repr__(self) -> str:
        """The worker's queue and name."""
        return f"<Worker {self.name!r} of {self.queue_name!r}>"

    # ----------------------------------------------------------- lifecycle

    async def __aenter__(self) -> Self:
        """Start the worker."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the worker."""
        await self.close()

    async def start(self) -> None:
        """Start to claim and run jobs. A second call does nothing.

        Raises WorkerClosedError after `close`: make a new worker. Raises StoreClosedError if the store is not
        open. One that cannot be reached is no reason: jobs are claimed as soon as it can. Raises
        InvalidOptionError for a handler that the worker's processes cannot import.
        """
        await self._lifecycle.start()

    async def run(self, *, grace: Duration = "30s", signals: bool = True) -> None:
        """Run until SIGINT or SIGTERM, or until `close` is called, or this is cancelled; then close.

        After the first signal, running handlers may take `grace` to finish; a second signal means now. What
        handled the signals before, such as the web server around this, goes on handling them, unless it
        would only have ended the program. Without `signals` they are left alone.

        Raises InvalidOptionError for an option that cannot be used, and for `signals` outside the main
        thread; WorkerClosedError and StoreClosedError as `start` does.
        """
        seconds = duration(grace, "grace").total_seconds()
        await self._lifecycle.run(seconds, signals=flag(signals, "signals"))

    async def run_until_idle(self) -> None:
        """Run every job that can run now, those included that this makes runnable; then return.

        For a worker that is not started: a batch run, or a test. Delayed jobs are left until they are due.

        Raises what the store raises when jobs are claimed, and WorkerClosedError after `close`. Outcomes are
        written until they are accepted, as long as that takes.
        """
        await self._lifecycle.run_until_idle()

    async def close(self, timeout: Duration = 30) -> None:
        """Stop: claim no more, give back what has not started, let running handlers finish for `timeout`.

        Then they are cancelled, and their jobs given back. It takes `timeout` and a few seconds at most. If
        the call itself is cancelled, everything stops at once, in order, before the cancellation goes on.
        """
        await self._lifecycle.close(duration(timeout, "timeout").total_seconds())

    async def pause(self) -> None:
        """Let this worker claim no more; what it runs goes on, what it has not started is given back."""
        self._parts.poller.paused = True
        self._parts.poller.give_back()
        await self._parts.settler.flush()

    async def resume(self) -> None:
        """Claim again."""
        self._parts.poller.paused = False
        self._parts.poller.wake()

    def on(self, event: str, callback: Callable[[Any], object]) -> None:
        """Call back, with the event, when a job of this worker is "active", "completed", "failed", and so on.

        The callback may be async. What it raises is logged, and reaches nobody.
        """
        kind = _EVENTS.get(event) if isinstance(event, str) else None
        if kind is None:
            raise InvalidOptionError("event", event, f"one of {', '.join(sorted(_EVENTS))}")
        if not callable(callback):
            raise InvalidOptionError("callback", callback, "it is called with the event")
        refuse_generator(callback, "callback")
        self._context.publisher.on(kind, callback)

    def stats(self) -> WorkerStats:
        """What the worker is doing now."""
        return WorkerStats(
            running=len(self._parts.executor.running),
            ready=self._parts.poller.ready,
            free_slots=self._parts.executor.free,
            unwritten=self._parts.settler.backlog,
            settled=self._context.state.settled,
        )

    # --------------------------------------------------------------- below

    def _described(self) -> str:
        """What the worker says of itself."""
        claim, running = self._rules.claim, self._parts.executor.running
        host, pid, _ = self.id.rsplit(":", 2)
        info = WorkerInfo(
            id=self.id,
            name=self.name,
            queue_names=(self.queue_name,),
            host=host,
            pid=int(pid),
            started_at=self._lifecycle.started_at,
            last_beat_at=self._context.clock.now(),
            concurrency=self._handling.concurrency,
            batch_size=1 if self._rules.batch is None else self._rules.batch.size,
            free_count=self._parts.executor.free,
            paused=self._parts.poller.paused,
            lifo=claim.newest_first,
            names=claim.names,
            max_global_concurrency=self._limits.max_global_concurrency,
            limiter=self._limits.limiter,
            group=self._limits.group,
            running_count=len(running),
            ready_count=self._parts.poller.ready,
            running=tuple(
                RunningJob(id=run.record.id, name=run.record.name, started_at=run.started_at)
                for run in islice(running, worker_registry.MOST_RUNNING)
            ),
        )
        return worker_registry.registration(info, self._context.lease)

    def _job_of(self, run: Run) -> Job[T]:
        run.child_adder = partial(
            add_children, self._context.store, self._context.clock, max_bytes=self._handling.max_payload_bytes
        )
        job: Job[T] = Job(
            self._context.store,
            run.record,
            self._handling.payloads.of(run.record.name),
            self._context.clock,
            max_bytes=self._handling.max_payload_bytes,
            run=run,
        )
        job._data, job._decoded = run.data, True  # noqa: SLF001 - decoded once, by the poller
        return job

    def _applied(self, _: Settlement) -> None:
        self._context.state.settled += 1
        self._lifecycle.closing.notice()
        self._parts.poller.written()
        if self._rules.limited:
            self._parts.poller.wake()

    def _freed(self, settlement: Settlement | None) -> None:
        self._lifecycle.closing.notice()
        if settlement is not None and settlement.pause is not None:
            # Received at once: what this worker has ready must not run into the same limit.
            self._parts.poller.pause_received(settlement.pause[0])
        self._parts.poller.freed()


def _host() -> str:
    return socket.gethostname().partition(".")[0] or "host"
