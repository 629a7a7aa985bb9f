"""`executor="process"`: what may run there, what its handlers can do, and how its processes end."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conveyor.conformance.kit.bench import SOON, until
from conveyor.core import Batch, InvalidOptionError, Job, JobState, Queue, Worker
from conveyor.core._engine.processes.import_paths import import_path, imported
from conveyor.core.testing import ManualClock, run_until_idle

MakeWorker = Callable[..., Worker[Any]]
#: Each of these starts a process or more.
starts_processes = pytest.mark.slow


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the handlers; processes find it as this one does."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("core_process_handlers")


@pytest.fixture
def make(worker: MakeWorker, handlers: Any) -> MakeWorker:
    """Makes workers with one process, of a handler or a mapping by the handlers' names."""

    def made(*names: str, **options: Any) -> Worker[Any]:
        found = {name: getattr(handlers, name) for name in names}
        handler = found if len(found) > 1 else next(iter(found.values()))
        return worker(handler, **{"executor": "process", "processes": 1} | options)

    return made


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that nobody waits for is dead.
    return ") Z " not in Path(f"/proc/{pid}/stat").read_text() if Path("/proc/self/stat").exists() else True


async def gone(*pids: int) -> bool:
    return not any(is_alive(pid) for pid in pids)


async def data_of(job: Job[Any]) -> Any:
    """What its run has made of the data, when it has."""

    async def changed() -> bool:
        return (await job.refresh()).data is not None

    await until(changed)
    return job.data


async def asked_to_stop(job: Job[Any]) -> bool:
    return (await job.refresh()).progress == 50


# ------------------------------------------------------------------- options


def plain(job: Job[Any]) -> None:
    pass


async def awaits(job: Job[Any]) -> None:
    pass


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"executor": "fork"}, "executor"),
        ({"executor": None}, "executor"),
        ({"processes": 2}, "processes"),
        ({"kill_after": 5}, "kill_after"),
        ({"executor": "thread", "processes": 2}, "processes"),
        ({"executor": "process", "processes": 0}, "processes"),
        ({"executor": "process", "processes": "2"}, "processes"),
        ({"executor": "process", "kill_after": -1}, "kill_after"),
        ({"executor": "process", "processes": 2, "concurrency": 3}, "concurrency"),
        ({"executor": "process", "concurrency": "2"}, "concurrency"),
        ({"executor": "process", "handler": awaits}, "executor"),
        ({"executor": "process", "handler": {"a": print, "b": awaits}}, "executor"),
        ({"executor": "process", "payload": list[int]}, "payload"),
        ({"executor": "process", "result": dict[str, int]}, "result"),
    ],
)
def test_an_option_of_processes_that_cannot_be_used_is_refused(
    worker: MakeWorker, options: dict[str, Any], option: str
) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        worker(**{"handler": print} | options)

    assert caught.value.option == option


def test_a_handler_that_cannot_be_imported_is_refused_with_what_to_write(
    worker: MakeWorker, handlers: Any
) -> None:
    def local(job: Job[Any]) -> None: ...

    bad = [
        lambda _: None,
        local,
        partial(handlers.die),
        handlers.Methods(),
        handlers.Methods().of_object,
    ]
    for handler in bad:
        with pytest.raises(InvalidOptionError, match="at the top level of a module") as caught:
            worker(handler, executor="process")
        assert caught.value.option == "handler"


def test_what_can_be_imported_is_found_again(handlers: Any) -> None:
    for one in (handlers.die, handlers.decorated, handlers.Methods.static, handlers.Methods.of_class, int):
        assert imported(import_path(one, "handler"), None) == one


# ------------------------------------------------------------------ handlers


