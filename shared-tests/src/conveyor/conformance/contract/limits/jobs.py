"""What the tests of limits work with."""

from __future__ import annotations

from typing import Any

from conveyor.conformance.kit.make import (
    add,
    jobs,
    span,
)
from conveyor.core.store import (
    Limit,
    Rate,
    Store,
    Where,
)

Q = Where(queue="q")


def active(most: int) -> Limit:
    """At most so many active jobs."""
    return Limit(active=most)


def rate(most: int, per: float) -> Limit:
    """At most so many starts in so many seconds."""
    return Limit(rate=Rate(max=most, per=span(per)))


async def fill(store: Store, count: int = 20, **fields: Any) -> None:
    """Waiting jobs "00", "01" and so on."""
    await add(store, *jobs((f"{n:02}" for n in range(count)), **fields))
