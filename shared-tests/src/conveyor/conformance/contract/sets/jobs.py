"""What the tests of sets work with."""

from __future__ import annotations

from typing import Any

from conveyor.conformance.kit.make import (
    MANY,
    START,
    add,
    at,
    completed,
    failed,
    ids,
    in_state,
    job,
    settle,
    span,
    take_one,
)
from conveyor.core.store import (
    Feature,
    JobKey,
    JobRecord,
    JobState,
    Order,
    Store,
    Where,
)

TERMINAL = [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED]
#: The states that need no feature.
PLAIN = [state for state in JobState if state is not JobState.WAITING_CHILDREN]
Q = Where(queue="q")


async def one_in_each_state(store: Store) -> dict[JobState, JobRecord]:
    """A job in each state that needs no feature, its id the state's name."""
    return {state: await in_state(store, state, job(state.value)) for state in PLAIN}


async def found(store: Store, where: Where, **options: object) -> list[str]:
    """The ids of a set, in the order of `find`."""
    return ids(await store.find(where, limit=MANY, **{"now": START, **options}))  # type: ignore[arg-type]


async def finish(store: Store, *names: str, at_second: float, **fields: object) -> None:
    """Complete these jobs at that second, one after the other."""
    for name in names:
        held = await take_one(store, name, now=at(at_second))
        await settle(store, completed(held, **fields), now=at(at_second))


async def pages(store: Store, where: Where, order: Order, size: int) -> list[str]:
    """The ids of a set, read page by page."""
    read: list[JobRecord] = []
    while True:
        after = read[-1] if read else None
        page = await store.find(where, limit=size, after=after, order=order, now=START)
        assert len(page) <= size
        read.extend(page)
        if len(page) < size:
            return ids(read)


async def delete_all(
    store: Store, where: Where = Q, *, limit: int = MANY, at_second: float = 1
) -> list[JobKey]:
    """Delete a whole set, or so many, and return what was removed. Without parents nobody is released."""
    deleted = await store.delete(where, limit=limit, now=at(at_second))
    assert list(deleted.released) == []
    return list(deleted.removed)


async def family(store: Store) -> None:
    """Jobs that differ in everything a `Where` can ask for and the store offers."""

    def some(feature: Feature, **fields: object) -> dict[str, Any]:
        return fields if feature in store.features else {}

    key = some(Feature.UNIQUE_KEYS, unique_key="k")
    kid = some(Feature.FLOWS, parent=JobKey("q", "parent"))
    group = some(Feature.GROUPS, group="g")
    await add(store, job("a", name="x", **key), job("b", name="y", delay=span(99), **group, **kid))
    await add(store, job("parent", name="p"), job("c", name="x", queue="other", **kid))
    held = await take_one(store, "a")
    await settle(store, failed(held), now=at(1))
    await add(store, job("d", name="y", **key, **group), job("e", name="x"), now=at(40))
