"""Races in families: a parent is released once."""

from __future__ import annotations

import random
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from conveyor.conformance.concurrency.races.together import ROUNDS, Handles, Q, at_once, turns
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    add,
    at,
    child,
    claim_jobs,
    completed,
    failed,
    get,
    job,
    jobs,
    take_one,
)
from conveyor.core.store import (
    Feature,
    Inserted,
    JobKey,
    JobState,
    Release,
    Settled,
)


@area("races")
class FamilyRaces:
    """Siblings that end, come and go at once."""

    @needs(Feature.FLOWS)
    async def test_siblings_that_end_at_once_release_their_parent_once(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            parent = f"parent-{n}"
            kids = [f"{n}-{m}" for m in range(4)]
            await add(handles[0], *(child(kid, of=parent) for kid in kids), job(parent))
            held = [await take_one(handles[0], kid) for kid in kids]

            answers = await at_once(
                [
                    store.settle([completed(one)], now=at(1))
                    for one, store in zip(held, turns(handles, 4), strict=True)
                ]
            )

            released = [key for settled in answers for key in settled.released]
            assert released == [JobKey("q", parent)], (
                "the sibling that ends last says that the parent is released"
            )
            assert (await get(handles[0], parent)).state is JobState.WAITING

    @needs(Feature.FLOWS)
    async def test_batches_of_siblings_in_any_order_settle_without_deadlock(self, handles: Handles) -> None:
        dice = random.Random(1)
        parents = [f"parent-{n}" for n in range(6)]
        kids = [child(f"{parent}-{m}", of=parent) for parent in parents for m in range(6)]
        await add(handles[0], *kids, *jobs(parents))
        held = await claim_jobs(handles[0], 99)
        dice.shuffle(held)

        answers = await at_once(
            [
                store.settle([completed(one) for one in held[first : first + 6]], now=at(1))
                for first, store in zip(range(0, 36, 6), turns(handles, 6), strict=True)
            ]
        )

        assert sorted(key.id for settled in answers for key in settled.released) == parents

    @needs(Feature.FLOWS)
    async def test_one_child_that_ends_all_and_one_that_ends_release_once(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            parent = f"parent-{n}"
            await add(handles[0], child(f"{n}-a", of=parent), child(f"{n}-b", of=parent), job(parent))
            a, b = [await take_one(handles[0], f"{n}-{kid}") for kid in "ab"]

            answers = await at_once(
                [
                    handles[0].settle([failed(a, release=Release.ALL)], now=at(1)),
                    handles[1].settle([completed(b)], now=at(1)),
                ]
            )

            released = [key.id for settled in answers for key in settled.released]
            assert released == [parent], "a parent is released once, whichever child comes first"
            found = await get(handles[0], parent)
            assert (found.state, found.pending) == (JobState.WAITING, 0)

    @needs(Feature.FLOWS)
    async def test_a_child_that_is_removed_and_settled_at_once_releases_once(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            parent = f"parent-{n}"
            await add(handles[0], child(f"{n}-a", of=parent), child(f"{n}-b", of=parent), job(parent))
            held = await take_one(handles[0], f"{n}-a")
            calls: list[Coroutine[Any, Any, Any]] = [
                handles[0].settle([completed(held)], now=at(1)),
                handles[1].delete(replace(Q, ids=frozenset({held.id})), limit=1, now=at(1)),
            ]
            if n % 2:
                calls.reverse()

            await at_once(calls)

            left = (await get(handles[0], parent)).pending
            assert left == 1, (
                f"a child that is removed and settled at once releases once; {left} of 1 are left"
            )

    @needs(Feature.FLOWS)
    async def test_a_child_that_comes_as_the_last_one_ends_is_waited_for_or_is_late(
        self, handles: Handles
    ) -> None:
        for n in range(ROUNDS):
            parent = f"parent-{n}"
            await add(handles[0], child(f"{n}-a", of=parent), job(parent))
            held = await take_one(handles[0], f"{n}-a")
            calls: list[Coroutine[Any, Any, Settled | Sequence[Inserted]]] = [
                handles[0].settle([completed(held)], now=at(1)),
                add(handles[1], child(f"{n}-b", of=parent)),
            ]
            if n % 2:
                calls.reverse()

            await at_once(calls)

            late = await get(handles[0], f"{n}-b")
            found = await get(handles[0], parent)
            assert (found.state, found.pending, late.released) in {
                (JobState.WAITING, 0, True),
                (JobState.WAITING_CHILDREN, 1, False),
            }
