"""Races of those who add: one job for an id and for a key, and an order."""

from __future__ import annotations

from collections import Counter

from conveyor.conformance.concurrency.races.together import (
    ROUNDS,
    Handles,
    at_once,
    open_connections,
    turns,
)
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    add,
    at,
    claim_jobs,
    everything,
    ids,
    job,
    jobs,
)
from conveyor.core.errors import GroupFullError
from conveyor.core.store import (
    Feature,
    Store,
)


@area("races")
class AddRaces:
    """Many adders."""

    @needs(Feature.UNIQUE_KEYS)
    async def test_one_of_many_adders_of_one_key_creates_its_job(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            answers = await at_once(
                [add(store, job(f"{n}-{m}", unique_key=f"k{n}")) for m, store in enumerate(turns(handles, 8))]
            )

            created = [answer.key for (answer,) in answers if answer.created]
            assert len(created) == 1
            assert {answer.key for (answer,) in answers} == set(created)
        assert len(await everything(handles[0])) == ROUNDS

    async def test_one_of_many_adders_of_one_id_creates_its_job(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            answers = await at_once(
                [add(store, job(str(n), payload=str(m))) for m, store in enumerate(turns(handles, 8))]
            )

            assert sum(answer.created for (answer,) in answers) == 1
        assert len(await everything(handles[0])) == ROUNDS

    async def test_new_only_calls_for_one_id_create_one_whole_call(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            calls = [
                store.insert([job(f"{n}-own-{m}"), job(f"{n}-shared")], new_only=True, now=at(0))
                for m, store in enumerate(turns(handles, 4))
            ]

            answers = await at_once(calls)

            assert sorted(sum(a.created for a in answer) for answer in answers) == [0, 0, 0, 2]
        assert len(await everything(handles[0])) == 2 * ROUNDS

    @needs(Feature.GROUPS)
    async def test_many_adders_fill_a_group_exactly(self, handles: Handles) -> None:
        async def adder(store: Store, name: str, group: str) -> bool:
            try:
                await add(store, job(name, group=group, group_max_size=2))
            except GroupFullError:
                return False
            return True

        await open_connections(handles, 8)
        for n in range(ROUNDS):
            added = await at_once([adder(s, f"{n}-{m}", f"g{n}") for m, s in enumerate(turns(handles, 8))])

            assert sum(added) == 2, (
                f"of 8 who add to a group of 2 at once, {sum(added)} returned that they did"
            )
        in_groups = Counter(one.group for one in await everything(handles[0]))
        assert set(in_groups.values()) == {2}, f"a group of 2 has 2 jobs: {in_groups}"

    async def test_every_job_has_a_seq_of_its_own(self, handles: Handles) -> None:
        await at_once(
            [add(store, *jobs(f"{m}-{n}" for n in range(10))) for m, store in enumerate(turns(handles, 10))]
        )

        found = await everything(handles[0])
        assert len({one.seq for one in found}) == len(found) == 100

    async def test_jobs_added_by_two_handles_in_turn_are_claimed_in_turn(self, handles: Handles) -> None:
        wanted = [f"job-{n}" for n in range(20)]
        for name, store in zip(wanted, turns(handles, 20), strict=True):
            await add(store, job(name))

        claimed = [ids(await claim_jobs(store))[0] for store in reversed(turns(handles, 20))]

        assert claimed == wanted
