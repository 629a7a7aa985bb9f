"""A thread that meets what nobody foresaw says so, fails the calls at hand, and goes on."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from conveyor.conformance.kit.make import job
from conveyor.core.errors import StoreClosedError, StoreError
from conveyor.core.events import JobWaiting
from conveyor.core.store import Where
from conveyor.store.sqlite import SqliteStore
from conveyor.store.sqlite.threads import Priority

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
Q = Where(queue="q")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(tmp_path / "jobs.db", synchronous="NORMAL", poll_interval="5ms") as store:
        yield store


class Fault:
    """Makes a method raise, for so many calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, error: Exception) -> None:
        self.times = 0
        self.raised = asyncio.Event()
        loop, real = asyncio.get_running_loop(), getattr(owner, name)

        def broken(*args: Any, **kwargs: Any) -> Any:
            if self.times > 0:
                self.times -= 1
                loop.call_soon_threadsafe(self.raised.set)
                raise error
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, broken)

    async def shown(self) -> None:
        async with asyncio.timeout(10):
            await self.raised.wait()
        self.raised.clear()


def writer(store: SqliteStore) -> Any:
    return store._open_threads[0]


def reader(store: SqliteStore) -> Any:
    return store._open_threads[1]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The errors that were logged with where they came from."""
    return [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR and r.exc_info]


@pytest.mark.parametrize("error", [RuntimeError("not foreseen"), MemoryError()], ids=repr)
@pytest.mark.parametrize("where", ["_begin", "_is_there", "_batch", "_alone", "_committed", "_write_events"])
async def test_the_writer_goes_on(
    store: SqliteStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
    error: Exception,
) -> None:
    fault = Fault(monkeypatch, writer(store), where, error)

    for _ in range(2):
        fault.times = 1
        async with asyncio.timeout(10):
            with pytest.raises(StoreError, match="error of its own") as caught:
                await store.insert([job("a")], now=NOW)
        assert caught.value.__cause__ is error

    assert len(told(caplog)) == 1
    assert await store.find(Q, limit=9) == []
    [added] = await store.insert([job("a")], now=NOW)
    assert added.created


async def test_what_fails_takes_the_calls_of_its_batch_and_no_others(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault(monkeypatch, writer(store)._wal_reset_warning, "check", RuntimeError("not foreseen"))
    fault.times = 1

    first = await asyncio.gather(*(store.insert([job(f"a{n}")]) for n in range(9)), return_exceptions=True)
    second = await asyncio.gather(*(store.insert([job(f"a{n}")]) for n in range(9)))

    failed = [n for n, answer in enumerate(first) if isinstance(answer, StoreError)]
    assert failed
    assert [n for n, [added] in enumerate(second) if added.created] == failed


@pytest.mark.parametrize("where", ["wanted", "write"])
async def test_events_that_cannot_be_written_take_no_call_along(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    async with SqliteStore(store.path) as peer, peer.bus.subscribe({"q"}) as heard:
        fault = Fault(monkeypatch, store._bus.outbox, where, RuntimeError("not foreseen"))
        for n in range(2):
            fault.times = 1
            await store.bus.publish([JobWaiting(queue_name="q", at=NOW, job_id="lost")])
            await store.insert([job(f"a{n}")])
            await fault.shown()
        assert len(told(caplog)) == 1

        await store.bus.publish([JobWaiting(queue_name="q", at=NOW, job_id="heard")])
        async with asyncio.timeout(10):
            assert getattr(await anext(heard), "job_id", None) == "heard"


async def test_the_reader_goes_on(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fault = Fault(monkeypatch, reader(store), "_read", RuntimeError("not foreseen"))

    for _ in range(2):
        fault.times = 1
        async with asyncio.timeout(10):
            with pytest.raises(StoreError, match="error of its own"):
                await store.find(Q, limit=9)

    assert len(told(caplog)) == 1
    assert await store.find(Q, limit=9) == []


async def test_a_look_for_events_that_fails_is_made_again(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fault = Fault(monkeypatch, store._bus.watch, "look", RuntimeError("not foreseen"))
    async with SqliteStore(store.path) as peer, store.bus.subscribe({"q"}) as heard:
        fault.times = 3
        await fault.shown()
        assert await store.find(Q, limit=9) == []

        await peer.bus.publish([JobWaiting(queue_name="q", at=NOW, job_id="a")])
        async with asyncio.timeout(10):
            assert getattr(await anext(heard), "job_id", None) == "a"

    assert len(told(caplog)) == 1


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("which", [writer, reader])
async def test_a_thread_that_is_ended_leaves_nobody_waiting_and_says_why(
    store: SqliteStore,
    caplog: pytest.LogCaptureFixture,
    which: Callable[[SqliteStore], Any],
    error: BaseException,
) -> None:
    def end(_: sqlite3.Connection) -> None:
        raise error

    calls = (which(store).call(Priority.REST, end) for _ in range(3))
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*calls, return_exceptions=True)
        with pytest.raises(StoreClosedError, match=type(error).__name__):
            await which(store).call(Priority.REST, lambda _: None)
        await store.close()

    assert {type(answer) for answer in answers} == {StoreClosedError}
    assert len(told(caplog)) == 1

    await store.open()
    assert await store.find(Q, limit=9) == []


async def test_an_error_that_no_future_takes_reaches_its_caller_and_no_other(store: SqliteStore) -> None:
    def stop(_: sqlite3.Connection) -> None:
        raise StopIteration

    async with asyncio.timeout(10):
        answers = await asyncio.gather(
            writer(store).call(Priority.REST, stop), store.insert([job("a")]), return_exceptions=True
        )

    assert isinstance(answers[0], RuntimeError)
    assert not isinstance(answers[1], BaseException)
