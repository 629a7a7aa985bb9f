"""Races for what is first in its queue: the first jobs of a group, and the first pause of one or of a name.

A claim that looks whether its queue has groups, or anything paused, and only then takes its lock decides by
what was true before: what came in between is handed out as if there were no such thing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from conveyor.conformance.concurrency.races.together import Handles, at_once, open_connections, turns
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import add, at, claim_jobs, ids, jobs, span
from conveyor.core.store import (
    Feature,
    JobRecord,
    JobState,
    Limit,
    Pause,
    Rate,
    Store,
    Where,
)

QUEUES = 3
CLAIMERS = 4
OTHERS = [f"other-{n}" for n in range(8)]


@area("races")
class FirstRaces:
    """Claims of a queue that becomes another kind of queue meanwhile."""

    @needs(Feature.ACTIVE_LIMITS, Feature.GROUPS)
    async def test_the_first_jobs_of_a_group_keep_to_its_active_limit(self, handles: Handles) -> None:
        await open_connections(handles, CLAIMERS + 2)
        for n in range(QUEUES):
            active = await self.add_a_group(handles, f"queue-{n}", Limit(active=1))

            assert active == 1, (
                f"one job of a group may be active at once, even if the queue had no group when a claim "
                f"began: {active} are"
            )

    @needs(Feature.RATE_LIMITS, Feature.GROUPS)
    async def test_the_first_jobs_of_a_group_keep_to_its_rate(self, handles: Handles) -> None:
        await open_connections(handles, CLAIMERS + 2)
        for n in range(QUEUES):
            limit = Limit(rate=Rate(max=1, per=span(10)))

            started = await self.add_a_group(handles, f"queue-{n}", limit)

            assert started == 1, (
                f"one job of a group may start in ten seconds, even if the queue had no group when a claim "
                f"began: {started} have"
            )

    async def add_a_group(self, handles: Handles, queue: str, limit: Limit) -> int:
        """Add the first jobs of a group while others claim; return how many of them are active then."""
        await add(handles[0], *jobs((f"plain-{n}" for n in range(8)), queue=queue, priority=5))
        adders = at_once(
            [
                add(store, *jobs((f"{n}-{m}" for m in range(3)), queue=queue, group="g"))
                for n, store in enumerate(turns(handles, 2))
            ]
        )

        async def claimer(store: Store) -> list[JobRecord]:
            return await claim_jobs(store, 4, queue=queue, group_limit=limit)

        await claims_during(handles, adders, claimer)
        # this one is alone: it misses no job that another call has locked
        await claim_jobs(handles[0], 20, queue=queue, group_limit=limit)

        active = Where(queue=queue, states=frozenset({JobState.ACTIVE}))
        return [one.group for one in await handles[1].find(active, limit=99, now=at(0))].count("g")

    @needs(Feature.GROUPS)
    async def test_claims_keep_to_the_first_pause_of_a_group(self, handles: Handles) -> None:
        await open_connections(handles, CLAIMERS + 1)
        for n in range(QUEUES):
            others = jobs(OTHERS, queue=f"queue-{n}", priority=3, group="other")
            await self.pause_once(handles, others, Pause(group="paused"), group="paused")

    async def test_claims_keep_to_the_first_pause_of_a_name(self, handles: Handles) -> None:
        await open_connections(handles, CLAIMERS + 1)
        for n in range(QUEUES):
            others = jobs(OTHERS, queue=f"queue-{n}", priority=3)
            await self.pause_once(handles, others, Pause(name="paused"), name="paused")

    async def pause_once(self, handles: Handles, others: list[JobRecord], what: Pause, **paused: Any) -> None:
        """Pause while others claim, with jobs that wait for it before and jobs that come afterwards."""
        queue = others[0].queue
        before = jobs((f"before-{n}" for n in range(20)), queue=queue, priority=5, **paused)
        after = jobs(("after-0", "after-1"), queue=queue, **paused)
        await add(handles[0], *others, *before)
        returned = asyncio.Event()
        wrong: list[str] = []

        async def pauser() -> None:
            await handles[1].pause(queue, what, now=at(0))
            returned.set()
            await add(handles[0], *after)

        async def claimer(store: Store) -> None:
            kept = {*ids(after), *(ids(before) if returned.is_set() else ())}
            wrong.extend(kept.intersection(ids(await claim_jobs(store, queue=queue))))

        await claims_during(handles, pauser(), claimer)

        assert wrong == [], (
            f"a claim that begins when a pause has returned returns no job of it, and no claim at all "
            f"returns one that was added since: {wrong} were returned"
        )


async def claims_during(
    handles: Handles,
    change: Coroutine[Any, Any, object],
    claim: Callable[[Store], Coroutine[Any, Any, object]],
) -> None:
    """Let many claim again and again, from before a change begins until after it is made."""
    over = asyncio.Event()

    async def changer() -> None:
        await change
        over.set()

    async def claimer(store: Store) -> None:
        last = False
        while not last:
            last = over.is_set()
            await claim(store)
            await asyncio.sleep(0)

    claimers = [claimer(store) for store in turns(handles, CLAIMERS)]
    await at_once([*claimers[: CLAIMERS // 2], changer(), *claimers[CLAIMERS // 2 :]])
