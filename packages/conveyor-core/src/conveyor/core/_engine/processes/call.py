"""One call of a handler that runs in a process."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol

from conveyor.core._engine.batch_results import Misfit
from conveyor.core._engine.handlers import Encoded
from conveyor.core._engine.outcome_policy import Died, Raised, Returned
from conveyor.core._engine.processes.messages import packed, packed_error, unpacked, unpacked_raise
from conveyor.core.job import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conveyor.core._engine.outcome_policy import Ending
    from conveyor.core._engine.run import Run
    from conveyor.core.clock import Clock, Timer


class Connection(Protocol):
    """The process that runs a call, as far as the call needs it."""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; to one that is dead, nothing."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class Call:
    """One call of a handler in a process, for one job or a batch."""

    _numbers: Final = count(1)

    def __init__(
        self,
        process: Connection,
        runs: Sequence[Run],
        jobs: Sequence[Job[Any]],
        *,
        kill_after: float,
        clock: Clock,
    ) -> None:
        self.number = next(self._numbers)
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        #: Whether the handler was called; before that, no death is its job's fault.
        self.begun = False
        self._process = process
        self._runs = runs
        self._jobs = jobs
        self._kill_after = kill_after
        self._clock = clock
        self._timer: Timer | None = None
        self._answers: set[asyncio.Task[None]] = set()

    def message(self) -> dict[str, Any]:
        """What the process is to run."""
        jobs = [{"record": packed(run.record), "report": run.report.encode()} for run in self._runs]
        return {"call": self.number, "jobs": jobs}

    def halted(self, run: Run) -> None:
        """Let the handler know that it is asked to stop; kill it later, if none of its jobs may go on."""
        self._process.send({"stop": [self._runs.index(run)]})
        if any(one.stop is None for one in self._runs):
            return
        if self._kill_after <= 0:
            self.kill()
        elif self._timer is None:
            self._timer = self._clock.call_later(self._kill_after, self.kill)

    def kill(self) -> None:
        """End it at once."""
        if not self.ended.done():
            self._process.kill()

    def close(self) -> None:
        """It is over."""
        if self._timer is not None:
            self._timer.cancel()

    def end(self, message: dict[str, Any]) -> None:
        """The handler has ended."""
        for run, noticed in zip(self._runs, message["noticed"], strict=True):
            run.noticed = run.noticed or noticed
        if not self.ended.done():
            self.ended.set_result(
                unpacked_raise(message["raised"])
                if "raised" in message
                else Returned(_value(message["value"]))
            )

    def died(self, how: str, *, killed: bool) -> None:
        """The process is dead: because it was killed here, or by itself."""
        if self.ended.done():
            return
        if killed or not self.begun:
            self.ended.set_result(Raised(asyncio.CancelledError(), outside=not killed))
        else:
            self.ended.set_result(Died(how))

    def answer(self, message: dict[str, Any]) -> None:
        """Make a call of a job's method, and send what came of it."""
        task = asyncio.get_running_loop().create_task(self._answer(message))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, message: dict[str, Any]) -> None:
        job, run = self._jobs[message["job"]], self._runs[message["job"]]
        method, given = unpacked(message["given"])
        before = job.record
        answer: dict[str, Any] = {"answer": message["ask"]}
        try:
            value = await getattr(job, method)(**given)
            answer |= {"itself": True} if value is job else {"value": packed(_records(value))}
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the handler's
            self._process.send(answer | {"error": packed_error(error)})
            return
        if method != "log":  # there are many, and the process keeps its own
            answer["report"] = run.report.encode()
        if job.record is not before:
            answer["record"] = packed(job.record)
        self._process.send(answer)


def _value(sent: Any) -> Any:
    """What a handler returned: its result, still encoded, or those of a batch."""
    match sent:
        case None:
            return None
        case list():
            return [unpacked_raise(one["raised"]) if "raised" in one else _value(one) for one in sent]
        case {"misfit": described}:
            return Misfit(described)
        case _:
            return Encoded(json=sent.get("json"), reason=sent.get("reason", ""))


def _records(value: Any) -> Any:
    if isinstance(value, Job):
        return value.record
    return [_records(one) for one in value] if isinstance(value, list) else value
