"""Flows: a job that waits for children it adds itself."""

from __future__ import annotations

from conveyor.conformance.contract.flows.family import PARENT, WAITS, end
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    DONE,
    WRONG,
    add,
    at,
    child,
    claim_jobs,
    completed,
    get,
    ids,
    job,
    settle,
    states,
    take_by_id,
    take_one,
)
from conveyor.core.store import (
    Feature,
    JobKey,
    JobState,
    Outcome,
    Store,
)


@area("flows", Feature.FLOWS)
class Awaiting:
    """`Outcome.awaiting`: children that a job adds while it runs."""

    async def test_the_job_runs_again_when_its_new_children_have_ended(self, store: Store) -> None:
        await add(store, job("parent", payload="7"))
        (held,) = await claim_jobs(store)

        settled = await settle(
            store, Outcome.awaiting(held, DONE, children=(child("a"), child("b", queue="other"))), now=at(1)
        )

        assert [answer.created for answer in settled.spawned] == [True, True]
        assert list(settled.released) == []
        parent = await get(store, "parent")
        assert (parent.state, parent.pending, parent.report) == (WAITS, 2, DONE)
        assert (parent.token, parent.attempt, parent.finished_at) == (None, 1, None)
        assert not (await get(store, "a")).released

        assert await end(store, "a", second=2) == []
        other = await take_one(store, "b", queue="other", now=at(3))
        assert list((await settle(store, completed(other), now=at(3))).released) == [PARENT]
        (again,) = await claim_jobs(store, now=at(4))
        assert (again.id, again.attempt) == ("parent", 2)

    async def test_only_the_children_that_were_created_are_waited_for(self, store: Store) -> None:
        await add(store, job("parent"), job("a"))
        held = await take_one(store, "parent")

        await settle(store, Outcome.awaiting(held, DONE, children=(child("a"), child("b"))), now=at(1))

        assert (await get(store, "parent")).pending == 1
        assert await end(store, "b", second=2) == [PARENT]

    async def test_a_job_none_of_whose_children_was_created_is_waiting_at_once(self, store: Store) -> None:
        await add(store, job("parent"), job("a"))
        held = await take_one(store, "parent")

        await settle(store, Outcome.awaiting(held, DONE, children=(child("a"),)), now=at(1))

        parent = await get(store, "parent")
        assert (parent.state, parent.pending) == (JobState.WAITING, 0)
        assert ids(await take_by_id(store, ["parent"], now=at(2))) == ["parent"]

    async def test_grandchildren_come_with_the_children(self, store: Store) -> None:
        await add(store, job("parent"))
        (held,) = await claim_jobs(store)

        await settle(
            store,
            Outcome.awaiting(held, DONE, children=(child("leaf", of="branch"), child("branch"))),
            now=at(1),
        )

        assert await states(store) == {"parent": WAITS, "leaf": JobState.WAITING, "branch": WAITS}
        assert (await get(store, "parent")).pending == 1
        assert await end(store, "leaf", second=2) == [JobKey("q", "branch")]
        assert await end(store, "branch", second=3) == [PARENT]

    async def test_a_stale_job_adds_no_children(self, store: Store) -> None:
        await add(store, job("parent"))
        (stale,) = await claim_jobs(store)
        await store.advance({"q"}, now=at(30))

        settled = await store.settle([Outcome.awaiting(stale, DONE, children=(child("a"),))], now=at(31))

        assert settled.applied == frozenset()
        assert await states(store) == {"parent": JobState.WAITING}

    async def test_repeating_it_adds_nothing_and_waits_for_nothing_more(self, store: Store) -> None:
        await add(store, job("parent"))
        (held,) = await claim_jobs(store)
        outcome = Outcome.awaiting(held, DONE, children=(child("a"),))
        await settle(store, outcome, now=at(1))

        again = await store.settle([outcome], now=at(2))

        assert (again.applied, list(again.spawned)) == (frozenset({held.lease}), [])
        assert (await get(store, "parent")).pending == 1

    async def test_a_job_may_wait_for_children_again_and_again(self, store: Store) -> None:
        await add(store, job("parent"))
        for round_ in range(3):
            held = await take_one(store, "parent", now=at(10 * round_))
            kid = f"kid-{round_}"
            await settle(store, Outcome.awaiting(held, DONE, children=(child(kid),)), now=at(10 * round_ + 1))
            assert await end(store, kid, second=10 * round_ + 2) == [PARENT]

        await settle(store, Outcome.failed(await take_one(store, "parent", now=at(99)), WRONG), now=at(99))
        assert (await get(store, "parent")).state is JobState.FAILED
