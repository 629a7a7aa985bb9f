"""Settling: jobs that an outcome brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from conveyor.conformance.contract.settling.outcomes import NOTHING, STALE
from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    AT_ONCE,
    DONE,
    add,
    at,
    claim_jobs,
    completed,
    everything,
    get,
    ids,
    job,
    look,
    settle,
    span,
    states,
    take_one,
)
from conveyor.core.store import (
    Inserted,
    JobKey,
    JobState,
    Outcome,
    Settled,
    Store,
    Where,
)


@area("settling")
class Spawning:
    """They are inserted if it applies, and once."""

    async def test_spawned_jobs_are_inserted_when_the_outcome_applies(self, store: Store) -> None:
        await add(store, job("a"), job("there", delay=span(5)))
        (held,) = await claim_jobs(store)
        spawn = (job("b", payload="2"), job("later", delay=span(60)), job("there"), job("x", queue="other"))

        settled = await settle(store, completed(held, spawn=spawn), now=at(1))

        assert list(settled.spawned) == [
            Inserted(key=JobKey("q", "b"), created=True, state=JobState.WAITING, created_at=at(1)),
            Inserted(key=JobKey("q", "later"), created=True, state=JobState.DELAYED, created_at=at(1)),
            Inserted(key=JobKey("q", "there"), created=False, state=JobState.DELAYED, created_at=at(0)),
            Inserted(key=JobKey("other", "x"), created=True, state=JobState.WAITING, created_at=at(1)),
        ]
        assert (await get(store, "b")).payload == "2"
        assert (await get(store, "later")).run_at == at(61)
        assert ids(await everything(store)) == ["a", "there", "b", "later"]

    @pytest.mark.parametrize("become_stale", STALE, ids=lambda way: way.__name__.removeprefix("stale_by_"))
    async def test_a_stale_outcome_spawns_nothing(
        self, store: Store, become_stale: Callable[[Store], Any]
    ) -> None:
        await add(store, job("a"), job("other"))
        await take_one(store, "other")
        stale = await become_stale(store)

        settled = await store.settle([completed(stale, spawn=(job("b"),))], now=at(60))

        assert settled == NOTHING
        assert ids(await everything(store)) == ["a", "other"]

    async def test_a_repeated_outcome_spawns_nothing_again(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        outcome = completed(held, spawn=(job("b"),))
        await settle(store, outcome, now=at(1))
        await store.delete(Where(queue="q", ids=frozenset("b")), limit=1, now=at(2))

        settled = await store.settle([outcome], now=at(3))

        assert settled == Settled(applied=frozenset({held.lease}))
        assert ids(await everything(store)) == ["a"]

    async def test_a_job_that_runs_later_may_spawn_too(self, store: Store) -> None:
        await add(store, job("schedule", run_at=at(10)))
        await store.advance({"q"}, now=at(10))
        (held,) = await claim_jobs(store, now=at(10))

        settled = await settle(
            store, Outcome.snoozed(held, DONE, run_at=at(20), spawn=(job("tick-1"),)), now=at(10)
        )

        assert ids(settled.spawned) == ["tick-1"]
        assert await states(store) == {"schedule": JobState.DELAYED, "tick-1": JobState.WAITING}

    async def test_spawned_jobs_of_several_outcomes_come_in_order(self, store: Store) -> None:
        await add(store, job("a"), job("b"), job("c"))
        a, b, c = await claim_jobs(store, 3)
        stale = replace(b, token="stale")

        settled = await store.settle(
            [
                completed(c, spawn=(job("c-1"), job("c-2"))),
                completed(stale, spawn=(job("never"),)),
                completed(a, spawn=(job("a-1"), job("c-1"))),
            ],
            now=at(1),
        )

        assert ids(settled.spawned) == ["c-1", "c-2", "a-1", "c-1"]
        assert [answer.created for answer in settled.spawned] == [True, True, True, False]

    async def test_a_removed_job_may_spawn_its_own_id_again(self, store: Store) -> None:
        await add(store, job("a", payload="1"))
        (held,) = await claim_jobs(store)

        settled = await settle(
            store, completed(held, retention=AT_ONCE, spawn=(job("a", payload="2"),)), now=at(1)
        )

        (answer,) = settled.spawned
        assert answer.key == JobKey("q", "a")
        found = await look(store, "a")
        assert answer.created == (found is not None)
