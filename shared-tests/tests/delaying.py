"""A store whose calls each take a tenth of a second longer."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Final

from conveyor.core.store import StoreCalls
from conveyor.store.memory import MemoryStore

#: How long the answer of a call is on its way: others see what it did before its caller knows.
DELAY: Final = 0.1


class DelayingStore(MemoryStore):
    """A store that is far away."""


def delayed(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    async def answer_late(*args: Any, **kwargs: Any) -> Any:
        try:
            return await call(*args, **kwargs)
        finally:
            await asyncio.sleep(DELAY)

    return answer_late


for name in vars(StoreCalls):
    if not name.startswith("_") and name not in {"features", "bus", "open", "close"}:
        setattr(DelayingStore, name, delayed(getattr(MemoryStore, name)))
