"""Flows: a parent that is claimed by its id while it waits for children.

Core takes parents so when it decides about them, and mostly gives them back. Each rule is small, and each was
missed by a store that kept all the others.
"""

from __future__ import annotations

from conveyor.conformance.contract.flows.family import WAITS, end, family
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    DONE,
    ENDINGS,
    add,
    at,
    child,
    get,
    job,
    retried,
    settle,
    span,
    take_one,
)
from conveyor.core.store import Change, Feature, JobRecord, JobState, Outcome, Store, Where


def wait_of(parent: JobRecord) -> tuple[object, ...]:
    """What a parent waits for: children, a time, or a time from its last child's end."""
    return (parent.state, parent.pending, parent.run_at, parent.delay)


@area("flows", Feature.FLOWS)
class HeldParents:
    """What claims by id, and what is decided then, do to how a parent waits."""

    async def test_a_held_parent_keeps_its_delay(self, store: Store) -> None:
        await family(store, "a", delay=span(60))

        held = await take_one(store, "parent", now=at(1))
        assert (held.pending, held.run_at, held.delay) == (1, None, span(60)), (
            "a claim by id leaves how a parent waits as it was"
        )
        await settle(store, Outcome.given_back(held), now=at(2))

        assert wait_of(await get(store, "parent", now=at(2))) == (WAITS, 1, None, span(60)), (
            "a parent that is given back waits as before it was claimed"
        )
        await end(store, "a", second=10)
        assert wait_of(await get(store, "parent", now=at(10))) == (JobState.DELAYED, 0, at(70), None), (
            "a parent's delay counts from its last child's end"
        )

    async def test_the_last_childs_end_starts_the_delay_of_a_held_parent(self, store: Store) -> None:
        await family(store, "a", delay=span(60))
        held = await take_one(store, "parent", now=at(1))

        assert await end(store, "a", second=5) == [], (
            "a parent that is held is not released: its holder decides"
        )
        found = await get(store, "parent", now=at(5))
        assert (found.state, found.pending, found.run_at, found.delay) == (
            JobState.ACTIVE,
            0,
            at(65),
            None,
        ), "the last child's end turns a held parent's delay into its run_at"

        await settle(store, Outcome.given_back(held), now=at(6))
        assert wait_of(await get(store, "parent", now=at(6))) == (JobState.DELAYED, 0, at(65), None), (
            "a parent that is given back waits until its run_at"
        )

    async def test_a_held_parent_that_ends_waits_for_no_child(self, store: Store) -> None:
        for ending, outcome in ENDINGS.items():
            parent = f"parent-{ending}"
            await add(store, child(f"{ending}-kid", of=parent), job(parent, delay=span(60)))

            await settle(store, outcome(await take_one(store, parent, now=at(1))), now=at(1))

            found = await get(store, parent, now=at(1))
            assert (found.state, found.pending, found.run_at, found.delay) == (
                JobState(ending),
                0,
                None,
                None,
            ), "a parent that ends waits for nothing, whatever children are left"

    async def test_a_retry_of_a_held_parent_drops_its_delay_while_children_are_left(
        self, store: Store
    ) -> None:
        await family(store, "a")

        await settle(store, retried(await take_one(store, "parent", now=at(1)), delay=60), now=at(1))

        assert wait_of(await get(store, "parent", now=at(1))) == (WAITS, 1, None, None), (
            "with children left a parent goes back to waiting for them, and the retry's delay is dropped"
        )
        await end(store, "a", second=2)
        assert wait_of(await get(store, "parent", now=at(2))) == (JobState.WAITING, 0, None, None), (
            "the delay of a retry that was dropped does not come back with the last child's end"
        )

    async def test_awaiting_replaces_what_a_held_parent_waited_for(self, store: Store) -> None:
        await family(store, "a", "b", "c")
        held = await take_one(store, "parent", now=at(1))

        await settle(store, Outcome.awaiting(held, DONE, children=(child("d"),)), now=at(1))

        assert (await get(store, "parent", now=at(1))).pending == 1, (
            "`awaiting` has a job wait for the children it creates, and for no others"
        )

    async def test_awaiting_keeps_the_run_at_of_a_held_parent(self, store: Store) -> None:
        await family(store, "a", run_at=at(100))
        held = await take_one(store, "parent", now=at(1))

        await settle(store, Outcome.awaiting(held, DONE, children=(child("b"),)), now=at(1))
        assert wait_of(await get(store, "parent", now=at(1))) == (WAITS, 1, at(100), None), (
            "`awaiting` leaves run_at as it is"
        )

        await end(store, "b", second=2)
        assert wait_of(await get(store, "parent", now=at(2))) == (JobState.DELAYED, 0, at(100), None), (
            "a parent whose last child has ended waits until its run_at"
        )

    async def test_awaiting_nothing_clears_the_delay_of_a_held_parent(self, store: Store) -> None:
        await family(store, "a", delay=span(60))
        held = await take_one(store, "parent", now=at(1))

        await settle(store, Outcome.awaiting(held, DONE, children=(child("a"),)), now=at(1))

        assert wait_of(await get(store, "parent", now=at(1))) == (JobState.WAITING, 0, None, None), (
            "a job none of whose children was created is waiting at once, without a delay"
        )

    async def test_a_retried_child_leaves_its_parents_run_at(self, store: Store) -> None:
        await family(store, "a", "b", run_at=at(100))
        await end(store, "a", second=1)

        await store.update(Where(queue="q", ids=frozenset("a")), Change(retry=True), now=at(2))

        assert wait_of(await get(store, "parent", now=at(2))) == (WAITS, 2, at(100), None), (
            "a child that is retried is waited for again, and its parent's run_at stays"
        )
