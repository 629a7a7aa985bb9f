"""Settling: what each outcome makes of a job."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from conveyor.conformance.contract.settling.outcomes import NOTHING
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    DONE,
    ENDINGS,
    TICK,
    WRONG,
    add,
    at,
    child,
    claim_jobs,
    completed,
    everything,
    failed,
    get,
    ids,
    job,
    normal,
    retried,
    settle,
    span,
    states,
    take_by_id,
    take_one,
)
from conveyor.core.store import (
    Change,
    Feature,
    JobState,
    Outcome,
    Settled,
    Store,
    Where,
)


@area("settling")
class Applying:
    """Ends, retries, snoozes, and what is given back."""

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_a_job_that_ends_has_its_outcome_and_no_lease(self, store: Store, ending: str) -> None:
        await add(store, job("a", payload="7", priority=3))
        (held,) = await claim_jobs(store)

        settled = await store.settle([replace(ENDINGS[ending](held), report='{"x":1}')], now=at(9))

        found = await get(store, "a")
        assert settled == Settled(applied=frozenset({held.lease}))
        assert found.state is JobState(ending)
        assert (found.token, found.lease_until, found.locked_by) == (None, None, None)
        assert (found.report, found.finished_at, found.attempt) == ('{"x":1}', at(9), 1)
        assert (found.payload, found.priority, found.processed_at) == ("7", 3, at(0))
        assert (found.expires_at, found.keep_count, found.run_at) == (None, None, None)

    async def test_settling_nothing_applies_nothing(self, store: Store) -> None:
        assert await store.settle([], now=at(0)) == NOTHING

    async def test_one_call_settles_many_jobs_of_several_queues(self, store: Store) -> None:
        await add(store, job("a"), job("b"), job("c"), job("a", queue="other"))
        a, b, c = await claim_jobs(store, 3)
        (d,) = await claim_jobs(store, queue="other")

        await settle(store, completed(a), failed(b), retried(c), completed(d), now=at(1))

        assert await states(store) == {
            "a": JobState.COMPLETED,
            "b": JobState.FAILED,
            "c": JobState.WAITING,
        }
        assert await states(store, "other") == {"a": JobState.COMPLETED}

    async def test_the_attempt_is_what_the_outcome_says(self, store: Store) -> None:
        await add(store, job("a"), job("b"), job("c"))
        a, b, c = await claim_jobs(store, 3)

        await settle(
            store, retried(a), Outcome.snoozed(b, DONE, delay=timedelta(0)), Outcome.given_back(c), now=at(1)
        )

        assert [found.attempt for found in await everything(store)] == [1, 0, 0]

    async def test_a_report_of_none_leaves_the_report(self, store: Store) -> None:
        await add(store, job("a", report='{"logs":["kept"]}'))
        (held,) = await claim_jobs(store)

        await settle(store, Outcome.given_back(held), now=at(1))

        assert (await get(store, "a")).report == '{"logs":["kept"]}'

    async def test_a_retry_after_a_delay_is_delayed_by_it_from_now(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        await settle(store, retried(held, delay=60), now=at(10))

        found = await get(store, "a")
        assert (found.state, found.run_at, found.delay) == (JobState.DELAYED, at(70), None)
        assert (found.attempt, found.report, found.finished_at) == (1, WRONG, None)
        assert (found.token, found.lease_until) == (None, None)

    async def test_a_retry_without_delay_is_waiting_at_once(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        await settle(store, retried(held), now=at(10))

        found = await get(store, "a")
        assert (found.state, found.run_at) == (JobState.WAITING, None)
        assert ids(await claim_jobs(store, now=at(10))) == ["a"]

    async def test_an_outcome_that_says_so_is_one_stall_more(self, store: Store) -> None:
        await add(store, job("a"), job("b", delay=span(60)))
        a, b = await take_one(store, "a"), await take_one(store, "b")

        await settle(store, Outcome.stalled(a, WRONG), Outcome.stalled(b, WRONG), now=at(1))
        await store.settle([Outcome.stalled(a, WRONG)], now=at(1))

        found = await get(store, "a")
        assert (found.state, found.stalled, found.attempt) == (JobState.WAITING, 1, 1)
        assert (found.token, found.started) == (None, False)
        assert normal(found).report == normal(replace(found, report=WRONG)).report
        assert (await get(store, "b")).state is JobState.DELAYED

        again = await take_one(store, "a", now=at(2))
        await settle(store, Outcome.stalled(again, DONE), now=at(2))
        assert (await get(store, "a")).stalled == 2

    @needs(Feature.FLOWS)
    async def test_a_stalled_outcome_beside_others_is_counted_once(self, store: Store) -> None:
        await add(store, child("kid"), job("parent"), job("b"))
        kid, b = await take_one(store, "kid"), await take_one(store, "b")

        await settle(store, Outcome.stalled(kid, WRONG), completed(b, spawn=(job("c"),)), now=at(1))

        assert (await get(store, "kid")).stalled == 1
        assert (await get(store, "parent")).pending == 1

    async def test_a_job_snoozed_until_an_instant_is_delayed_until_then(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        await settle(store, Outcome.snoozed(held, DONE, run_at=at(10) + TICK), now=at(10))

        found = await get(store, "a")
        assert (found.state, found.run_at, found.attempt) == (JobState.DELAYED, at(10) + TICK, 0)

    async def test_a_job_snoozed_until_an_instant_that_is_past_is_waiting(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        await settle(store, Outcome.snoozed(held, DONE, run_at=at(10)), now=at(10))

        found = await get(store, "a")
        assert (found.state, found.run_at) == (JobState.WAITING, None)

    async def test_a_job_snoozed_with_neither_goes_back_to_where_it_was(self, store: Store) -> None:
        await add(store, job("waiting"), job("delayed", run_at=at(60)))
        waiting, delayed = await take_by_id(store, ["waiting", "delayed"])

        await settle(store, Outcome.snoozed(waiting, "1"), Outcome.snoozed(delayed, "2"), now=at(10))

        assert await states(store) == {"waiting": JobState.WAITING, "delayed": JobState.DELAYED}
        assert (await get(store, "delayed")).run_at == at(60)

    async def test_a_job_given_back_after_its_run_at_has_come_is_waiting(self, store: Store) -> None:
        await add(store, job("a", run_at=at(60)))
        held = await take_one(store, "a")

        await settle(store, Outcome.given_back(held), now=at(60))

        found = await get(store, "a")
        assert (found.state, found.run_at) == (JobState.WAITING, None)

    async def test_a_delayed_job_that_is_retried_by_its_holder_takes_the_new_delay(
        self, store: Store
    ) -> None:
        await add(store, job("a", run_at=at(60)), job("b", run_at=at(60)))
        a, b = await take_by_id(store, "ab")

        await settle(store, retried(a, delay=5), retried(b), now=at(10))

        found = await everything(store)
        assert [one.run_at for one in found] == [at(15), None]
        assert [one.state for one in found] == [JobState.DELAYED, JobState.WAITING]

    @needs(Feature.FLOWS)
    async def test_children_that_have_not_ended_win_over_a_delay(self, store: Store) -> None:
        await add(store, child("kid"), job("parent"))
        held = await take_one(store, "parent")

        await settle(store, retried(held, delay=5), now=at(10))

        assert await states(store) == {"kid": JobState.WAITING, "parent": JobState.WAITING_CHILDREN}

    async def test_a_job_that_waits_again_is_still_to_be_cancelled(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        await store.update(Where(queue="q"), Change(cancel=True), now=at(1))

        await settle(store, retried(held), now=at(2))

        assert (await get(store, "a")).cancel_requested
        (held,) = await claim_jobs(store, now=at(3))
        assert held.cancel_requested
