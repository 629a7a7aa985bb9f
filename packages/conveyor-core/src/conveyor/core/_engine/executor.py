"""Running handlers: each in a task, plain functions in a thread of the worker's own, or a process."""

from __future__ import annotations

import asyncio
import inspect
import logging
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, takewhile
from typing import TYPE_CHECKING, Any, Final

from conveyor.core._engine import batch_results
from conveyor.core._engine.loop_lag import LagWatch
from conveyor.core._engine.outcome_policy import Ending, OutcomePolicy, Raised, Returned
from conveyor.core._engine.processes.call import Call
from conveyor.core._engine.run import Stop
from conveyor.core._engine.settler import shown
from conveyor.core._engine.threads import Threads
from conveyor.core.events import JobActive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from conveyor.core._engine.processes.pool import Processes
    from conveyor.core._engine.processes.process import Process
    from conveyor.core._engine.run import Run
    from conveyor.core._engine.settler import Settler
    from conveyor.core._engine.worker_context import WorkerContext
    from conveyor.core._jobs.settlements import Settlement
    from conveyor.core.clock import Timer
    from conveyor.core.job import Job
    from conveyor.core.store import JobRecord


_log: Final = logging.getLogger("conveyor.worker")


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Executor:
    """Runs up to `concurrency` handlers at once, and passes on what becomes of their jobs.

    With `batched`, a handler takes a list of jobs; without, each takes one. A call of it has one slot.
    A slot comes back when its handler has ended, however it ends; one that ignores its cancellation keeps it.
    A thread past its timeout, which nothing can stop, is left behind: it keeps the slot, but not the job.
    With `processes`, handlers run in these, and a slot needs one that is idle.
    """

    context: WorkerContext
    handler: Callable[[Any], object] | Mapping[str, Callable[[Any], object]]
    batched: bool = False
    #: Makes what the handler is given of a run.
    job_of: Callable[[Run], Job[Any]]
    concurrency: int
    policy: OutcomePolicy
    settler: Settler
    #: Called when a slot comes back, with what becomes of a job, if one has ended.
    freed: Callable[[Settlement | None], None]
    processes: Processes | None = None
    #: Oldest first.
    running: dict[Run, None] = field(init=False, default_factory=dict)
    #: Seconds that a handler takes, as a moving average; None until one has ended.
    typical: float | None = field(init=False, default=None)
    #: Threads that go on while their jobs are settled, and what runs in them.
    left: dict[asyncio.Future[Returned | Raised], Sequence[Run]] = field(init=False, default_factory=dict)
    _calls: int = field(init=False, default=0)
    _threads: Threads = field(init=False, default_factory=Threads)
    _lag: LagWatch = field(init=False)

    def __post_init__(self) -> None:
        self._lag = LagWatch(self.context.clock, self._in_handlers)

    @property
    def free(self) -> int:
        """How many more handlers may start."""
        free = self.concurrency - self._calls - len(self.left)
        return free if self.processes is None else min(free, self.processes.idle)

    @property
    def kill_after(self) -> float:
        """Seconds that a handler which is asked to stop may go on, before its process is killed."""
        return 0.0 if self.processes is None else self.processes.kill_after

    def coming(self) -> list[asyncio.Future[Any]]:
        """What brings a slot when it is done, where none is free and nothing runs.

        Raises what keeps processes from being started, if nothing else is to come.
        """
        if self.processes is None:
            return [*self.left]
        if not self.processes.starting and self.processes.trouble is not None:
            raise self.processes.trouble
        return [*self.processes.starting]

    def busy_for(self, seconds: float) -> int:
        """How many handlers have been running for longer than that."""
        before = self.context.clock.monotonic() - seconds
        return len(self.left) + sum(1 for _ in takewhile(lambda run: run.began < before, self.running))

    def _in_handlers(self) -> Iterator[JobRecord]:
        for run in chain(self.running, *self.left.values()):
            yield run.record

    def start(self, runs: Sequence[Run]) -> None:
        """Call the handler for held jobs: several for a batch, else one."""
        self._calls += 1
        self._lag.watch()
        process = None if self.processes is None else self.processes.take()
        task = asyncio.get_running_loop().create_task(self._execute(runs, process))
        for run in runs:
            self.running[run] = None
            run.began = self.context.clock.monotonic()
            run.batch = runs
            run.task = task

    async def open(self) -> None:
        """Start the processes, if there are any. Raises InvalidOptionError if they cannot be used."""
        if self.processes is not None:
            await self.processes.open()

    async def close(self) -> None:
        """Release the threads; what still runs in one is not waited for. Processes are ended."""
        self._threads.close()
        self._lag.stop()
        if self.processes is not None:
            await self.processes.close()

    async def _execute(self, runs: Sequence[Run], process: Process | None = None) -> None:
        at = self.context.clock.now()
        for run in runs:
            run.started = True
            run.started_at = at
        timer = None
        live: list[Run] = []
        unstarted = Raised(asyncio.CancelledError(), outside=True)
        endings: dict[Run, Ending] = dict.fromkeys(runs, unstarted)
        try:
            if await self._starts_are_written(runs):
                # Those that were to stop before they started are not in the call.
                live = [run for run in runs if run.stop is None]
            if live:
                self.context.publisher.publish([self._active(run) for run in live])
                timer = self._timeout(live)
                endings.update(zip(live, await self._endings(live, process), strict=True))
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises, its slot comes back
            task = asyncio.current_task()
            cancelled = (
                isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
            )
            # A handler can cancel its own task, too: that is a failure of it, or it would run for ever.
            outside = cancelled and self.context.state.is_ending
            endings.update(dict.fromkeys(live, Raised(error, outside=outside)))
        finally:
            if timer is not None:
                timer.cancel()
            for run in runs:
                run.ended = True
                self.running.pop(run, None)
                self._lag.end(run.record)
            self._calls -= 1
            if process is not None and self.processes is not None:
                self.processes.give_back(process)
        self._measure(self.context.clock.monotonic() - runs[0].began)
        for run, ending in endings.items():
            self._settle(run, ending)

    async def _starts_are_written(self, runs: Sequence[Run]) -> bool:
        """Store that jobs are about to run of which the store does not know; a job that cannot must not run.

        Else one that kills its process each time would never be charged for it.
        """
        unwritten = [run for run in runs if not run.record.started]
        if not unwritten:
            return True
        try:
            await unwritten[0].heartbeat.write_starts(unwritten)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged, and the jobs go back unrun
            names = shown(run.record.id for run in unwritten)
            _log.warning("the start of job(s) %s could not be stored, so they go back: %r", names, error)
            return False
        return True

    async def _endings(self, runs: Sequence[Run], process: Process | None) -> Sequence[Ending]:
        if process is None:
            value = await self._call(runs)
        else:
            ending = await self._call_in(process, runs)
            if not isinstance(ending, Returned):
                return [ending] * len(runs)
            value = ending.value
        return batch_results.each(runs, value) if self.batched else [Returned(value)]

    async def _call_in(self, process: Process, runs: Sequence[Run]) -> Ending:
        call = Call(
            process,
            runs,
            [self.job_of(run) for run in runs],
            kill_after=self.kill_after,
            clock=self.context.clock,
        )
        for run in runs:
            run.call = call
        return await process.run(call)

    def _settle(self, run: Run, ending: Ending) -> None:
        settlement: Settlement | None = None
        try:
            settlement = self.policy.settlement(run, ending, self.context.clock.now())
        except BaseException:  # noqa: BLE001 - what a handler left may be hostile: then the job stalls
            _log.exception("what becomes of job %s cannot be decided; its lease is released", run.record.id)
        if settlement is not None:
            self.settler.put(settlement)
        else:
            run.heartbeat.drop([run.record.lease])
        self.freed(settlement)

    def _active(self, run: Run) -> JobActive:
        record, at = run.record, run.started_at or self.context.clock.now()
        return JobActive(queue_name=record.queue, job_id=record.id, at=at, worker=self.context.worker)

    def _timeout(self, runs: Sequence[Run]) -> Timer | None:
        """The least of their timeouts binds the call, and so each of them."""
        limit = min((run.settings.timeout for run in runs if run.settings.timeout is not None), default=None)
        if limit is None:
            return None

        def halt() -> None:
            for run in runs:
                run.halt(Stop.TIMED_OUT)
            if runs[0].in_thread and runs[0].task is not None:
                # No thread can be stopped, but what waits for it can: the run is over.
                runs[0].task.cancel()
            if runs[0].call is not None:
                runs[0].call.kill()

        for run in runs:
            run.limit = limit
        return self.context.clock.call_later(limit.total_seconds(), halt)

    async def _call(self, runs: Sequence[Run]) -> Any:
        handler = self.handler if callable(self.handler) else self.handler[runs[0].record.name]
        jobs = [self.job_of(run) for run in runs]
        given = jobs if self.batched else jobs[0]
        if is_async(handler):
            return await handler(given)  # type: ignore[misc]
        for run in runs:
            run.in_thread = True
        thread = self._threads.run(partial(_plain, handler, given))
        try:
            await asyncio.wait([thread])
        finally:
            if not thread.done():
                self._leave(thread, runs)
        ending = thread.result()
        for run in runs:
            run.in_thread = False
        if isinstance(ending, Raised):
            raise ending.error
        if inspect.isawaitable(ending.value):
            if all(run.stop is not None for run in runs):
                _close(ending.value)
                raise asyncio.CancelledError
            return await ending.value
        return ending.value

    def _leave(self, thread: asyncio.Future[Returned | Raised], runs: Sequence[Run]) -> None:
        """Go on without a thread; its slot comes back when it ends."""
        self.left[thread] = runs
        thread.add_done_callback(self._end_left)
        if all(run.stop is not None for run in runs):
            _log.warning(
                "the thread of %s goes on past its timeout of %s, for nothing can stop it: it keeps its slot "
                "until it ends, and another run of the job may begin beside it",
                shown(f"job {run.record.id} ({run.record.name})" for run in runs),
                runs[0].limit,
            )

    def _end_left(self, thread: asyncio.Future[Returned | Raised]) -> None:
        self.left.pop(thread, None)
        if thread.exception() is None and isinstance(ending := thread.result(), Returned):
            _close(ending.value)
        self.freed(None)

    def _measure(self, seconds: float) -> None:
        self.typical = seconds if self.typical is None else self.typical * 0.9 + seconds * 0.1


def is_async(handler: Callable[..., object]) -> bool:
    """Whether calling it makes a coroutine: then it runs in the event loop."""
    plain = handler
    while isinstance(plain, partial):
        plain = plain.func
    return inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(
        getattr(plain, "__call__", None)  # noqa: B004 - the method itself is looked at, not called
    )


def _plain(handler: Callable[[Any], object], given: Job[Any] | list[Job[Any]]) -> Returned | Raised:
    """Call a handler in a thread. Its exception travels as a value: a future takes not every kind."""
    try:
        return Returned(handler(given))
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises is for the policy to decide about
        return Raised(error)


def _close(awaitable: object) -> None:
    if inspect.iscoroutine(awaitable):
        awaitable.close()
