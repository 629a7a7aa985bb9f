"""Signals: what a worker takes of them, what it leaves to others, and what forked children get."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conveyor.core import InvalidOptionError, Job, JobState, Queue, Worker
from conveyor.core._engine import os_signals
from conveyor.core.testing import FaultyStore, ManualClock

MakeWorker = Callable[..., Worker[Any]]
KINDS = (signal.SIGINT, signal.SIGTERM)


async def nothing(_: Job[Any]) -> None:
    pass


async def forever(_: Job[Any]) -> None:
    await asyncio.Event().wait()


@pytest.fixture
def server() -> Iterator[list[int]]:
    """Signals as a web server takes them, which leaves them as it found them; what it got."""
    got: list[int] = []
    before = {kind: signal.signal(kind, lambda number, _: got.append(number)) for kind in KINDS}
    yield got
    for kind, handler in before.items():
        signal.signal(kind, handler)


async def send(kind: signal.Signals, clock: ManualClock) -> None:
    """Have this process get a signal, and all that follows from it happen."""
    signal.raise_signal(kind)
    await clock.settle()


# ----------------------------------------------------------- others' handlers


@pytest.mark.parametrize("kind", KINDS)
async def test_who_had_a_signal_before_gets_it_too(
    worker: MakeWorker, clock: ManualClock, server: list[int], kind: signal.Signals
) -> None:
    before = [signal.getsignal(one) for one in KINDS]
    running = asyncio.create_task(worker(nothing).run())
    await clock.settle()

    await send(kind, clock)
    await clock.advance(1)

    assert server == [kind]
    assert running.done()
    assert [signal.getsignal(one) for one in KINDS] == before


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_of_the_event_loop_gets_the_signal_too_and_stays(
    worker: MakeWorker, clock: ManualClock, server: list[int], kind: signal.Signals
) -> None:
    got: list[str] = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(kind, got.append, "the loop's")
    try:
        running = asyncio.create_task(worker(nothing).run())
        await clock.settle()
        await send(kind, clock)
        await clock.advance(1)
        assert (running.done(), got) == (True, ["the loop's"])

        await send(kind, clock)
        assert got == ["the loop's"] * 2
    finally:
        loop.remove_signal_handler(kind)
    assert server == []


async def test_a_signal_goes_to_others_once_however_many_workers_there_are(
    worker: MakeWorker, clock: ManualClock, server: list[int]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    runs = [asyncio.create_task(worker(nothing).run()) for _ in range(3)]
    await clock.settle()

    await send(signal.SIGTERM, clock)
    await clock.advance(1)

    assert server == [signal.SIGTERM]
    assert all(run.done() for run in runs)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("how", ["plain", "of the loop"])
@pytest.mark.usefixtures("server")
async def test_a_handler_that_was_put_there_meanwhile_stays(
    worker: MakeWorker, clock: ManualClock, how: str
) -> None:
    runner, loop, got = worker(nothing), asyncio.get_running_loop(), list[str]()
    running = asyncio.create_task(runner.run())
    await clock.settle()
    try:
        if how == "plain":
            signal.signal(signal.SIGTERM, lambda *_: got.append("theirs"))
        else:
            loop.add_signal_handler(signal.SIGTERM, got.append, "theirs")

        await runner.close()
        await asyncio.wait_for(running, 10)
        await send(signal.SIGTERM, clock)

        assert got == ["theirs"]
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


@pytest.mark.usefixtures("server")
async def test_a_signal_that_was_ignored_is_so_again(worker: MakeWorker, clock: ManualClock) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running = asyncio.create_task(worker(nothing).run())
    await clock.settle()

    await send(signal.SIGINT, clock)
    await clock.advance(1)

    assert running.done()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


# ------------------------------------------------------------------- options


@pytest.mark.usefixtures("server")
async def test_after_the_first_signal_handlers_have_the_grace_that_run_was_given(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    running = asyncio.create_task(worker(forever).run(grace="5s"))
    await clock.settle()

    await send(signal.SIGTERM, clock)
    await clock.advance("4.9s")
    assert (await job.refresh()).state is JobState.ACTIVE
    await clock.advance("0.2s")
    await clock.advance(1)

    assert running.done()
    assert (await job.refresh()).state is JobState.WAITING


@pytest.mark.usefixtures("server")
async def test_a_second_signal_ends_the_grace(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.add("a")
    running = asyncio.create_task(worker(forever).run(grace="1h"))
    await clock.settle()

    await send(signal.SIGTERM, clock)
    await clock.advance("1 minute")
    assert not running.done()
    await send(signal.SIGINT, clock)
    await clock.advance(1)

    assert running.done()
    assert "told to stop again" in caplog.text


@pytest.mark.usefixtures("server")
async def test_a_first_signal_is_a_first_one_even_for_a_worker_that_closes(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    runner = worker(forever)
    running = asyncio.create_task(runner.run())
    await clock.settle()
    closing = asyncio.create_task(runner.close("1 minute"))
    await clock.settle()

    await send(signal.SIGTERM, clock)
    await clock.advance("59s")
    assert (await job.refresh()).state is JobState.ACTIVE
    await clock.advance("5s")

    assert running.done()
    assert closing.done()


async def test_without_signals_they_are_left_alone_and_close_ends_the_run(
    worker: MakeWorker, clock: ManualClock, server: list[int]
) -> None:
    before = [signal.getsignal(kind) for kind in KINDS]
    runner = worker(nothing)
    running = asyncio.create_task(runner.run(signals=False))
    await clock.settle()

    assert [signal.getsignal(kind) for kind in KINDS] == before
    await send(signal.SIGTERM, clock)
    await clock.advance(10)
    assert (server, running.done()) == ([signal.SIGTERM], False)
    await runner.close()
    await clock.settle()

    assert running.done()
    assert running.exception() is None


async def test_a_run_that_is_cancelled_lets_its_handlers_finish_and_is_cancelled_then(
    queue: Queue[Any], worker: MakeWorker, clock: ManualClock
) -> None:
    job = await queue.add("a")
    finish = asyncio.Event()

    async def handler(_: Job[Any]) -> str:
        await finish.wait()
        return "done"

    running = asyncio.create_task(worker(handler).run(signals=False))
    await clock.settle()
    running.cancel()
    await clock.advance(10)
    assert not running.done()
    finish.set()
    await clock.advance(1)

    assert running.cancelled()
    assert (await job.refresh()).return_value == "done"


@pytest.mark.parametrize(
    ("options", "named"),
    [({"grace": "soon"}, "grace"), ({"grace": -1}, "grace"), ({"signals": "yes"}, "signals")],
)
async def test_options_of_a_run_that_cannot_be_used_are_refused(
    worker: MakeWorker, options: dict[str, Any], named: str
) -> None:
    before = [signal.getsignal(kind) for kind in KINDS]
    runner = worker(nothing)

    with pytest.raises(InvalidOptionError, match=named):
        await runner.run(**options)

    assert [signal.getsignal(kind) for kind in KINDS] == before
    await runner.close()


def test_outside_the_main_thread_a_worker_runs_without_signals_and_says_so(store: FaultyStore) -> None:
    said: list[str] = []

    async def work() -> None:
        with pytest.raises(InvalidOptionError, match="signals=False") as refused:
            await asyncio.wait_for(Worker("q", nothing, store).run(), 10)
        said.append(refused.value.option)

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    thread.join()

    assert said == ["signals"]


def test_outside_the_main_thread_a_worker_runs_until_it_is_closed() -> None:
    ended: list[str] = []

    async def work() -> None:
        from conveyor.store.memory import MemoryStore  # noqa: PLC0415 - of this thread's loop

        async with MemoryStore() as store:
            worker = Worker("q", nothing, store)
            job = await Queue[Any]("q", store).add("a")
            running = asyncio.create_task(worker.run(signals=False))
            await job.wait_until_finished(timeout=10)
            await worker.close()
            await running
            ended.append("in order")

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    thread.join()

    assert ended == ["in order"]


# ------------------------------------------------------------ forked children

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

PROGRAM = """
import asyncio, logging, multiprocessing, os, signal, subprocess, sys, time
from concurrent.futures import ProcessPoolExecutor
from conveyor.core import Queue, Worker
from conveyor.store.memory import MemoryStore

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
fork = multiprocessing.get_context("fork")