@starts_processes
async def test_types_of_data_and_results_are_those_of_the_handlers(
    make: MakeWorker, queue: Queue[Any]
) -> None:
    typed = await queue.add("answer", {"number": 41})
    untyped = await queue.add("answer_untyped", {"number": 41})
    wrong = await queue.add("answer", {"number": "?"})
    names = ["decorated", "is_cancelled", "returns_a_coroutine"]
    others = [await queue.add(name) for name in names]

    await run_until_idle(make("answer", "answer_untyped", *names))

    assert (await typed.refresh()).return_value["number"] == 42
    assert typed.return_value["pid"] != os.getpid()
    assert (await untyped.refresh()).return_value == [{"number": 41}, "dict"]
    assert "cannot be read" in ((await wrong.refresh()).failed_reason or "")
    assert [(await job.refresh()).return_value or job.failed_reason for job in others] == [
        "decorated",
        "cancelled by its handler, or by what that waited for",
        "a handler in a process returns its result, and nothing that is awaited",
    ]


@starts_processes
async def test_a_worker_with_types_given_has_them_in_its_processes(
    make: MakeWorker, queue: Queue[Any], handlers: Any
) -> None:
    job = await queue.add("work", {"number": 41})

    await run_until_idle(make("answer_untyped", payload=handlers.Task, result=handlers.Answer))

    assert "cannot be stored" in ((await job.refresh()).failed_reason or "")
    [run] = job.attempt_history
    assert run.error_type == "UnserialisableResultError"


@starts_processes
async def test_a_batch_runs_in_one_process(make: MakeWorker, queue: Queue[Any]) -> None:
    jobs = [await queue.add("work", {"number": n}) for n in range(3)]

    await run_until_idle(make("answer_all", batch=Batch(3)))

    assert [(await job.refresh()).failed_reason for job in jobs] == ["zero", None, None]
    assert [job.return_value["number"] for job in jobs[1:]] == [2, 3]
    assert len({job.return_value["pid"] for job in jobs[1:]}) == 1


@starts_processes
async def test_a_batch_with_too_few_results_has_failed(make: MakeWorker, queue: Queue[Any]) -> None:
    jobs = [await queue.add("work", {"number": n}) for n in range(3)]

    await run_until_idle(make("answer_too_few", batch=Batch(3)))

    assert {(await job.refresh()).failed_reason for job in jobs} == {
        (
            "the handler of a batch returns None, or a list with one result for each job, by position; "
            "for 3 jobs it returned 2 results"
        )
    }


@starts_processes
async def test_a_job_can_do_what_it_can_in_a_thread(make: MakeWorker, queue: Queue[Any]) -> None:
    job = await queue.add("uses_its_job", {"step": 1})
    late = await queue.add("uses_what_it_left", priority=1)

    await run_until_idle(make("uses_its_job", "uses_what_it_left"))

    assert (await job.refresh()).failed_reason is None
    seen = job.return_value
    assert seen.pop("wrong data").startswith("PayloadError: $.step: object is not JSON")
    assert seen.pop("odd progress").startswith("InvalidOptionError: progress=<Job 'uses_its_job'")
    assert seen.pop("retry").startswith("InvalidJobStateError: ")
    assert seen.pop("no progress").startswith("TypeError: missing a required argument: 'progress'")
    assert seen == {
        "log": ["one"],
        "logs": ["one", "from a loop", "from a thread"],
        "cleared": [],
        "progress": 12.5,
        "wrong progress": "InvalidOptionError: progress=101 cannot be used: it is a number from 0 to 100",
        "data": {"step": 2},
        "discarded": True,
        "refreshed": True,
        "active": True,
        "no lines": [],
        "parent": None,
        "children": {},
        "forked": "StoreForkedError",
    }
    assert (job.data, job.progress, job.logs) == ({"step": 2}, 12.5, [])
    assert (await late.refresh()).return_value == ["LeaseLostError", "LeaseLostError", 2]
    assert late.logs == []


