"""Work that goes on to its end when its caller is cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")
#: Work under way: the event loop itself keeps no task alive.
_under_way: Final[set[asyncio.Future[Any]]] = set()


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Do work that goes on when its caller is cancelled, so that nothing stays held half-way."""
    task = asyncio.ensure_future(work)
    _under_way.add(task)
    task.add_done_callback(_ended)
    return await asyncio.shield(task)


def _ended(task: asyncio.Future[Any]) -> None:
    _under_way.discard(task)
    if not task.cancelled():
        task.exception()  # the caller has received it, or is gone
