"""Core is tested on the memory store, under a clock that tests turn by hand."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from conveyor.core import Queue, Worker
from conveyor.core.testing import ClockedStore, FaultyStore, ManualClock
from conveyor.store.memory import MemoryStore


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(clock: ManualClock) -> AsyncIterator[FaultyStore]:
    async with FaultyStore(ClockedStore(MemoryStore(), clock)) as opened:
        yield opened


@pytest.fixture
def queue(store: FaultyStore, clock: ManualClock) -> Queue[Any]:
    return Queue("q", store, clock=clock)


@pytest.fixture
def worker(store: FaultyStore, clock: ManualClock) -> Callable[..., Worker[Any]]:
    """Makes workers of queue `q`, on `store` unless told otherwise."""

    class Tested(Worker[Any]):
        async def __aexit__(self, *raised: object) -> None:
            if raised[0] is None:
                await self.close()
                return
            # Nobody will turn the clock any more: a test that failed must not hang as well.
            closing = asyncio.create_task(self.close(0))
            while not closing.done():
                await clock.advance(1)

    def make(handler: Any, *, store: Any = store, **options: Any) -> Worker[Any]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="lock_duration")
            options.setdefault("clock", clock)
            return Tested("q", handler, store, **options)

    return make
