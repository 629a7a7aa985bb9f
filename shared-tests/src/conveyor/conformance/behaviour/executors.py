"""Queue behaviour: however a run ends, it ends so on each executor: a task, a thread, a process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pytest

from conveyor.conformance.kit import handlers
from conveyor.conformance.kit.area import area, patient
from conveyor.conformance.kit.bench import SOON, Bench, until, until_finished
from conveyor.conformance.kit.make import span
from conveyor.core import Job, JobState, Pause

#: How a run of each handler ends: the job's state, its history, why it failed last, and its result.
ENDINGS: Final[dict[str, tuple[JobState, list[str], str | None, Any]]] = {
    "returns": (
        JobState.COMPLETED,
        ["completed"],
        None,
        {"data": {"n": [1, 2.5, None]}, "progress": 50, "logs": ["a line: é🐝"], "cancelled": False},
    ),
    "raises": (JobState.FAILED, ["failed LookupError"] * 2, "there is none", None),
    "raises_what_cannot_be_sent": (
        JobState.FAILED,
        ["failed Unsendable"] * 2,
        "<Unsendable whose text cannot be made>",
        None,
    ),
    "returns_what_cannot_be_stored": (
        JobState.FAILED,
        ["failed UnserialisableResultError"],
        (
            "the handler's result cannot be stored: result: object is not JSON; "
            "convert it, or give a payload (or result) type"
        ),
        None,
    ),
    "decides": (JobState.FAILED, ["failed Unrecoverable"], "on purpose", None),
    "snoozes": (JobState.DELAYED, ["snoozed"], None, None),
    "retries": (JobState.DELAYED, ["failed Retry"], "not yet", None),
    "gives_up": (JobState.FAILED, ["failed Unrecoverable"], "no such user", None),
}


async def _returns(job: Job[Any]) -> dict[str, Any]:
    await job.log("a line: é🐝")
    await job.update_progress(50)
    return {"data": job.data, "progress": job.progress, "logs": job.logs, "cancelled": job.cancelled}


async def _decides(job: Job[Any]) -> str:
    await job.move_to_failed("on purpose")
    return "dropped"


async def _waits(job: Job[Any]) -> None:
    await job.update_data(os.getpid())
    await asyncio.Event().wait()


def _as_task(handler: Callable[[Job[Any]], object]) -> Callable[[Job[Any]], object]:
    async def task(job: Job[Any]) -> object:
        return handler(job)

    return task


NAMES: Final = (*ENDINGS, "is_limited", "waits", "dies_once")
PLAIN: Final = {name: getattr(handlers, name) for name in NAMES}
ASYNC: Final = {name: _as_task(one) for name, one in PLAIN.items()} | {
    "returns": _returns,
    "decides": _decides,
    "waits": _waits,
}
EXECUTORS: Final[dict[str, dict[str, Any]]] = {
    "task": {"handler": ASYNC},
    "thread": {"handler": PLAIN},
    "process": {"handler": PLAIN, "executor": "process", "processes": 1},
}


@area("queue behaviour")
class Executors:
    """One worker on each executor, from its start to its end."""

    @patient  # a process takes its time to start; each wait below is bounded
    @pytest.mark.parametrize("executor", EXECUTORS)
    async def test_however_a_run_ends_it_ends_so_on_each_executor(self, bench: Bench, executor: str) -> None:
        jobs = {
            name: await bench.queue.add(name, {"n": [1, 2.5, None]}, attempts=2, priority=n)
            for n, name in enumerate(ENDINGS)
        }
        worker = bench.worker(**EXECUTORS[executor])
        pids = set[int]()

        async def begun(job: Job[Any]) -> bool:
            pid = (await job.refresh()).data
            pids.update([pid] if pid else [])
            return pid is not None

        async with worker:
            for name, (state, history, reason, result) in ENDINGS.items():
                job = jobs[name]
                await until(partial(_is, job, state))
                assert (name, _history(job)) == (name, history)
                assert (name, job.failed_reason, job.return_value) == (name, reason, result)
            assert jobs["raises"].stacktrace[0].endswith("LookupError: there is none\n")

            limited = await bench.queue.add("is_limited")
            await until(bench.queue.get_paused)
            assert await bench.queue.get_paused() == {Pause(): bench.clock.now() + span(3600)}
            await until(lambda: _is(limited, JobState.WAITING, JobState.DELAYED))
            await limited.remove()
            await bench.queue.resume()

            cancelled = await bench.queue.add("waits")
            await until(lambda: begun(cancelled))
            await cancelled.cancel()
            await until(lambda: _is(cancelled, JobState.CANCELLED))
            assert _history(cancelled) == ["cancelled"]

            late = await bench.queue.add("waits", timeout="1s")
            await until(lambda: begun(late))
            await bench.later("1s")
            await until(lambda: _is(late, JobState.FAILED))
            assert _history(late) == ["timed-out JobTimeoutError"]

            if executor == "process":
                dying = await bench.queue.add("dies_once", attempts=1)
                await until_finished(dying)
                assert _history(dying) == ["stalled ProcessDied", "completed"]
                assert (dying.return_value, dying.stalled_count, dying.attempts_made) == (1, 1, 0)
                assert dying.logs == ["about to die"]
                how = dying.attempt_history[0]
                assert "SIGKILL" in (how.message or "")
                assert how.worker == worker.name

            left = await bench.queue.add("waits")
            await until(lambda: begun(left))
            async with asyncio.timeout(SOON):
                await worker.close(0)
        await left.refresh()
        assert (left.state, left.attempts_made, _history(left)) == (JobState.WAITING, 0, [])
        assert (os.getpid() in pids) is (executor != "process")
        assert [pid for pid in pids - {os.getpid()} if _is_alive(pid)] == []


async def _is(job: Job[Any], *states: JobState) -> bool:
    return (await job.refresh()).state in states and not (
        JobState.DELAYED in states and not job.attempt_history
    )


def _history(job: Job[Any]) -> list[str]:
    return [" ".join(filter(None, [run.outcome, run.error_type])) for run in job.attempt_history]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
