"""What the tests of flows work with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conveyor.conformance.kit.make import (
    AT_ONCE,
    ENDINGS,
    add,
    at,
    child,
    completed,
    failed,
    get,
    job,
    settle,
    span,
    take_one,
)
from conveyor.core.store import (
    JobKey,
    JobRecord,
    JobState,
    Outcome,
    Store,
    Where,
)

PARENT = JobKey("q", "parent")
Q = Where(queue="q")
WAITS = JobState.WAITING_CHILDREN
#: Every way in which a child ends by settling, with the report of its step.
OVER: dict[str, Callable[[JobRecord], Outcome]] = {
    **ENDINGS,
    "removed": lambda held: completed(held, retention=AT_ONCE),
}
#: What states a parent can be in that is not waiting for children.
ELSEWHERE = [state for state in JobState if state is not WAITS]


async def family(store: Store, *kids: str, **fields: Any) -> None:
    """A parent that waits for these children."""
    await add(store, *(child(kid) for kid in kids), job("parent", **fields))


async def end(store: Store, kid: str, ending: str = "completed", *, second: float = 1) -> list[JobKey]:
    """End a child at that second, and return the parents that this released."""
    held = await take_one(store, kid, now=at(second))
    return list((await settle(store, OVER[ending](held), now=at(second))).released)


async def fail_parent(store: Store, id: str = "parent", *, second: float = 3) -> None:
    """Fail a job, as core does with a parent one of whose children has failed."""
    held = await take_one(store, id, now=at(second))
    await settle(store, failed(held), now=at(second))


async def parent_in(store: Store, state: JobState) -> JobRecord:
    """The parent, in that state, with no child it waits for."""
    delay = span(60) if state is JobState.DELAYED else None
    await add(store, job("parent", delay=delay))
    if state is JobState.ACTIVE or state.terminal:
        held = await take_one(store, "parent")
        if state.terminal:
            await settle(store, ENDINGS[state.value](held))
    return await get(store, "parent")