@starts_processes
async def test_children_are_added_from_a_process(make: MakeWorker, queue: Queue[Any]) -> None:
    job = await queue.add("adds_children")

    await run_until_idle(make("adds_children", "pid"))

    assert (await job.refresh()).return_value[0] == "pid"
    assert list(job.return_value[1]) == ["kid"]


# -------------------------------------------------------------------- deaths


@starts_processes
async def test_a_death_costs_its_own_job_one_run_and_tells_how(
    make: MakeWorker, queue: Queue[Any], caplog: pytest.LogCaptureFixture
) -> None:
    others = await queue.add("pid", priority=-1)
    dead = {how: await queue.add("die", how) for how in ("SIGABRT", 3)}
    left = await queue.add("forks_and_dies")

    await run_until_idle(make("die", "pid", "forks_and_dies", processes=2, max_stalled=0))

    assert (await others.refresh()).state is JobState.COMPLETED
    for how, job in dead.items():
        await job.refresh()
        assert (job.state, job.attempts_made, job.stalled_count) == (JobState.FAILED, 0, 1)
        [run] = job.attempt_history
        told = "was ended by SIGABRT" if how == "SIGABRT" else "exited with status 3"
        assert (run.outcome, run.message) == ("stalled", f"the process that ran it died: it {told}")
    assert (await left.refresh()).stalled_count == 1
    lines = [record for record in caplog.records if getattr(record, "outcome", "") == "stalled"]
    assert len(lines) == 3


@starts_processes
async def test_a_handler_that_does_not_stop_is_killed_with_what_it_has_started(
    make: MakeWorker, queue: Queue[Any], clock: ManualClock
) -> None:
    async with make("deaf", processes=2) as worker:
        cancelled = await queue.add("work")
        pids = await data_of(cancelled)
        await cancelled.cancel()
        await until(partial(asked_to_stop, cancelled))
        await clock.advance("4.9s")
        assert all(map(is_alive, pids))
        await clock.advance("0.1s")
        await until(partial(gone, *pids))
        await until(partial(_is, cancelled, JobState.CANCELLED))

        late = await queue.add("work", timeout="1s")
        pids = await data_of(late)
        await clock.advance("1s")
        await until(partial(gone, *pids))
        await until(partial(_is, late, JobState.FAILED))
        how = "the handler ran longer than its timeout of 0:00:01 and its process was killed"
        assert late.failed_reason == how

        left = await queue.add("work")
        pids = await data_of(left)
        closing = asyncio.create_task(worker.close(0))
        await until(partial(asked_to_stop, left))
        await clock.advance("5s")
        await asyncio.wait_for(closing, SOON)
        assert await gone(*pids)
    await left.refresh()
    assert (left.state, left.attempts_made, left.stalled_count) == (JobState.WAITING, 0, 0)


@starts_processes
async def test_with_kill_after_0_a_handler_is_killed_when_none_of_its_jobs_may_go_on(
    make: MakeWorker, queue: Queue[Any]
) -> None:
    async with make("deaf_batch", kill_after=0, batch=Batch(2)):
        jobs = [await queue.add("work") for _ in range(2)]
        pids = await data_of(jobs[0])
        await jobs[0].cancel()
        await until(partial(asked_to_stop, jobs[0]))
        assert all(map(is_alive, pids))  # the other one may go on
        await jobs[1].cancel()
        await until(partial(gone, *pids))
        for job in jobs:
            await until(partial(_is, job, JobState.CANCELLED))


@starts_processes
async def test_signals_of_the_terminal_are_the_workers(make: MakeWorker, queue: Queue[Any]) -> None:
    job = await queue.add("work")

    await run_until_idle(make("signalled"))

    await job.refresh()
    assert (job.return_value, job.stalled_count) == (str(-signal.SIGTERM), 0)


