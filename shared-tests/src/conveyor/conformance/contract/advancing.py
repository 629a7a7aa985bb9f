"""Advancing: what the passing of time does, exactly when it is due."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    LEASE,
    TICK,
    add,
    at,
    child,
    claim,
    claim_jobs,
    completed,
    everything,
    get,
    ids,
    in_state,
    job,
    jobs,
    settle,
    span,
    states,
    take_by_id,
    take_one,
)
from conveyor.conformance.kit.processes import in_processes
from conveyor.core.store import Advanced, Beat, Change, Feature, JobKey, JobState, Pause, Store, Where

TERMINAL = [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED]


@area("advancing")
class Advancing:
    """`Store.advance`."""

    async def test_a_job_is_due_at_its_run_at_and_not_before(self, store: Store) -> None:
        await add(store, job("a", run_at=at(10)))

        early = await store.advance({"q"}, now=at(10) - TICK)
        assert list(early.due) == []
        assert (await get(store, "a")).state is JobState.DELAYED

        advanced = await store.advance({"q"}, now=at(10))
        assert list(advanced.due) == [JobKey("q", "a")]
        assert (await get(store, "a")).state is JobState.WAITING

    async def test_a_due_job_is_otherwise_as_it_was(self, store: Store) -> None:
        await add(store, job("a", delay=span(10), priority=4, payload="7"))
        before = await get(store, "a")

        await store.advance({"q"}, now=at(10))

        assert await get(store, "a") == replace(before, state=JobState.WAITING, run_at=None)

    async def test_a_lease_runs_out_at_its_end_and_not_before(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        early = await store.advance({"q"}, now=at(30) - TICK)
        assert list(early.stalled) == []
        assert await get(store, "a") == held

        advanced = await store.advance({"q"}, now=at(30))
        assert list(advanced.stalled) == [JobKey("q", "a")]
        assert (await get(store, "a")).state is JobState.WAITING

    async def test_a_stalled_job_loses_its_lease_and_counts_it_apart_from_attempts(
        self, store: Store
    ) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        await store.advance({"q"}, now=at(30))

        found = await get(store, "a")
        assert (found.token, found.lease_until) == (None, None)
        assert (found.stalled, found.attempt) == (1, 1)
        assert (found.payload, found.report, found.seq) == (held.payload, held.report, held.seq)

        (held,) = await claim_jobs(store, now=at(40))
        await store.renew([Beat(lease=held.lease, started=True)], LEASE, now=at(40))
        await store.advance({"q"}, now=at(70))
        found = await get(store, "a")
        assert (found.stalled, found.attempt) == (2, 2)

    async def test_a_job_that_has_stalled_is_charged_again_only_once_it_has_started(
        self, store: Store
    ) -> None:
        await add(store, job("a"))
        (first,) = await claim_jobs(store)
        assert first.started, "the first loss of a job's lease is a stall, whether it runs by then or not"
        await store.advance({"q"}, now=at(30))

        (second,) = await claim_jobs(store, now=at(40))
        advanced = await store.advance({"q"}, now=at(70))

        assert not second.started, "a job that has stalled before has not started by being claimed"
        assert (ids(advanced.stalled), ids(advanced.unstarted)) == ([], ["a"])
        found = await get(store, "a")
        assert (found.state, found.stalled, found.started) == (JobState.WAITING, 1, False)

        (third,) = await claim_jobs(store, now=at(80))
        await store.renew([Beat(lease=third.lease, started=True)], LEASE, now=at(80))
        assert (await get(store, "a")).started
        await store.renew([Beat(lease=third.lease)], LEASE, now=at(81))
        advanced = await store.advance({"q"}, now=at(111))

        assert (ids(advanced.stalled), ids(advanced.unstarted)) == (["a"], [])
        found = await get(store, "a")
        assert (found.state, found.stalled, found.started) == (JobState.WAITING, 2, False)

    @pytest.mark.parametrize("by_id", [False, True], ids=["in turn", "by id"])
    async def test_a_claim_that_starts_nothing_is_charged_nothing(self, store: Store, by_id: bool) -> None:  # noqa: FBT001 - a parameter
        await add(store, job("a"))
        (held,) = await (take_by_id(store, "a", started=False) if by_id else claim_jobs(store, started=False))

        advanced = await store.advance({"q"}, now=at(30))

        assert not held.started
        assert (ids(advanced.stalled), ids(advanced.unstarted)) == ([], ["a"])
        assert (await get(store, "a")).stalled == 0

        how: dict[str, Any] = {"started": False, "now": at(40)}
        (held,) = await (take_by_id(store, "a", **how) if by_id else claim_jobs(store, **how))
        await store.renew([Beat(lease=held.lease, started=True)], LEASE, now=at(41))
        advanced = await store.advance({"q"}, now=at(71))

        assert (ids(advanced.stalled), ids(advanced.unstarted)) == (["a"], [])
        assert (await get(store, "a")).stalled == 1

    async def test_a_stale_beat_starts_nothing(self, store: Store) -> None:
        await add(store, job("a"))
        (stale,) = await claim_jobs(store)
        await store.advance({"q"}, now=at(30))
        await claim_jobs(store, now=at(40))

        await store.renew([Beat(lease=stale.lease, started=True)], LEASE, now=at(41))

        assert not (await get(store, "a")).started

    async def test_unstarted_and_stalled_jobs_are_taken_back_together(self, store: Store) -> None:
        await add(store, job("a"), job("b"))
        await take_one(store, "a")
        await take_one(store, "b", started=False)

        first = await store.advance({"q"}, limit=1, now=at(30))
        second = await store.advance({"q"}, limit=1, now=at(30))

        assert sorted([*ids(first.stalled), *ids(second.stalled)]) == ["a"]
        assert sorted([*ids(first.unstarted), *ids(second.unstarted)]) == ["b"]
        assert (await get(store, "a")).state is (await get(store, "b")).state is JobState.WAITING

    async def test_a_stalled_job_that_was_delayed_is_delayed_again(self, store: Store) -> None:
        await add(store, job("a", run_at=at(60)))
        await take_one(store, "a", lease=span(5))

        advanced = await store.advance({"q"}, now=at(5))

        found = await get(store, "a")
        assert ids(advanced.stalled) == ["a"]
        assert (found.state, found.run_at, found.stalled) == (JobState.DELAYED, at(60), 1)

    async def test_a_stalled_job_whose_run_at_has_come_is_waiting(self, store: Store) -> None:
        await add(store, job("a", run_at=at(60)))
        await take_one(store, "a")

        advanced = await store.advance({"q"}, now=at(60))

        found = await get(store, "a")
        assert (ids(advanced.stalled), ids(advanced.due)) == (["a"], [])
        assert (found.state, found.run_at) == (JobState.WAITING, None)

    @needs(Feature.FLOWS)
    async def test_a_stalled_job_whose_children_have_not_ended_waits_for_them(self, store: Store) -> None:
        await add(store, child("kid"), job("parent"))
        await take_one(store, "parent")

        advanced = await store.advance({"q"}, now=at(30))

        found = await get(store, "parent")
        assert ids(advanced.stalled) == ["parent"]
        assert (found.state, found.pending) == (JobState.WAITING_CHILDREN, 1)

    async def test_a_stalled_job_is_still_to_be_cancelled(self, store: Store) -> None:
        await add(store, job("a"))
        await claim_jobs(store)
        await store.update(Where(queue="q"), Change(cancel=True), now=at(1))

        await store.advance({"q"}, now=at(30))

        assert (await get(store, "a")).cancel_requested

    async def test_only_the_given_queues_advance(self, store: Store) -> None:
        for queue in ("one", "two", "three"):
            await add(store, job("due", queue=queue, delay=span(5)), job("held", queue=queue))
            await take_one(store, "held", queue=queue)

        advanced = await store.advance({"one", "three"}, now=at(60))

        assert set(advanced.due) == {JobKey("one", "due"), JobKey("three", "due")}
        assert set(advanced.stalled) == {JobKey("one", "held"), JobKey("three", "held")}
        assert await states(store, "two") == {"due": JobState.DELAYED, "held": JobState.ACTIVE}

    async def test_advancing_no_queue_does_nothing(self, store: Store) -> None:
        await add(store, job("a", delay=span(5)))

        advanced = await store.advance(set(), now=at(60))

        assert (list(advanced.due), list(advanced.stalled), advanced.now) == ([], [], at(60))
        assert await states(store) == {"a": JobState.DELAYED}

    async def test_advancing_says_what_time_it_is_by_the_stores_clock(self, store: Store) -> None:
        before = await store.advance(())
        await add(store, job("a", delay=span(60)), now=before.now)

        after = await store.advance({"q"})

        assert timedelta(0) <= after.now - before.now < timedelta(minutes=1)
        assert (await store.advance({"q"}, now=at(5))).now == at(5)

    async def test_advancing_twice_is_advancing_once(self, store: Store) -> None:
        await add(store, job("due", delay=span(5)), job("held"))
        await take_one(store, "held")
        await store.advance({"q"}, now=at(60))
        before = await everything(store)

        advanced = await store.advance({"q"}, now=at(60))

        assert advanced == Advanced(
            now=at(60), due=advanced.due, stalled=advanced.stalled, unstarted=advanced.unstarted, wait=None
        )
        assert (list(advanced.due), list(advanced.stalled)) == ([], [])
        assert await everything(store) == before

    @pytest.mark.parametrize("state", [JobState.WAITING, *TERMINAL])
    async def test_time_does_nothing_to_waiting_and_finished_jobs(
        self, store: Store, state: JobState
    ) -> None:
        before = await in_state(store, state, job("a"))

        await store.advance({"q"}, now=at(1_000_000))

        assert await get(store, "a") == before

    async def test_at_most_limit_of_each_kind_move_most_overdue_first(self, store: Store) -> None:
        await add(store, *(job(f"due-{n}", delay=span(9 - n)) for n in range(5)))
        for n in range(5):
            await add(store, job(f"held-{n}"))
            await take_one(store, f"held-{n}", lease=span(9 - n))

        first = await store.advance({"q"}, limit=2, now=at(60))
        second = await store.advance({"q"}, limit=2, now=at(60))
        third = await store.advance({"q"}, limit=2, now=at(60))

        assert [set(ids(advanced.due)) for advanced in (first, second, third)] == [
            {"due-4", "due-3"},
            {"due-2", "due-1"},
            {"due-0"},
        ]
        assert [set(ids(advanced.stalled)) for advanced in (first, second, third)] == [
            {"held-4", "held-3"},
            {"held-2", "held-1"},
            {"held-0"},
        ]

    async def test_wait_is_zero_when_the_limit_was_reached(self, store: Store) -> None:
        await add(store, *jobs("abc", delay=span(5)))

        assert (await store.advance({"q"}, limit=2, now=at(60))).wait == timedelta(0)

    async def test_wait_is_no_longer_than_it_takes_until_the_next_due_time(self, store: Store) -> None:
        await add(store, job("a", delay=span(60)), job("b", delay=span(20)), job("c", delay=span(1)))

        wait = (await store.advance({"q"}, now=at(5))).wait

        assert wait is not None
        assert timedelta(0) < wait <= span(15)

    async def test_wait_is_no_longer_than_it_takes_until_a_lease_ends(self, store: Store) -> None:
        await add(store, job("a"), job("b", delay=span(60)))
        await take_one(store, "a")

        wait = (await store.advance({"q"}, now=at(5))).wait

        assert wait is not None
        assert timedelta(0) < wait <= span(25)

    async def test_an_advance_waits_for_nothing_with_nothing_in_sight(self, store: Store) -> None:
        await add(store, job("a"), job("b"), job("c", queue="other", delay=span(60)))
        await settle(store, completed(await take_one(store, "b")))

        assert (await store.advance({"q"}, now=at(5))).wait is None

    async def test_a_lease_that_was_settled_does_not_stall(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        await settle(store, completed(held), now=at(29))

        advanced = await store.advance({"q"}, now=at(1_000))

        assert list(advanced.stalled) == []
        assert (await get(store, "a")).state is JobState.COMPLETED

    @needs(Feature.SERVER_CLOCK, Feature.MULTI_PROCESS)
    async def test_a_client_whose_clock_is_wrong_moves_nothing_early_and_takes_no_live_lease(
        self, store: Store, store_url: str | None
    ) -> None:
        await store.insert([job("held"), job("later", delay=span(3600)), job("paused", name="x")])
        await store.pause("q", Pause(name="x"), span(3600))
        (held,) = (await store.claim(claim(1, lease=span(3600)))).jobs

        (ahead,) = await in_processes(store_url, "act_without_now", 1, clock_off_by=5 * 3600)
        assert ahead == [], (
            f"by the server's clock nothing is due for an hour; a client hours ahead moved {ahead}"
        )

        await store.insert([job("other")])
        (behind,) = await in_processes(store_url, "act_without_now", 1, clock_off_by=-5 * 3600)
        assert behind == ["other"], f"a client hours behind is to claim what waits, and got {behind}"
        advanced = await store.advance({"q"})
        moved = [*advanced.due, *advanced.stalled, *advanced.unstarted]
        assert moved == [], (
            f"a lease counts from the server's time; taken back from a client hours behind: {moved}"
        )
        beat = Beat(lease=held.lease)
        assert (await store.renew([beat], span(60))).held == {held.lease}, "the first lease is still held"