def square(number):
    return number * number

def pool():
    with fork.Pool(2) as pool:  # terminates them in the end
        return sum(pool.map(square, range(4)))

def executor():
    with ProcessPoolExecutor(2, mp_context=fork) as pool:
        return sum(pool.map(square, range(4)))

def terminate():
    codes = set()
    for _ in range(20):
        child = fork.Process(target=time.sleep, args=[60])
        child.start()
        child.terminate()  # at once: it may not have taken a step
        child.join(10)
        codes.add(child.exitcode)
    return sorted(codes, key=str)

def started():
    codes = set()
    for prepare in (None, lambda: None):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], preexec_fn=prepare)
        child.terminate()
        codes.add(child.wait(10))
    return sorted(codes)

def look(pipe):
    fd = signal.set_wakeup_fd(-1)
    handlers = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    default = handlers == [signal.default_int_handler, signal.SIG_DFL]
    pipe.send([fd, default, sorted({signal.SIGINT, signal.SIGTERM} & blocked)])

def ask(target):
    ours, theirs = fork.Pipe()
    child = fork.Process(target=target, args=[theirs])
    child.start()
    answer = ours.recv() if ours.poll(10) else "none"
    child.kill()
    child.join()
    return answer

def inherited():
    return ask(look)

def write(pipe):
    async def log():
        await current.log("from a child")
    said = []
    for call in (lambda: current.update_progress(50), lambda: asyncio.run(log())):
        try:
            call()
        except Exception as error:
            said.append(type(error).__name__)
    pipe.send(said)

