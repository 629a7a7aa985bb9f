"""Races for jobs: no job twice, none lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

from conveyor.conformance.concurrency.races.together import ROUNDS, Handles, Q, at_once, turns
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    add,
    at,
    claim,
    claim_jobs,
    completed,
    everything,
    ids,
    job,
    jobs,
    settle,
    take_by_id,
)
from conveyor.core.store import (
    Feature,
    JobRecord,
    Pause,
    Store,
)


@area("races")
class ClaimRaces:
    """Many claimers, pauses, and groups in turn."""

    async def test_many_claimers_get_every_job_once(self, handles: Handles) -> None:
        wanted = [f"job-{n}" for n in range(150)]
        await add(handles[0], *jobs(wanted))

        async def claimer(store: Store) -> list[JobRecord]:
            mine: list[JobRecord] = []
            while found := await claim_jobs(store, 4):
                mine += found
                await asyncio.sleep(0)
            return mine

        found = [held for mine in await at_once([claimer(s) for s in turns(handles, 8)]) for held in mine]

        assert Counter(ids(found)) == Counter(wanted)
        assert {one.token for one in await everything(handles[0])} == {one.token for one in found}

    async def test_one_of_many_claimers_gets_the_job(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            await add(handles[0], job(str(n)))

            found = await at_once([claim_jobs(store, 2) for store in turns(handles, 6)])

            assert [ids(mine) for mine in found if mine] == [[str(n)]]

    async def test_one_of_many_claimers_gets_the_job_by_its_id(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            await add(handles[0], job(str(n)))

            found = await at_once([take_by_id(store, [str(n)]) for store in turns(handles, 6)])

            assert sum(map(len, found)) == 1

    async def test_a_claim_of_many_and_claims_by_id_do_not_share_a_job(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            names = [f"{n}-{m}" for m in range(6)]
            await add(handles[0], *jobs(names))

            found = await at_once(
                [claim_jobs(handles[0], 6), *(take_by_id(handles[1], [name]) for name in names)]
            )

            assert Counter(held.id for mine in found for held in mine) == Counter(names)

    async def test_jobs_of_a_paused_name_stay_while_claims_look_for_others(self, handles: Handles) -> None:
        over = asyncio.Event()
        taken: list[str] = []

        async def claimer(store: Store) -> None:
            while not over.is_set():
                taken.extend(ids(await store.claim(claim(5))))
                await asyncio.sleep(0)

        claimers = [asyncio.ensure_future(claimer(store)) for store in handles]
        for n in range(4 * ROUNDS):
            await handles[0].pause("q", Pause(name=f"name-{n}"))
            await handles[0].insert([job(str(n), name=f"name-{n}")])
            await asyncio.sleep(0.001)
            await handles[0].delete(replace(Q, ids=frozenset({str(n)})), limit=1)
            await asyncio.sleep(0.001)
        over.set()
        await asyncio.gather(*claimers)

        assert taken == []

    @needs(Feature.GROUPS)
    async def test_the_next_job_of_a_group_is_found_while_the_last_one_ends(self, handles: Handles) -> None:
        wanted = [str(n) for n in range(4 * ROUNDS)]
        await add(handles[0], *jobs(wanted, group="g"), *(job(f"late-{n}", priority=5) for n in range(9)))
        found = await claim_jobs(handles[0])
        for _ in wanted[1:]:
            [last] = found[-1:]

            following, _ = await asyncio.gather(claim_jobs(handles[0]), settle(handles[1], completed(last)))

            found += following
        assert ids(found) == wanted

    async def test_a_pause_holds_for_every_handle_from_its_return_on(self, handles: Handles) -> None:
        await add(handles[0], *jobs("abc"))
        for store, other in (handles, reversed(handles)):
            await store.pause("q", Pause(), now=at(0))
            assert await claim_jobs(other, 9) == []

            await other.resume("q", Pause(), now=at(1))
            assert len(await claim_jobs(store, 1, now=at(1))) == 1
