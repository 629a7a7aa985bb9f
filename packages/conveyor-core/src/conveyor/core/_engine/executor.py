"""Running handlers: each in a task, plain functions in a thread of the worker's own."""

from __future__ import annotations

import asyncio
import inspect
import logging
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from conveyor.core._engine.run import Stop
from conveyor.core._engine.threads import Threads
from conveyor.core._engine.verdict import Judge, Raised, Returned
from conveyor.core.events import JobActive

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from conveyor.core._engine.announcer import Announcer
    from conveyor.core._engine.run import Run
    from conveyor.core._engine.settler import Settler, Verdict
    from conveyor.core.clock import Clock
    from conveyor.core.job import Job


_log: Final = logging.getLogger("conveyor.worker")


class Executor:
    """Runs up to `concurrency` handlers at once, and passes on what becomes of their jobs.

    A slot comes back when its handler has ended, however it ends; one that ignores its cancellation keeps it.
    """

    def __init__(
        self,
        *,
        handler: Callable[[Job[Any]], object] | Mapping[str, Callable[[Job[Any]], object]],
        job_of: Callable[[Run], Job[Any]],
        concurrency: int,
        judge: Judge,
        settler: Settler,
        announcer: Announcer,
        clock: Clock,
        freed: Callable[[Verdict | None], None],
    ) -> None:
        self._handler = handler
        self._job_of = job_of
        self.concurrency = concurrency
        self._judge = judge
        self._settler = settler
        self._announcer = announcer
        self._clock = clock
        self._freed = freed
        #: Oldest first.
        self.running: dict[Run, None] = {}
        #: Seconds that a handler takes, as a moving average; None until one has ended.
        self.typical: float | None = None
        self._threads = Threads()

    @property
    def free(self) -> int:
        """How many more handlers may start."""
        return self.concurrency - len(self.running)

    def busy_for(self, seconds: float) -> int:
        """How many handlers have been running for longer than that."""
        before = self._clock.monotonic() - seconds
        return sum(1 for _ in takewhile(lambda run: run.began < before, self.running))

    def start(self, run: Run) -> None:
        """Run the handler of a held job."""
        self.running[run] = None
        run.began = self._clock.monotonic()
        run.task = asyncio.get_running_loop().create_task(self._execute(run))

    def close(self) -> None:
        """Let the threads go; what still runs in one is not waited for."""
        self._threads.close()

    async def _execute(self, run: Run) -> None:
        run.started = True
        run.started_at = self._clock.now()
        record = run.record
        timer = None
        try:
            if run.stop is not None:
                ending: Returned | Raised = Raised(asyncio.CancelledError())
            else:
                self._announcer.tell(
                    [
                        JobActive(
                            queue_name=record.queue,
                            job_id=record.id,
                            at=run.started_at,
                            worker=self._judge.worker,
                        )
                    ]
                )
                if run.settings.timeout is not None:
                    timer = self._clock.call_later(
                        run.settings.timeout.total_seconds(), partial(run.halt, Stop.TIMED_OUT)
                    )
                ending = Returned(await self._call(run))
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises, its slot comes back
            task = asyncio.current_task()
            by_others = task is not None and task.cancelling() > 0 and run.stop is None
            ending = Raised(error, outside=by_others and isinstance(error, asyncio.CancelledError))
        finally:
            if timer is not None:
                timer.cancel()
            run.ended = True
            self.running.pop(run, None)
        self._measure(self._clock.monotonic() - run.began)
        verdict: Verdict | None = None
        try:
            verdict = self._judge.verdict(run, ending, self._clock.now())
        except BaseException:  # noqa: BLE001 - what a handler left may be hostile: then the job stalls
            _log.exception("what becomes of job %s cannot be told; its lease is let go", record.id)
        if verdict is not None:
            self._settler.put(verdict)
        else:
            run.heartbeat.drop([record.lease])
        self._freed(verdict)

    async def _call(self, run: Run) -> Any:
        handler = self._handler if callable(self._handler) else self._handler[run.record.name]
        job = self._job_of(run)
        if is_async(handler):
            return await handler(job)  # type: ignore[misc]
        run.in_thread = True
        ending = await self._threads.run(partial(_plain, handler, job))
        run.in_thread = False
        if isinstance(ending, Raised):
            raise ending.error
        if inspect.isawaitable(ending.value):
            if run.stop is not None:
                _close(ending.value)
                raise asyncio.CancelledError
            return await ending.value
        return ending.value

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


def _plain(handler: Callable[[Job[Any]], object], job: Job[Any]) -> Returned | Raised:
    """Call a handler in a thread. Its exception travels as a value: a future takes not every kind."""
    try:
        return Returned(handler(job))
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises is for the verdict to judge
        return Raised(error)


def _close(awaitable: object) -> None:
    if inspect.iscoroutine(awaitable):
        awaitable.close()
