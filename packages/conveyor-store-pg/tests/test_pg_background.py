"""A task of the store that meets what nobody foresaw says so, once, and goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from conveyor.conformance.kit.make import job
from conveyor.core._jobs.ids import new_job_id
from conveyor.core.events import JobWaiting
from conveyor.store.pg import PgStore

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def url(module_database: str) -> str:
    return module_database


@pytest.fixture
async def store(url: str) -> AsyncIterator[PgStore]:
    async with PgStore.from_url(url) as store:
        yield store


@pytest.fixture
async def peer(url: str) -> AsyncIterator[PgStore]:
    async with PgStore.from_url(url) as peer:
        yield peer


class Fault:
    """Makes a method raise what nobody foresaw, for as many calls as `times` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.times = 0
        self.done = asyncio.Event()
        real = getattr(owner, name)

        def broken(*args: Any, **kwargs: Any) -> Any:
            if self.times <= 0:
                return real(*args, **kwargs)
            self.times -= 1
            if not self.times:
                self.done.set()
            raise RuntimeError("not foreseen")

        monkeypatch.setattr(owner, name, broken)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The errors that were logged with where they came from."""
    return [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR and r.exc_info]


@asynccontextmanager
async def hears_again(store: PgStore, peer: PgStore) -> AsyncIterator[Callable[[], Any]]:
    """Subscribe at one store to what the other publishes; the call says when that is heard."""
    async with store.bus.subscribe({"q"}) as heard:

        async def hears() -> None:
            async def listen() -> None:
                async for event in heard:
                    if getattr(event, "job_id", None) == "sent":
                        return

            listening = asyncio.create_task(listen())
            async with asyncio.timeout(20):
                while not listening.done():
                    await peer.bus.publish([JobWaiting(queue_name="q", at=NOW, job_id="sent")])
                    await asyncio.sleep(0.02)

        yield hears


@pytest.mark.parametrize("method", ["receive", "tick"])
async def test_the_listener_goes_on(
    store: PgStore,
    peer: PgStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
) -> None:
    monkeypatch.setattr("conveyor.store.pg.listener.PING", 0.02)
    async with hears_again(store, peer) as hears:
        await hears()
        fault = Fault(monkeypatch, store._bus, method)
        fault.times = 2
        async with asyncio.timeout(20):
            while not fault.done.is_set():
                await peer.bus.publish([JobWaiting(queue_name="q", at=NOW, job_id="lost")])
                await asyncio.sleep(0.02)

        await hears()

    assert 1 <= len(told(caplog)) <= 2


async def test_the_sender_goes_on(
    store: PgStore, peer: PgStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fault = Fault(monkeypatch, peer._bus, "_notify")
    async with hears_again(store, peer) as hears:
        fault.times = 2
        await hears()

    assert fault.done.is_set()
    assert len(told(caplog)) == 1


async def test_who_listens_is_told_again_after_a_failure(
    store: PgStore, peer: PgStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with hears_again(store, peer) as hears:
        fault = Fault(monkeypatch, store._bus, "_register")
        async with store.bus.subscribe({"other"}):
            fault.times = 1
        async with asyncio.timeout(20):
            await fault.done.wait()
        await hears()

    assert len(told(caplog)) == 1


async def test_adds_go_on(store: PgStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = Fault(monkeypatch, store._insert_batcher, "_insert")
    fault.times = 1

    async with asyncio.timeout(20):
        with pytest.raises(RuntimeError, match="not foreseen"):
            await store.insert([job(new_job_id())])
        [added] = await store.insert([job(new_job_id())])

    assert added.created


async def test_statistics_that_cannot_be_had_fail_no_add(
    store: PgStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fault = Fault(monkeypatch, store._statistics, "_behind")
    fault.times = 1
    store._statistics._next = 1

    [added] = await store.insert([job(new_job_id())])

    assert fault.done.is_set()
    assert added.created
    assert len(told(caplog)) == 1