def written():
    return ask(write)

def group():
    child = fork.Process(target=time.sleep, args=[60])
    child.start()
    print("ready", flush=True)
    child.join()
    time.sleep(0.05)
    return child.exitcode

{before}

async def in_the_loop(job):
    return in_a_thread(job)

def in_a_thread(job):
    global current
    current = job
    return globals()[job.name]()

async def main():
    async with MemoryStore() as store:
        queue = Queue("q", store)
        await set_up()
        running = asyncio.create_task(Worker("q", {where}, store).run())
        for use in {uses}:
            job = await queue.add(use)
            print(use, await job.wait_until_finished(timeout=20), flush=True)
        if use != "group":
            os.kill(os.getpid(), signal.SIGTERM)
        await running

asyncio.run(main())
"""
ALONE = "async def set_up(): pass"
IN_A_SERVER = """
async def set_up():
    loop = asyncio.get_running_loop()
    for kind in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(kind, print, "server: told to stop")
"""
WHERE = pytest.mark.parametrize("where", ["in_the_loop", "in_a_thread"])


def start(uses: list[str], where: str, before: str = ALONE) -> subprocess.Popen[str]:
    program = PROGRAM.replace("{uses}", repr(uses)).replace("{where}", where).replace("{before}", before)
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    """What it prints until it ends by itself."""
    try:
        out, err = process.communicate(timeout=30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children, too
        process.communicate()
    assert process.returncode == 0, err
    return out.splitlines()


def stops(lines: list[str]) -> list[str]:
    """What workers said of being told to stop."""
    said = [line.partition(": ")[2] for line in lines if line.startswith("worker ")]
    return [line for line in said if line not in ("started", "stopped")]


@needs_fork
@pytest.mark.slow
@WHERE
def test_a_handler_may_have_processes_and_its_worker_goes_on(where: str) -> None:
    lines = finish(start(["pool", "executor", "terminate", "started", "inherited", "written"], where))

    assert [line for line in lines if not line.startswith("worker ")] == [
        "pool 14",
        "executor 14",
        "terminate [-15]",
        "started [-15]",
        "inherited [-1, True, []]",
        "written ['StoreForkedError', 'StoreForkedError']",
    ]
    assert stops(lines) == ["told to stop: running handlers may finish"]


@needs_fork
@pytest.mark.slow
def test_beside_handlers_of_the_loop_forked_children_are_told_nothing_either() -> None:
    lines = finish(start(["terminate", "inherited"], "in_the_loop", IN_A_SERVER))

    assert "terminate [-15]" in lines
    assert "inherited [-1, True, []]" in lines
    assert lines.count("server: told to stop") == 1
    assert stops(lines) == ["told to stop: running handlers may finish"]


@needs_fork
@pytest.mark.slow
@WHERE
@pytest.mark.parametrize(
    ("kind", "status"),
    # A child that is interrupted before it has begun dies of that, and later on of KeyboardInterrupt.
    [(signal.SIGTERM, ["group -15"]), (signal.SIGINT, ["group 1", "group -2"])],
)
def test_a_signal_for_the_whole_group_is_taken_once(
    kind: signal.Signals, status: list[str], where: str
) -> None:
    process = start(["group"], where)
    assert process.stdout is not None
    assert "ready\n" in iter(process.stdout.readline, "")

    os.killpg(process.pid, kind)
    lines = finish(process)

    assert stops(lines) == ["told to stop: running handlers may finish"]
    assert any(line in lines for line in status)


@needs_fork
async def test_an_interrupt_that_comes_while_a_child_is_made_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    let_in_again = os_signals._after_fork

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        let_in_again()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with os_signals.stopping_on_signals(lambda: None):
            monkeypatch.setattr(os_signals, "_after_fork", interrupted)  # the parent's is registered already
            child = os.fork()
            if not child:
                os._exit(0)
    finally:
        signal.signal(signal.SIGINT, before)

    _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - the child ends at once
    assert os.waitstatus_to_exitcode(status) == -signal.SIGINT


# --------------------------------------------------------------- chance


@needs_fork
def test_workers_of_forked_processes_draw_their_own_waits(worker: MakeWorker) -> None:
    policy = worker(nothing)._parts.executor.policy
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.write(theirs, f"{policy.retries.random()}\n".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(theirs)
    with os.fdopen(ours) as answer:
        drawn = float(answer.read())

    assert drawn != policy.retries.random()
    assert 0 <= drawn < 1