@starts_processes
async def test_an_idle_process_that_dies_is_replaced(
    make: MakeWorker, queue: Queue[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with make("exits_later", "pid") as worker:
        first = await queue.add("exits_later")
        await until(partial(_is, first, JobState.COMPLETED))
        await until(partial(gone, first.return_value))
        second = await queue.add("pid")
        await until(partial(_is, second, JobState.COMPLETED))

        assert second.return_value != first.return_value
        assert (second.stalled_count, worker.stats().free_slots) == (0, 1)
    assert "an idle process of the worker died: it exited with status 9" in caplog.text


@starts_processes
async def test_processes_that_cannot_be_replaced_are_tried_again_later(
    make: MakeWorker, queue: Queue[Any], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await queue.add("die", 3)
    then = await queue.add("pid", priority=1)
    worker = make("die", "pid", max_stalled=0)
    async with worker:
        starts = 0

        def broken(*_: object, **__: object) -> None:
            nonlocal starts
            starts += 1
            raise OSError("no room for it")

        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(subprocess, "Popen", broken)
            await until(partial(has_stalled, job))
            for _ in range(20):
                await clock.advance("0.1s")
            assert 2 <= starts <= 4
            assert worker.stats().free_slots == 0
        await clock.advance("30s")
        await until(partial(_is, then, JobState.COMPLETED))


async def has_stalled(job: Job[Any]) -> bool:
    return (await job.refresh()).stalled_count == 1


async def _is(job: Job[Any], state: JobState) -> bool:
    return (await job.refresh()).state is state


# ------------------------------------------------------------------ programs

PROGRAM = """
import asyncio, sys
from conveyor.core import Queue, Worker, open_store
{imports}

def handler(job):
    import os, time
    with open(sys.argv[1], "w") as file:
        file.write(str(os.getpid()))
    {then}

async def main():
    async with open_store("memory:") as store:
        job = await Queue("q", store).add("work")
        async with Worker("q", handler, store, executor="process", processes=1):
            print("result", await job.wait_until_finished(timeout={patience}))

{start}
"""
GUARDED = "if __name__ == '__main__':\n    asyncio.run(main())"


def program(tmp_path: Path, **parts: str) -> subprocess.Popen[str]:
    usual = {"imports": "", "then": "return sys.argv[2]", "patience": "20", "start": GUARDED}
    (tmp_path / "program.py").write_text(PROGRAM.format(**usual | parts), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "pid"), "given"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@starts_processes
def test_a_program_may_be_one_file(tmp_path: Path) -> None:
    out, err = program(tmp_path).communicate(timeout=60)

    assert (out, err) == ("result given\n", "")
    assert not is_alive(int((tmp_path / "pid").read_text()))


@starts_processes
@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"start": "asyncio.run(main())"}, 'start it under if __name__ == "__main__"'),
        ({"imports": "if __name__ != '__main__': import nowhere"}, "No module named 'nowhere'"),
        ({"imports": "if __name__ != '__main__': import os; os._exit(5)"}, "it exited with status 5"),
    ],
    ids=["not guarded", "not importable", "dies"],
)
def test_a_worker_whose_processes_cannot_import_its_handler_does_not_start(
    tmp_path: Path, parts: dict[str, str], reason: str
) -> None:
    out, err = program(tmp_path, **parts).communicate(timeout=60)

    assert (out, (tmp_path / "pid").exists()) == ("", False)
    last = [line for line in err.splitlines() if "InvalidOptionError: handler=" in line][-1]
    assert "a process cannot import it: " in last
    assert reason in last


@starts_processes
def test_a_process_whose_worker_is_killed_ends_by_itself(tmp_path: Path) -> None:
    with program(tmp_path, then="time.sleep(600)", patience="600") as parent:
        pid = _told(tmp_path / "pid")
        parent.kill()
        asyncio.run(until(partial(gone, pid)))
        parent.communicate(timeout=60)


def _told(file: Path) -> int:
    """The number that is written to a file, when it is."""

    async def written() -> bool:
        return bool(_text(file))

    asyncio.run(until(written))
    return int(_text(file))


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""
