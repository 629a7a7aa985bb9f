"""Settling: what a lease's holder decided is applied once, and only while the lease is held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    AT_ONCE,
    DONE,
    ENDINGS,
    TICK,
    WRONG,
    add,
    at,
    cancelled,
    child,
    completed,
    everything,
    failed,
    get,
    ids,
    job,
    jobs,
    look,
    normal,
    retried,
    settle,
    span,
    states,
    take,
    take_one,
)
from conveyor.core.store import (
    Change,
    Feature,
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Lease,
    Outcome,
    Retention,
    Settled,
    Store,
    Undecodable,
    Where,
)

NOTHING = Settled(applied=frozenset())

#: Every kind of outcome, made of the record of a held job.
OUTCOMES: dict[str, Callable[[JobRecord], Outcome]] = {
    **ENDINGS,
    "retried at once": retried,
    "retried later": lambda held: retried(held, delay=60),
    "snoozed": lambda held: Outcome.snoozed(held, WRONG, delay=span(60)),
    "given back": Outcome.given_back,
    "removed": lambda held: completed(held, retention=AT_ONCE),
}


async def stale_by_stall(store: Store) -> JobRecord:
    """A hold on job "a" that was taken back."""
    (stale,) = await take(store)
    await store.advance({"q"}, now=at(30))
    return stale


async def stale_by_another_claim(store: Store) -> JobRecord:
    """A hold on job "a" that was taken back, and the job claimed again by the same worker."""
    stale = await stale_by_stall(store)
    await take_one(store, "a", now=at(31))
    return stale


async def stale_by_a_claim_that_ended(store: Store) -> JobRecord:
    """A hold on job "a" that was taken back, and the job completed by another claim."""
    stale = await stale_by_stall(store)
    await settle(store, Outcome.completed(await take_one(store, "a", now=at(31)), "1"), now=at(32))
    return stale


async def stale_by_cancelling(store: Store) -> JobRecord:
    """A hold on job "a" that was taken back, and the job cancelled."""
    stale = await stale_by_stall(store)
    await settle(store, Outcome.cancelled(await take_one(store, "a", now=at(31)), "1"), now=at(32))
    return stale


async def stale_by_a_forged_token(store: Store) -> JobRecord:
    """A hold on job "a" with a token that nobody was given."""
    (held,) = await take(store)
    return replace(held, token="forged")


STALE = [
    stale_by_stall,
    stale_by_another_claim,
    stale_by_a_claim_that_ended,
    stale_by_cancelling,
    stale_by_a_forged_token,
]


@area("settling")
class Settling:
    """`Store.settle`, without parents, keys and groups."""

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_a_job_that_ends_has_its_outcome_and_no_lease(self, store: Store, ending: str) -> None:
        await add(store, job("a", payload="7", priority=3))
        (held,) = await take(store)

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
        a, b, c = await take(store, 3)
        (d,) = await take(store, queue="other")

        await settle(store, completed(a), failed(b), retried(c), completed(d), now=at(1))

        assert await states(store) == {
            "a": JobState.COMPLETED,
            "b": JobState.FAILED,
            "c": JobState.WAITING,
        }
        assert await states(store, "other") == {"a": JobState.COMPLETED}

    async def test_the_attempt_is_what_the_outcome_says(self, store: Store) -> None:
        await add(store, job("a"), job("b"), job("c"))
        a, b, c = await take(store, 3)

        await settle(
            store, retried(a), Outcome.snoozed(b, DONE, delay=timedelta(0)), Outcome.given_back(c), now=at(1)
        )

        assert [found.attempt for found in await everything(store)] == [1, 0, 0]

    async def test_a_report_of_none_leaves_the_report(self, store: Store) -> None:
        await add(store, job("a", report='{"logs":["kept"]}'))
        (held,) = await take(store)

        await settle(store, Outcome.given_back(held), now=at(1))

        assert (await get(store, "a")).report == '{"logs":["kept"]}'

    # ----------------------------------------------------------- running again

    async def test_a_retry_after_a_delay_is_delayed_by_it_from_now(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await take(store)

        await settle(store, retried(held, delay=60), now=at(10))

        found = await get(store, "a")
        assert (found.state, found.run_at, found.delay) == (JobState.DELAYED, at(70), None)
        assert (found.attempt, found.report, found.finished_at) == (1, WRONG, None)
        assert (found.token, found.lease_until) == (None, None)

    async def test_a_retry_without_delay_is_waiting_at_once(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await take(store)

        await settle(store, retried(held), now=at(10))

        found = await get(store, "a")
        assert (found.state, found.run_at) == (JobState.WAITING, None)
        assert ids(await take(store, now=at(10))) == ["a"]

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
        (held,) = await take(store)

        await settle(store, Outcome.snoozed(held, DONE, run_at=at(10) + TICK), now=at(10))

        found = await get(store, "a")
        assert (found.state, found.run_at, found.attempt) == (JobState.DELAYED, at(10) + TICK, 0)

    async def test_a_job_snoozed_until_an_instant_that_is_past_is_waiting(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await take(store)

        await settle(store, Outcome.snoozed(held, DONE, run_at=at(10)), now=at(10))

        found = await get(store, "a")
        assert (found.state, found.run_at) == (JobState.WAITING, None)

    async def test_a_job_snoozed_with_neither_goes_back_to_where_it_was(self, store: Store) -> None:
        await add(store, job("waiting"), job("delayed", run_at=at(60)))
        waiting, delayed = await take(store, 2, ids=frozenset({"waiting", "delayed"}))

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
        a, b = await take(store, 2, ids=frozenset("ab"))

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
        (held,) = await take(store)
        await store.update(Where(queue="q"), Change(cancel=True), now=at(1))

        await settle(store, retried(held), now=at(2))

        assert (await get(store, "a")).cancel_requested
        (held,) = await take(store, now=at(3))
        assert held.cancel_requested

    # ----------------------------------------------------------------- fencing

    @pytest.mark.parametrize("kind", OUTCOMES)
    @pytest.mark.parametrize("become_stale", STALE, ids=lambda way: way.__name__.removeprefix("stale_by_"))
    async def test_a_stale_outcome_changes_nothing(
        self, store: Store, become_stale: Callable[[Store], Any], kind: str
    ) -> None:
        await add(store, job("a"))
        stale = await become_stale(store)
        before = await everything(store)

        settled = await store.settle([OUTCOMES[kind](stale)], now=at(60))

        assert settled == NOTHING
        assert await everything(store) == before

    async def test_a_worker_that_lost_its_lease_cannot_complete_the_job(self, store: Store) -> None:
        await add(store, job("a"))
        (stale,) = await take(store, worker="same")
        await store.advance({"q"}, now=at(30))
        (held,) = await take(store, worker="same", now=at(31))

        assert (await store.settle([completed(stale)], now=at(32))).applied == frozenset()
        assert (await store.settle([failed(held)], now=at(33))).applied == {held.lease}
        assert (await get(store, "a")).state is JobState.FAILED

    async def test_a_stale_outcome_fails_no_other(self, store: Store) -> None:
        await add(store, job("a"), job("b"), job("c"))
        a, b, c = await take(store, 3)
        await store.delete(Where(queue="q", ids=frozenset("b")), limit=1, now=at(1))

        settled = await store.settle([completed(a), completed(b), retried(c)], now=at(2))

        assert settled.applied == {a.lease, c.lease}
        assert await states(store) == {"a": JobState.COMPLETED, "c": JobState.WAITING}

    async def test_an_outcome_for_a_job_that_does_not_exist_is_stale(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await take(store)
        missing = replace(held, id="missing")

        assert await store.settle([completed(missing)], now=at(1)) == NOTHING
        assert ids(await everything(store)) == ["a"]

    async def test_a_lease_that_ran_out_but_was_not_taken_back_may_settle(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await take(store)

        await settle(store, completed(held), now=at(1_000))

        assert (await get(store, "a")).finished_at == at(1_000)

    async def test_a_renewed_lease_settles_under_its_token(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await take(store)
        await store.update(Where(queue="q"), Change(payload="2", priority=9), now=at(1))

        await settle(store, completed(held), now=at(2))

        found = await get(store, "a")
        assert (found.state, found.payload, found.priority) == (JobState.COMPLETED, "2", 9)

    async def test_of_two_outcomes_for_one_lease_the_first_is_applied(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await take(store)

        settled = await store.settle([retried(held, delay=60), completed(held)], now=at(1))

        assert settled.applied == {held.lease}
        assert (await get(store, "a")).state is JobState.DELAYED

    async def test_an_outcome_read_from_an_unreadable_row_fails_the_job(self, store: Store) -> None:
        await add(store, job("a"), job("b"))
        a, b = await take(store, 2)
        row = Undecodable(lease=a.lease, attempt=1, reason="nested too deep")

        await settle(store, Outcome.unreadable(row, WRONG), completed(b), now=at(1))

        found = await get(store, "a")
        assert (found.state, found.report, found.attempt) == (JobState.FAILED, WRONG, 1)
        assert (await get(store, "b")).state is JobState.COMPLETED

    # -------------------------------------------------------------- repeating

    @pytest.mark.parametrize("kind", OUTCOMES)
    async def test_a_repeated_outcome_is_reported_as_applied_and_changes_nothing(
        self, store: Store, kind: str
    ) -> None:
        await add(store, job("a"))
        (held,) = await take(store)
        outcome = OUTCOMES[kind](held)
        await settle(store, outcome, now=at(1))
        before = await everything(store)

        for moment in (2, 9 * 60):
            settled = await store.settle([replace(outcome, report="9")], now=at(moment))

            assert settled == Settled(applied=frozenset({held.lease}))
            assert await everything(store) == before

    async def test_a_repeated_outcome_does_not_touch_the_next_claim(self, store: Store) -> None:
        await add(store, job("a"))
        (first,) = await take(store)
        await settle(store, retried(first), now=at(1))
        (second,) = await take(store, now=at(2))

        settled = await store.settle([retried(first)], now=at(3))

        assert settled == Settled(applied=frozenset({first.lease}))
        assert await get(store, "a") == second

    async def test_a_repeat_is_recognised_beside_new_outcomes(self, store: Store) -> None:
        await add(store, job("a"), job("b"))
        a, b = await take(store, 2)
        await settle(store, completed(a), now=at(1))

        settled = await store.settle([completed(a), completed(b)], now=at(2))

        assert settled.applied == {a.lease, b.lease}
        assert (await get(store, "a")).finished_at == at(1)
        assert (await get(store, "b")).finished_at == at(2)

    @pytest.mark.parametrize(("first", "second"), [("completed", "failed"), ("failed", "completed")])
    async def test_another_outcome_for_a_settled_lease_is_stale(
        self, store: Store, first: str, second: str
    ) -> None:
        await add(store, job("a"))
        (held,) = await take(store)
        await settle(store, ENDINGS[first](held), now=at(1))
        before = await everything(store)

        assert await store.settle([ENDINGS[second](held)], now=at(2)) == NOTHING
        assert await store.settle([retried(held)], now=at(2)) == NOTHING
        assert await everything(store) == before

    async def test_the_repeat_of_an_outcome_that_removed_its_job_is_applied_though_the_id_is_used_again(
        self, store: Store
    ) -> None:
        await add(store, job("a"))
        (held,) = await take(store)
        outcome = completed(held, retention=AT_ONCE)
        await settle(store, outcome, now=at(1))
        await add(store, job("a", payload="2"), now=at(2))
        before = await everything(store)

        assert await store.settle([outcome], now=at(3)) == Settled(applied=frozenset({held.lease}))
        assert await store.settle([failed(held)], now=at(3)) == NOTHING
        assert await everything(store) == before

    async def test_repeats_are_recognised_for_ten_minutes_of_advances(self, store: Store) -> None:
        await add(store, job("kept"), job("removed"))
        kept, removed = await take(store, 2)
        outcomes = [completed(kept), completed(removed, retention=AT_ONCE)]
        await settle(store, *outcomes, now=at(1))
        for minute in range(1, 10):
            await store.advance({"q"}, now=at(60 * minute))

        settled = await store.settle(outcomes, now=at(600))

        assert settled == Settled(applied=frozenset({kept.lease, removed.lease}))

    async def test_a_job_that_was_removed_by_somebody_else_is_not_settled(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await take(store)
        await store.delete(Where(queue="q"), limit=1, now=at(1))
        await add(store, job("a"), now=at(2))

        assert await store.settle([completed(held)], now=at(3)) == NOTHING
        assert (await get(store, "a")).state is JobState.WAITING

    # ------------------------------------------------------------- terminality

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_nothing_but_an_explicit_retry_leaves_a_terminal_state(
        self, store: Store, ending: str
    ) -> None:
        await add(store, job("a"))
        (held,) = await take(store)
        await settle(store, ENDINGS[ending](held), now=at(1))
        before = await everything(store)

        where = Where(queue="q")
        await store.advance({"q"}, now=at(1_000))
        await take(store, 5, ids=frozenset("a"), now=at(2))
        await take(store, 5, now=at(2))
        for change in (Change(payload="1"), Change(priority=1), Change(delay=span(1)), Change(cancel=True)):
            assert await store.update(where, change, now=at(2)) == frozenset()
        await store.settle([Outcome.given_back(held)], now=at(2))
        await add(store, job("a"), now=at(2))

        assert await everything(store) == before

    async def test_a_job_that_ends_is_not_to_be_cancelled_any_more(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await take(store)
        await store.update(Where(queue="q"), Change(cancel=True), now=at(1))

        await settle(store, completed(held), now=at(2))

        assert not (await get(store, "a")).cancel_requested

    # --------------------------------------------------------------- retention

    async def test_a_retention_of_age_zero_removes_the_job_at_once(self, store: Store) -> None:
        await add(store, job("a"), job("b"))
        a, b = await take(store, 2)

        settled = await settle(
            store, completed(a, retention=AT_ONCE), failed(b, retention=AT_ONCE), now=at(1)
        )

        assert set(settled.removed) == {a.key, b.key}
        assert await everything(store) == []
        assert await look(store, "a") is None

    async def test_only_what_is_removed_at_once_is_told_as_removed(self, store: Store) -> None:
        await add(store, *jobs("abcdef"), job("a", queue="other"))
        (a, b, c, d, e, f), (g,) = await take(store, 6), await take(store, queue="other")
        stale = replace(f, token="forged")

        settled = await store.settle(
            [
                completed(a),
                completed(b, retention=Retention(age=span(60))),
                completed(c, retention=Retention(count=0)),
                retried(d),
                completed(e, retention=AT_ONCE),
                completed(stale, retention=AT_ONCE),
                cancelled(g, retention=Retention(age=timedelta(0), count=3)),
            ],
            now=at(1),
        )

        assert sorted(settled.removed) == [JobKey("other", "a"), JobKey("q", "e")]
        assert set(await states(store)) == {*"abcdf"}
        assert await everything(store, "other") == []

    async def test_a_job_is_told_as_removed_once(self, store: Store) -> None:
        await add(store, *jobs("ab"))
        a, b = await take(store, 2)
        await settle(store, completed(a, retention=AT_ONCE), now=at(1))

        again = await store.settle([completed(a, retention=AT_ONCE)], now=at(2))
        both = [completed(a, retention=AT_ONCE), completed(b, retention=AT_ONCE), failed(b)]
        last = await store.settle(both, now=at(3))

        assert again.applied == {a.lease}
        assert list(again.removed) == []
        assert last.applied == {a.lease, b.lease}
        assert list(last.removed) == [b.key]

    async def test_a_retention_by_age_counts_from_the_jobs_end(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await take(store)

        await settle(store, completed(held, retention=Retention(age=span(60))), now=at(10))

        found = await get(store, "a")
        assert (found.expires_at, found.keep_count) == (at(70), None)

    async def test_a_retention_by_count_is_kept_with_the_job(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await take(store)

        await settle(store, completed(held, retention=Retention(count=3)), now=at(10))

        found = await get(store, "a")
        assert (found.expires_at, found.keep_count) == (None, 3)

    # ------------------------------------------------------------------- spawn

    async def test_spawned_jobs_are_inserted_when_the_outcome_applies(self, store: Store) -> None:
        await add(store, job("a"), job("there", delay=span(5)))
        (held,) = await take(store)
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
        (held,) = await take(store)
        outcome = completed(held, spawn=(job("b"),))
        await settle(store, outcome, now=at(1))
        await store.delete(Where(queue="q", ids=frozenset("b")), limit=1, now=at(2))

        settled = await store.settle([outcome], now=at(3))

        assert settled == Settled(applied=frozenset({held.lease}))
        assert ids(await everything(store)) == ["a"]

    async def test_a_job_that_runs_later_may_spawn_too(self, store: Store) -> None:
        await add(store, job("schedule", run_at=at(10)))
        await store.advance({"q"}, now=at(10))
        (held,) = await take(store, now=at(10))

        settled = await settle(
            store, Outcome.snoozed(held, DONE, run_at=at(20), spawn=(job("tick-1"),)), now=at(10)
        )

        assert ids(settled.spawned) == ["tick-1"]
        assert await states(store) == {"schedule": JobState.DELAYED, "tick-1": JobState.WAITING}

    async def test_spawned_jobs_of_several_outcomes_come_in_order(self, store: Store) -> None:
        await add(store, job("a"), job("b"), job("c"))
        a, b, c = await take(store, 3)
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
        (held,) = await take(store)

        settled = await settle(
            store, completed(held, retention=AT_ONCE, spawn=(job("a", payload="2"),)), now=at(1)
        )

        (answer,) = settled.spawned
        assert answer.key == JobKey("q", "a")
        found = await look(store, "a")
        assert answer.created == (found is not None)

    async def test_a_lease_of_another_queue_does_not_fit(self, store: Store) -> None:
        await add(store, job("a"), job("a", queue="other"))
        (held,) = await take(store)
        outcome = replace(completed(held), lease=Lease("other", "a", held.lease.token))

        assert await store.settle([outcome], now=at(1)) == NOTHING
        assert await states(store, "other") == {"a": JobState.WAITING}
