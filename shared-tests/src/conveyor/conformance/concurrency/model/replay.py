"""A history on the store and on `MemoryStore`, and what differs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from conveyor.conformance.concurrency.model.answers import asked, shown, without_states_of_the_uncreated
from conveyor.conformance.concurrency.model.steps import QUEUES, Step, World
from conveyor.conformance.kit.make import MANY
from conveyor.core.store import (
    Claimed,
    JobRecord,
    Order,
    Store,
    Where,
)
from conveyor.store.memory import MemoryStore


async def replay(store: Store, history: Sequence[Step]) -> None:
    """Make the calls of a history on the store and on the reference, and compare their answers."""
    world = World()
    for queue in QUEUES:
        await store.forget(queue, now=world.now)
    async with MemoryStore() as reference:
        for number, step in enumerate(history):
            call = step.call(world)
            if call is None:
                continue
            wanted, answer = await asked(reference, call), await asked(store, call)
            whole, found = await everything(reference, world.now), await everything(store, world.now)
            there = {one.key for one in whole}
            wanted = without_states_of_the_uncreated(wanted, there)
            answer = without_states_of_the_uncreated(answer, there)
            past = history[: number + 1]
            _agree(f"answer to {step.method}", shown(wanted), shown(answer), world, past)
            _agree(f"jobs after {step.method}", shown(whole), shown(found), world, past)
            assert [one.seq for one in found] == sorted({one.seq for one in found})
            if isinstance(answer, Claimed):
                assert answer.wait is None or answer.wait >= timedelta(0)
                world.leases += answer.jobs
        for order in Order:
            await _pages_agree(store, order, world)


async def everything(store: Store, now: datetime) -> list[JobRecord]:
    """Every job of a store."""
    return list(await store.find(Where(), limit=MANY, now=now))


async def _pages_agree(store: Store, order: Order, world: World) -> None:
    """Page by page a store gives the same jobs as at once."""
    whole = await store.find(Where(), limit=MANY, order=order, now=world.now)
    after: JobRecord | None = None
    for one in whole:
        (page,) = await store.find(Where(), limit=1, after=after, order=order, now=world.now)
        assert page == one
        after = one


def _agree(what: str, wanted: Any, found: Any, world: World, history: Sequence[Step]) -> None:
    if wanted == found:
        return
    story = "\n".join(f"  {n:2} {step}" for n, step in enumerate(history))
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        both = enumerate(zip(wanted, found, strict=True))
        pairs = [(n, _different(one, other)) for n, (one, other) in both if one != other]
        wanted, found = [(n, one) for n, (one, _) in pairs], [(n, other) for n, (_, other) in pairs]
    pytest.fail(
        f"the {what} differs, at second {world.second}\n"
        f"  MemoryStore: {wanted}\n  this store:  {found}\n{story}",
        pytrace=False,
    )


def _different(one: Any, other: Any) -> tuple[Any, Any]:
    """What differs between two jobs, and which they are."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one, other
    same = {name for name in {*one, *other} if one.get(name) == other.get(name)} - {"queue", "id"}
    first, second = ({k: v for k, v in each.items() if k not in same} for each in (one, other))
    return first, second
