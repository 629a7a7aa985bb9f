"""Races for limits, which hold under any of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

from conveyor.conformance.concurrency.races.together import Handles, Q, at_once, turns
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    add,
    at,
    claim_jobs,
    completed,
    everything,
    job,
    jobs,
    settle,
    span,
)
from conveyor.core.store import (
    Feature,
    JobState,
    Limit,
    Rate,
    Store,
)


@area("races")
class LimitRaces:
    """Many claimers with a limit."""

    async def drain(self, handles: Handles, **limits: Any) -> list[Counter[str | None]]:
        """Work a queue off with many workers, and return how many were active in each group, at each look."""
        looks: list[Counter[str | None]] = []

        async def worker(store: Store) -> None:
            idle = 0
            while idle < 5:
                held = await claim_jobs(store, 4, **limits)
                active = await store.find(
                    replace(Q, states=frozenset({JobState.ACTIVE})), limit=99, now=at(0)
                )
                looks.append(Counter(one.group for one in active))
                await asyncio.sleep(0)
                if held:
                    await settle(store, *(completed(one) for one in held), now=at(1))
                left = await store.count(replace(Q, states=frozenset({JobState.WAITING})), now=at(0))
                idle = 0 if left else idle + 1

        await at_once([worker(store) for store in turns(handles, 6)])
        assert {one.state for one in await everything(handles[0])} == {JobState.COMPLETED}
        return looks

    @needs(Feature.ACTIVE_LIMITS)
    async def test_there_are_never_more_active_jobs_than_the_limit(self, handles: Handles) -> None:
        await add(handles[0], *jobs(f"job-{n}" for n in range(40)))

        looks = await self.drain(handles, limit=Limit(active=3))

        assert max(look.total() for look in looks) == 3

    @needs(Feature.ACTIVE_LIMITS, Feature.GROUPS)
    async def test_there_are_never_more_active_jobs_in_a_group_than_its_limit(self, handles: Handles) -> None:
        await add(handles[0], *(job(f"job-{n}", group="gh"[n % 2]) for n in range(40)))

        looks = await self.drain(handles, group_limit=Limit(active=2))

        assert max(look["g"] for look in looks) == 2
        assert max(look["h"] for look in looks) == 2

    @needs(Feature.RATE_LIMITS)
    async def test_many_claimers_start_no_more_than_the_rate(self, handles: Handles) -> None:
        await add(handles[0], *jobs(f"job-{n}" for n in range(60)))
        limit = Limit(rate=Rate(max=5, per=span(10)))

        for second in (0, 5, 10, 19, 20):
            found = await at_once(
                [claim_jobs(store, 3, limit=limit, now=at(second)) for store in turns(handles, 8)]
            )

            assert sum(map(len, found)) == (0 if second % 10 else 5)

    @needs(Feature.RATE_LIMITS, Feature.GROUPS)
    async def test_many_claimers_start_no_more_in_a_group_than_its_rate(self, handles: Handles) -> None:
        await add(handles[0], *(job(f"job-{n}", group="gh"[n % 2]) for n in range(40)))
        limit = Limit(rate=Rate(max=3, per=span(10)))

        found = await at_once([claim_jobs(store, 3, group_limit=limit) for store in turns(handles, 8)])

        assert Counter(held.group for mine in found for held in mine) == {"g": 3, "h": 3}
