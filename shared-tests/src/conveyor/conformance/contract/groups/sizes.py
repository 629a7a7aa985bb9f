"""Groups: sizes, and names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conveyor.conformance.contract.groups.members import Q, member, members
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    add,
    at,
    claim_jobs,
    completed,
    everything,
    get,
    ids,
    job,
    jobs,
    retried,
    settle,
    span,
    take_one,
)
from conveyor.core.errors import GroupFullError
from conveyor.core.store import Change, Feature, JobRecord, Store, Where


@area("groups", Feature.GROUPS)
class Sizes:
    """`group_max_size`."""

    async def refused(self, store: Store, *records: JobRecord) -> GroupFullError:
        """The refusal of an insert that would make a group too large, and that adds nothing."""
        before = await store.find(Where(), limit=1_000, now=at(1))
        with pytest.raises(GroupFullError) as caught:
            await add(store, *records, now=at(1))
        assert await store.find(Where(), limit=1_000, now=at(1)) == before
        return caught.value

    async def test_a_group_takes_as_many_jobs_as_its_size(self, store: Store) -> None:
        await add(store, *members("g1", "g2", group_max_size=3))
        await add(store, member("g3", group_max_size=3))

        error = await self.refused(store, member("g4", group_max_size=3))

        assert (error.queue_name, error.group, error.max_size) == ("q", "g", 3)

    async def test_the_jobs_of_one_call_count(self, store: Store) -> None:
        await self.refused(store, *members("g1", "g2", "g3", group_max_size=2))

    async def test_a_refused_call_adds_nothing_anywhere(self, store: Store) -> None:
        await add(store, member("g1", group_max_size=1))

        await self.refused(
            store, job("a"), job("b", queue="other"), member("h1"), member("g2", group_max_size=1), job("c")
        )

    @needs(Feature.GROUPS, Feature.UNIQUE_KEYS)
    async def test_a_call_refused_for_a_full_group_takes_no_key(self, store: Store) -> None:
        await self.refused(store, job("a", unique_key="k"), *members("g1", "g2", group_max_size=1))

        (answer,) = await add(store, job("b", unique_key="k"))

        assert answer.created

    async def test_delayed_jobs_count(self, store: Store) -> None:
        """Delayed jobs of a group count for its size as waiting ones do."""
        await add(store, member("g1", delay=span(60)))

        await self.refused(store, member("g2", group_max_size=1))
        await self.refused(store, member("g2", delay=span(60), group_max_size=1))

    async def test_active_and_finished_jobs_do_not_count(self, store: Store) -> None:
        await add(store, *members("g1", "g2"))
        g1, _ = await claim_jobs(store, 2)
        await settle(store, completed(g1))

        await add(store, member("g3", group_max_size=1))

        assert ids(await everything(store)) == ["g1", "g2", "g3"]

    async def test_jobs_without_a_size_count_and_are_never_refused(self, store: Store) -> None:
        await add(store, *members("g1", "g2", group_max_size=2))
        await add(store, *members("g3", "g4"))

        await self.refused(store, member("g5", group_max_size=4))
        await add(store, member("g5", group_max_size=5))

    async def test_other_groups_and_queues_do_not_count(self, store: Store) -> None:
        await add(store, *members("h1", "-1"), *(replace(m, queue="other") for m in members("g1", "g2")))

        await add(store, member("g1", group_max_size=1))

    async def test_a_job_that_is_not_created_does_not_count(self, store: Store) -> None:
        await add(store, member("g1", group_max_size=1))

        (answer,) = await add(store, member("g1", group_max_size=1))

        assert not answer.created

    async def test_room_comes_back_when_a_job_is_claimed_or_removed(self, store: Store) -> None:
        await add(store, *members("g1", "g2", group_max_size=2))
        await take_one(store, "g1")
        await add(store, member("g3", group_max_size=2))
        await store.delete(replace(Q, ids=frozenset({"g2"})), limit=1, now=at(1))
        await add(store, member("g4", group_max_size=2))

        await self.refused(store, member("g5", group_max_size=2))

    async def test_a_job_goes_back_to_a_full_group(self, store: Store) -> None:
        await add(store, member("g1", group_max_size=1))
        (held,) = await claim_jobs(store)
        await add(store, member("g2", group_max_size=1))

        await settle(store, retried(held), now=at(1))

        await self.refused(store, member("g3", group_max_size=2))

    async def test_a_retried_finished_job_counts_and_is_not_refused(self, store: Store) -> None:
        await add(store, member("g1", group_max_size=1))
        (held,) = await claim_jobs(store)
        await settle(store, completed(held))
        await add(store, member("g2", group_max_size=1))

        changed = await store.update(replace(Q, ids=frozenset({"g1"})), Change(retry=True), now=at(1))

        assert len(changed) == 1
        await self.refused(store, member("g3", group_max_size=2))

    async def test_spawned_jobs_are_never_refused(self, store: Store) -> None:
        await add(store, member("g1", group_max_size=1), job("a"))
        held = await take_one(store, "a")

        settled = await settle(store, completed(held, spawn=(member("g2", group_max_size=1),)), now=at(1))

        assert [answer.created for answer in settled.spawned] == [True]
        assert (await get(store, "g2")).group_max_size == 1


@area("groups", Feature.GROUPS)
class GroupNames:
    """Names of groups."""

    @pytest.mark.parametrize("group", ["__all__", "__ungrouped__", "None", "null", "'", "%", "é", "群"])
    async def test_no_name_of_a_group_means_anything(self, store: Store, group: str) -> None:
        await add(store, *jobs("ab"), job("c", group=group), job("d", group=group))

        assert ids(await claim_jobs(store, 9)) == ["a", "c", "b", "d"]
