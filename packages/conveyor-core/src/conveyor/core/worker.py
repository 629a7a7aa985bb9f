"""Worker: runs the jobs of a queue."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self
from uuid import uuid4

from typing_extensions import TypeVar

from conveyor.core import events as told
from conveyor.core._engine.decisions import Judge
from conveyor.core._engine.error_backoff import ErrorBackoff
from conveyor.core._engine.executor import Executor
from conveyor.core._engine.handlers import checked_handler, payloads_of, refuse_generator, results_of
from conveyor.core._engine.heartbeat import Heartbeat
from conveyor.core._engine.maintenance import Maintenance
from conveyor.core._engine.os_signals import told_by_signals
from conveyor.core._engine.parents import Parents
from conveyor.core._engine.poller import Poller, Rules
from conveyor.core._engine.processes.options import checked_processes, plan_of
from conveyor.core._engine.processes.pool import Processes
from conveyor.core._engine.publisher import Announcer
from conveyor.core._engine.registration import Presence
from conveyor.core._engine.run import Run
from conveyor.core._engine.scheduler import Scheduler
from conveyor.core._engine.settler import Settler
from conveyor.core._engine.shutdown import Closing, Tasks
from conveyor.core._engine.subscriber import Listener
from conveyor.core._engine.validation import (
    checked_batch,
    checked_group_limit,
    checked_limit,
    checked_strategies,
    refuse_missing,
)
from conveyor.core._inspect import follow, workers
from conveyor.core._inspect.workers import RunningJob, WorkerInfo
from conveyor.core._jobs.ids import new_token
from conveyor.core._jobs.payload import MAX_BYTES
from conveyor.core._queue_names import checked_queue_name
from conveyor.core._validation import checked_clock, checked_store
from conveyor.core.batch import Batch
from conveyor.core.durations import Duration, duration
from conveyor.core.errors import InvalidOptionError, WorkerClosedError
from conveyor.core.flow import add_children
from conveyor.core.job import Job
from conveyor.core.limits import GroupLimit, RateLimit
from conveyor.core.options import Keeping, checked_keep, checked_name, flag, whole
from conveyor.core.store import Claim, Stalled

if TYPE_CHECKING:
    from types import TracebackType

    from conveyor.core._jobs.outcomes import Settlement
    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.store import Store

T = TypeVar("T", default=Any)
#: A function of a job; or, with `batch`, of a list of jobs.
Handler = Callable[[Job[T]], object] | Callable[[list[Job[T]]], object]
_log: Final = logging.getLogger("conveyor.worker")

_SHORT_LEASE: Final = timedelta(seconds=10)
_EVENTS: Final[dict[str, type[Event]]] = {
    "waiting": told.JobWaiting,
    "delayed": told.JobDelayed,
    "active": told.JobActive,
    "completed": told.JobCompleted,
    "retrying": told.JobRetrying,
    "failed": told.JobFailed,
    "stalled": told.JobStalled,
    "cancelled": told.JobCancelled,
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
        self._handler = checked_handler(handler)
        self._batch = checked_batch(batch, self._handler, prefetch)
        self._store = checked_store(store)
        self._clock = checked_clock(clock)
        #: Unique to this worker, in this process, this time.
        self.id = f"{_host()}:{os.getpid()}:{uuid4().hex[:8]}"
        self.name = self.id if name is None else checked_name(name, "name")
        self._in_processes = checked_processes(executor, processes, kill_after, concurrency)
        if concurrency is None:
            concurrency = 1 if self._in_processes is None else self._in_processes.count
        self._concurrency = whole(concurrency, "concurrency", least=1, most=10_000)
        lease = duration(lock_duration, "lock_duration", zero=False)
        if lease < _SHORT_LEASE:
            warnings.warn(
                f"lock_duration={lock_duration!r} is short: what blocks the loop for that long loses its job",
                stacklevel=2,
            )
        limit = checked_limit(max_global_concurrency, limiter, "max_global_concurrency")
        group_limit = checked_group_limit(group)
        refuse_missing(store, limit, group_limit)
        if prefetch is not None:
            whole(prefetch, "prefetch", least=0, most=10_000)
        whole(max_stalled, "max_stalled", least=0)
        limited = limit is not None or group_limit is not None
        if limited and prefetch:
            raise InvalidOptionError("prefetch", prefetch, "with a limit it is 0: a claim is a start")
        if prefetch and max_stalled == 0:
            raise InvalidOptionError(
                "prefetch", prefetch, "with max_stalled=0 it is 0: no job may stall unrun"
            )
        self._payloads = payloads_of(self._handler, payload)
        self._max_bytes = whole(max_payload_bytes, "max_payload_bytes", least=1)
        self._results = results_of(
            self._handler,
            result,
            batched=batch is not None,
            max_bytes=whole(max_result_bytes, "max_result_bytes", least=1),
        )
        self._plan: dict[str, Any] = {}
        if self._in_processes is not None:
            self._plan = plan_of(
                self._handler,
                payload=payload,
                result=result,
                batched=batch is not None,
                max_payload_bytes=max_payload_bytes,
                max_result_bytes=max_result_bytes,
            )
        self._lease = lease
        self._rules = Rules(
            claim=Claim(
                queue=self.queue_name,
                count=1,
                token=new_token(),
                lease=lease,
                worker=self.name,
                newest_first=flag(lifo, "lifo"),
                names=None if callable(self._handler) else frozenset(self._handler),
                limit=limit,
                group_limit=group_limit,
                started=max_stalled > 0,
                stalled=Stalled.LEFT,
            ),
            max_stalled=max_stalled,
            stalled_interval=duration(stalled_interval, "stalled_interval", zero=False).total_seconds(),
            poll_interval=duration(poll_interval, "poll_interval", zero=False).total_seconds(),
            prefetch=0 if limited or batch is not None or max_stalled == 0 else prefetch,
            batch=batch,
        )
        self._maintenance_interval = duration(
            maintenance_interval, "maintenance_interval", zero=False
        ).total_seconds()
        self._strategies = checked_strategies(backoff_strategies)
        self._keep = checked_keep(keep)
        self._max_global_concurrency, self._limiter, self._group = max_global_concurrency, limiter, group
        self._limited = limited
        self._settled = 0
        self._tasks = Tasks()
        self._closing: asyncio.Task[None] | None = None
        #: The task that is in `run_until_idle`.
        self._idler: asyncio.Task[Any] | None = None
        self._stop_requested = asyncio.Event()
        self._state = "new"
        self._wire()

    def _wire(self) -> None:
        """Make the engine: poller → executor → settler, with the heartbeat beside them."""
        store, clock = self._store, self._clock
        # Python seeds its own generator anew in forked children; with one of ours all would wait for the
        # same times. Pinned by test_workers_of_forked_processes_draw_their_own_waits.
        rand = random.random

        def backoff(what: str) -> ErrorBackoff:
            return ErrorBackoff(f"{what} for queue {self.queue_name!r}", clock, rand)

        judge = Judge(
            worker=self.name,
            strategies=self._strategies,
            random=rand,
            encoded=self._results.encode,
            keep=self._keep,
        )
        self._announcer = Announcer(store, ending=self._is_ending, loop_ends=self._loop_ends)
        self._presence = Presence(
            store=store,
            queue=self.queue_name,
            id=self.id,
            worker=self.name,
            payload=lambda: workers.entry(self._info(), self._lease),
            lease=self._lease,
            clock=clock,
        )
        self._heartbeat = Heartbeat(
            store,
            self._lease,
            clock,
            backoff("renewing leases"),
            self._presence,
            loop_ends=self._loop_ends,
        )
        self._parents = Parents(
            store=store,
            lease=self._lease,
            keep=self._keep,
            announcer=self._announcer,
            backoff=backoff("looking after parents"),
            clock=clock,
            loop_ends=self._loop_ends,
        )
        self._settler = Settler(
            store=store,
            heartbeat=self._heartbeat,
            judge=judge,
            announcer=self._announcer,
            backoff=backoff("writing outcomes"),
            clock=clock,
            applied=self._applied,
            written=self._parents.note,
            loop_ends=self._loop_ends,
        )
        self._executor = Executor(
            handler=self._handler,
            batched=self._batch is not None,
            job_of=self._job_of,
            concurrency=self._concurrency,
            judge=judge,
            settler=self._settler,
            announcer=self._announcer,
            clock=clock,
            freed=self._freed,
            ending=self._is_ending,
            processes=self._made_processes(),
        )
        self._poller = Poller(
            store=store,
            rules=self._rules,
            payloads=self._payloads,
            executor=self._executor,
            settler=self._settler,
            heartbeat=self._heartbeat,
            announcer=self._announcer,
            judge=judge,
            clock=clock,
            backoff=backoff("claiming jobs"),
        )
        self._maintenance = Maintenance(
            store=store,
            queue=self.queue_name,
            names=self._rules.claim.names,
            interval=self._maintenance_interval,
            clock=clock,
            backoff=backoff("removing old jobs"),
        )
        self._scheduler = Scheduler(
            store=store,
            queue=self.queue_name,
            worker=self.name,
            lease=self._lease,
            announcer=self._announcer,
            clock=clock,
            backoff=backoff("firing schedules"),
            random=rand,
        )
        self._listener = Listener(
            store=store,
            queue=self.queue_name,
            worker=self.name,
            poller=self._poller,
            scheduler=self._scheduler,
            heartbeat=self._heartbeat,
            backoff=backoff("listening to events"),
        )
        self._stopping = Closing(
            worker=self.name,
            poller=self._poller,
            executor=self._executor,
            settler=self._settler,
            parents=self._parents,
            scheduler=self._scheduler,
            maintenance=self._maintenance,
            heartbeat=self._heartbeat,
            presence=self._presence,
            announcer=self._announcer,
            clock=clock,
        )

    def _made_processes(self) -> Processes | None:
        options = self._in_processes
        if options is None:
            return None
        return Processes(
            self._plan, options.count, options.kill_after, self._clock, changed=lambda: self._freed(None)
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
        self._refuse_closed()
        if self._state == "running":
            return
        self._state = "running"
        try:
            await follow.refuse_closed(self._store, self.queue_name)
        except BaseException:
            if self._closing is None:
                self._state = "new"
            raise
        if self._closing is not None:
            return  # closed meanwhile
        listening = asyncio.Event()
        tasks, start = self._tasks, asyncio.create_task
        tasks.others += [start(self._listener.loop(listening)), start(self._heartbeat.loop())]
        tasks.maintaining.append(start(self._maintenance.loop()))
        self._started_at = self._clock.now()
        # Heard before looked for: a job that is added in between is not missed.
        try:
            await self._executor.open()
            await listening.wait()
        except BaseException:
            await self.close(0)
            raise
        tasks.claiming += [start(self._poller.loop()), start(self._scheduler.loop())]
        tasks.announcing.append(start(self._presence.loop()))
        self._log_state("started")

    async def run(self, *, grace: Duration = "30s", signals: bool = True) -> None:
        """Run until SIGINT or SIGTERM, or until `close` is called, or this is cancelled; then close.

        After the first signal, running handlers may take `grace` to finish; a second signal means now. What
        handled the signals before, such as the web server around this, goes on handling them, unless it
        would only have ended the program. Without `signals` they are left alone.

        Raises InvalidOptionError for an option that cannot be used, and for `signals` outside the main
        thread; WorkerClosedError and StoreClosedError as `start` does.
        """
        limit = duration(grace, "grace").total_seconds()
        signalled = False

        def stop() -> None:
            nonlocal signalled
            if signalled:
                _log.warning("%s: told to stop again: stopping now", self.name)
                self._stopping.hurry()
            else:
                signalled = True
                self._poller.stop()
                self._request_stop()

        with told_by_signals(stop) if flag(signals, "signals") else nullcontext():
            await self.start()
            try:
                await self._stop_requested.wait()
            finally:
                await self.close(limit)

    async def run_until_idle(self) -> None:
        """Run every job that can run now, those included that this makes runnable; then return.

        For a worker that is not started: a batch run, or a test. Delayed jobs are left until they are due.

        Raises what the store raises when jobs are claimed, and WorkerClosedError after `close`. Outcomes are
        written until they are accepted, as long as that takes.
        """
        self._refuse_closed()
        self._idler = asyncio.current_task()
        await self._executor.open()
        self._poller.stop_lingering()
        await self._scheduler.tick()
        while True:
            self._poller.wake_for_time()
            self._poller.wake()
            await self._poller.tick()
            running: list[asyncio.Future[Any]] = [
                run.task for run in self._executor.running if run.task is not None
            ]
            if not running and not self._executor.free:
                # Threads past their timeouts have every slot: only then are they waited for.
                # Or processes are still to start.
                running = self._executor.coming()
            if running:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            elif not self._poller.ready and not self._settler.backlog and not self._parents.busy:
                break
            await self._settler.flush()
            await self._parents.flush()
        await self._announcer.flush()
        await self._executor.close()

    async def close(self, timeout: Duration = 30) -> None:
        """Stop: claim no more, give back what has not started, let running handlers finish for `timeout`.

        Then they are cancelled, and their jobs given back. It takes `timeout` and a few seconds at most. If
        the call itself is cancelled, everything stops at once, in order, before the cancellation goes on.
        """
        limit = duration(timeout, "timeout").total_seconds()
        self._request_stop()
        if self._state == "new":
            self._state = "closed"
            self._poller.stop()
            await self._executor.close()
        if self._closing is None:
            if self._state == "closed":
                return
            self._state = "closed"
            self._closing = asyncio.create_task(self._stop(limit))
        elif limit == 0:
            self._stopping.hurry()
        cancelled = False
        while not self._closing.done():
            try:
                await asyncio.wait([self._closing])
            except asyncio.CancelledError:
                cancelled = True
                self._stopping.hurry()
        self._closing.result()
        if cancelled:
            raise asyncio.CancelledError

    def _refuse_closed(self) -> None:
        if self._state == "closed":
            raise WorkerClosedError(self.name)

    def _request_stop(self) -> None:
        if self._state == "running" and not self._stop_requested.is_set():
            self._log_state("told to stop: running handlers may finish")
        self._stop_requested.set()

    async def _stop(self, limit: float) -> None:
        try:
            await self._stopping.close(limit, self._tasks)
        finally:
            self._log_state("stopped")

    async def pause(self) -> None:
        """Let this worker claim no more; what it runs goes on, what it has not started is given back."""
        self._poller.paused = True
        self._poller.give_back()
        await self._settler.flush()

    async def resume(self) -> None:
        """Claim again."""
        self._poller.paused = False
        self._poller.wake()

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
        self._announcer.on(kind, callback)

    def stats(self) -> WorkerStats:
        """What the worker is doing now."""
        return WorkerStats(
            running=len(self._executor.running),
            ready=self._poller.ready,
            free_slots=self._executor.free,
            unwritten=self._settler.backlog,
            settled=self._settled,
        )

    # --------------------------------------------------------------- below

    def _info(self) -> WorkerInfo:
        """What the worker tells of itself."""
        claim, running = self._rules.claim, self._executor.running
        host, pid, _ = self.id.rsplit(":", 2)
        return WorkerInfo(
            id=self.id,
            name=self.name,
            queue_names=(self.queue_name,),
            host=host,
            pid=int(pid),
            started_at=self._started_at,
            last_beat_at=self._clock.now(),
            concurrency=self._concurrency,
            batch_size=1 if self._batch is None else self._batch.size,
            free_count=self._executor.free,
            paused=self._poller.paused,
            lifo=claim.newest_first,
            names=claim.names,
            max_global_concurrency=self._max_global_concurrency,
            limiter=self._limiter,
            group=self._group,
            running_count=len(running),
            ready_count=self._poller.ready,
            running=tuple(
                RunningJob(id=run.record.id, name=run.record.name, started_at=run.started_at)
                for run in islice(running, workers.MOST_RUNNING)
            ),
        )

    def _log_state(self, what: str) -> None:
        text, fields = "worker %s of queue %r: %s", {"worker": self.name, "queue": self.queue_name}
        _log.info(text, self.name, self.queue_name, what, extra=fields)

    def _is_ending(self) -> bool:
        """Whether the worker is closing or being cancelled, so that cancellations may come from outside."""
        idler = self._idler
        left = idler is not None and (idler.done() or idler.cancelling() > 0)
        return self._state == "closed" or self._tasks.cancelled or left

    def _loop_ends(self) -> bool:
        return self._tasks.cancelled

    def _job_of(self, run: Run) -> Job[T]:
        run.child_adder = partial(add_children, self._store, self._clock, max_bytes=self._max_bytes)
        job: Job[T] = Job(
            self._store,
            run.record,
            self._payloads.of(run.record.name),
            self._clock,
            max_bytes=self._max_bytes,
            run=run,
        )
        job._data, job._decoded = run.data, True  # noqa: SLF001 - decoded once, by the poller
        return job

    def _applied(self, _: Settlement) -> None:
        self._settled += 1
        self._stopping.notice()
        self._poller.written()
        if self._limited:
            self._poller.wake()

    def _freed(self, settlement: Settlement | None) -> None:
        self._stopping.notice()
        if settlement is not None and settlement.pause is not None:
            # Heard of at once: what this worker has ready must not run into the same limit.
            self._poller.pause_received(settlement.pause[0])
        self._poller.freed()


def _host() -> str:
    return socket.gethostname().partition(".")[0] or "host"
