"""Races of several processes."""

from __future__ import annotations

from collections import Counter

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    add,
    at,
    child,
    claim,
    everything,
    ids,
    jobs,
    states,
)
from conveyor.conformance.kit.processes import in_processes
from conveyor.core.store import (
    Feature,
    JobState,
    Store,
)


@area("races", Feature.MULTI_PROCESS)
class Processes:
    """Callers in several processes at once."""

    async def test_processes_claim_every_job_once(self, store: Store, store_url: str | None) -> None:
        wanted = [f"job-{n}" for n in range(150)]
        await add(store, *jobs(wanted))

        found = await in_processes(store_url, "claim_all")

        assert Counter(name for mine in found for name in mine) == Counter(wanted)

    @needs(Feature.UNIQUE_KEYS)
    async def test_one_of_several_processes_creates_the_job_of_a_key(
        self, store: Store, store_url: str | None
    ) -> None:
        created = await in_processes(store_url, "add_keys")

        assert [sum(each) for each in zip(*created, strict=True)] == [1] * 20
        assert len(await everything(store)) == 20

    @needs(Feature.ACTIVE_LIMITS)
    async def test_processes_together_keep_a_limit(self, store: Store, store_url: str | None) -> None:
        await add(store, *jobs(f"job-{n}" for n in range(40)))

        seen = await in_processes(store_url, "work")

        assert max(max(mine) for mine in seen) <= 2
        assert set((await states(store)).values()) == {JobState.COMPLETED}

    @needs(Feature.FLOWS)
    async def test_children_that_end_in_several_processes_release_each_parent_once(
        self, store: Store, store_url: str | None
    ) -> None:
        parents = [f"parent-{n:02}" for n in range(20)]
        kids = [child(f"{parent}-{m}", of=parent, queue="kids") for m in range(3) for parent in parents]
        await add(store, *kids, *jobs(parents))

        released = await in_processes(store_url, "end_children")

        assert sorted(name for mine in released for name in mine) == parents
        assert set((await states(store)).values()) == {JobState.WAITING}

    async def test_each_processes_jobs_stay_in_their_order(self, store: Store, store_url: str | None) -> None:
        added = await in_processes(store_url, "append")

        claimed = ids((await store.claim(claim(999), now=at(0))).jobs)
        assert len({one.seq for one in await everything(store)}) == 90
        for mine in added:
            assert [name for name in claimed if name in set(mine)] == mine
