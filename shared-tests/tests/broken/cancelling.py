"""Stores and engines that lose a cancellation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from broken import engine
from broken.store import Broken, Now, caught_by
from conveyor.core._inspect.follow import _Reader
from conveyor.core.store import JobRecord, Where


@caught_by("cancellations", "test_a_call_cancelled_at_any_moment_ends_cancelled")
class TakesACancellationForAnAnswer(Broken):
    """What comes while a call waits for its turn wakes it, be it a cancellation."""

    async def find(self, where: Where, *, limit: int, now: Now = None, **more: Any) -> Sequence[JobRecord]:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return await super().find(where, limit=limit, now=now, **more)


@engine.caught_by("cancellations", "test_a_call_cancelled_at_any_moment_ends_cancelled")
def takes_a_cancellation_for_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a job looks at it again when woken, be it by a cancellation: the first one is lost."""
    wait_for = _Reader.wait_for
    lost: list[_Reader] = []

    async def woken(self: _Reader, *args: Any) -> None:
        try:
            await wait_for(self, *args)
        except asyncio.CancelledError:
            if self in lost:
                raise
            lost.append(self)

    monkeypatch.setattr(_Reader, "wait_for", woken)
