"""Races of those who look while a call is under way: what one step changes together is seen together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from conveyor.conformance.concurrency.races.together import Handles, Q, at_once
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    AT_ONCE,
    MANY,
    add,
    at,
    child,
    claim_jobs,
    completed,
    failed,
    job,
    jobs,
    look,
    settle,
    take_one,
)
from conveyor.core.store import Feature, JobRecord, JobState, Settled, Store

#: How many steps of each kind are looked at.
STEPS = 20


async def looks(store: Store, calls: Awaitable[object]) -> list[Sequence[JobRecord]]:
    """Read all jobs again and again until these calls are over, and return what each look showed."""
    under_way = asyncio.ensure_future(calls)
    found: list[Sequence[JobRecord]] = []
    while not under_way.done():
        found.append(await store.find(Q, limit=MANY, now=at(1)))
        await asyncio.sleep(0)
    await under_way
    return found


async def until_seen(store: Store, id: str, seen: Callable[[JobRecord | None], bool]) -> None:
    """Return as soon as a look at a job shows this."""
    while not seen(await look(store, id, now=at(1))):  # noqa: ASYNC110 - what is waited for is in the store
        await asyncio.sleep(0)


@area("races")
class StepRaces:
    """What a call changes together, another handle sees together."""

    @needs(Feature.FLOWS)
    async def test_no_look_shows_a_child_that_has_ended_and_is_waited_for(self, handles: Handles) -> None:
        parents = [f"parent-{n}" for n in range(STEPS)]
        kids = [child(f"{parent}-{m}", of=parent) for parent in parents for m in range(2)]
        await add(handles[0], *kids, *jobs(parents))
        held = await claim_jobs(handles[0], 2 * STEPS)

        async def end_them() -> None:
            for n, one in enumerate(held):
                await settle(handles[0], (completed, failed)[n % 2](one), now=at(1))

        for seen in await looks(handles[1], end_them()):
            left = Counter(one.parent.id for one in seen if one.parent and not one.state.terminal)
            wrong = [
                f"{one.id} waits for {one.pending} of {left[one.id]}"
                for one in seen
                if one.id in parents and one.pending != left[one.id]
            ]
            assert wrong == [], (
                "a child ends and releases its parent in one step: no look shows the one without the other"
            )

    async def test_no_look_shows_an_outcome_without_what_it_spawned(self, handles: Handles) -> None:
        key = "baton" if Feature.UNIQUE_KEYS in handles[0].features else None
        await add(handles[0], job("link-0", unique_key=key))

        async def pass_on() -> None:
            for n in range(STEPS):
                held = await take_one(handles[0], f"link-{n}")
                following = job(f"link-{n + 1}", unique_key=key)
                kept = AT_ONCE if n % 2 else None
                await settle(handles[0], completed(held, spawn=(following,), retention=kept), now=at(1))

        for seen in await looks(handles[1], pass_on()):
            live = [one.id for one in seen if not one.state.terminal]
            assert len(live) == 1, f"a job ends and its successor is added in one step; live: {live}"
            holders = [one.id for one in seen if one.holds_key]
            assert holders == (live if key else []), "a job that ends gives its key up in the same step"

    @needs(Feature.UNIQUE_KEYS)
    async def test_a_key_is_free_as_soon_as_its_job_is_seen_to_have_ended(self, handles: Handles) -> None:
        async def end(one: JobRecord) -> Settled:
            return await settle(handles[0], completed(one), now=at(1))

        async def follow(id: str) -> bool:
            await until_seen(handles[1], id, lambda found: found is not None and found.state.terminal)
            (answer,) = await add(handles[1], job(f"{id}-next", unique_key=id), now=at(1))
            return answer.created

        for n in range(STEPS):
            await add(handles[0], job(str(n), unique_key=str(n)))
            held = await take_one(handles[0], str(n))

            _, created = await at_once([end(held), follow(str(n))])

            assert created, (
                "a job that ends gives its key up in the same step: who has seen it end may take it"
            )

    @needs(Feature.GROUPS)
    async def test_a_group_has_room_as_soon_as_its_job_is_seen_to_have_started(
        self, handles: Handles
    ) -> None:
        async def follow(id: str) -> None:
            await until_seen(
                handles[1], id, lambda found: found is not None and found.state is JobState.ACTIVE
            )
            # GroupFullError here: the group counts a job that everybody sees as started
            await add(handles[1], job(f"{id}-next", group=id, group_max_size=1), now=at(1))

        async def start(id: str) -> None:
            (held,) = await claim_jobs(handles[0], 1, now=at(1))
            assert held.id == id, "the only job that waits is claimed"

        for n in range(STEPS):
            id = str(n)
            await add(handles[0], job(id, group=id, group_max_size=1))
            await at_once([start(id), follow(id)])
            await handles[0].delete(Q, limit=MANY, now=at(1))

    async def test_a_repeat_is_known_as_soon_as_its_job_is_seen_to_have_gone(self, handles: Handles) -> None:
        for n in range(STEPS):
            await add(handles[0], job(str(n)))
            outcome = completed(await take_one(handles[0], str(n)), retention=AT_ONCE)

            async def repeat(id: str = str(n)) -> Settled:
                await until_seen(handles[1], id, lambda found: found is None)
                return await handles[1].settle([outcome], now=at(1))  # noqa: B023 - of this round

            _, repeated = await at_once([settle(handles[0], outcome, now=at(1)), repeat()])

            assert repeated.applied == {outcome.lease}, (
                "the outcome of a job is remembered in the step that removes it: a repeat is applied"
            )
