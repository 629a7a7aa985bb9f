"""Sets: changing them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from conveyor.conformance.contract.sets.jobs import PLAIN, TERMINAL, Q, finish, one_in_each_state
from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    LEASE,
    add,
    at,
    cancelled,
    claim_jobs,
    completed,
    everything,
    failed,
    get,
    ids,
    in_state,
    job,
    jobs,
    normal,
    settle,
    span,
    states,
    take_one,
)
from conveyor.core.store import (
    Beat,
    Change,
    Feature,
    JobKey,
    JobState,
    Outcome,
    Retention,
    Store,
    Where,
)

#: What each plain change is, and the states of the jobs to which it applies.
LIVE = {JobState.WAITING, JobState.DELAYED, JobState.ACTIVE}
CHANGES: dict[str, tuple[Change, set[JobState]]] = {
    "payload": (Change(payload="9"), LIVE),
    "priority": (Change(priority=5), LIVE),
    "delay": (Change(delay=span(500)), {JobState.WAITING, JobState.DELAYED}),
    "no delay": (Change(delay=timedelta(0)), {JobState.WAITING, JobState.DELAYED}),
    "run_at": (Change(run_at=at(500)), {JobState.WAITING, JobState.DELAYED}),
    "cancel": (Change(cancel=True), {JobState.ACTIVE}),
    "retry": (Change(retry=True), set(TERMINAL)),
    "retention": (Change(retention=Retention(count=1)), set(TERMINAL)),
}


@area("sets")
class Changing:
    """`Store.update`, without keys and parents."""

    @pytest.mark.parametrize("kind", CHANGES)
    async def test_a_change_leaves_alone_the_jobs_to_which_it_does_not_apply(
        self, store: Store, kind: str
    ) -> None:
        change, wanted = CHANGES[kind]
        before = await one_in_each_state(store)

        changed = await store.update(Q, change, now=at(1))

        assert changed == {JobKey("q", state.value) for state in wanted}
        for state in set(PLAIN) - wanted:
            assert await get(store, state.value) == before[state]

    async def test_the_payload_is_replaced(self, store: Store) -> None:
        before = await in_state(store, JobState.WAITING, job("a", payload="1"))

        await store.update(Q, Change(payload='{"n":2}'), now=at(1))

        assert normal(await get(store, "a")) == replace(before, payload='{"n": 2}')

    async def test_a_changed_priority_shifts_sort_key_by_the_difference(self, store: Store) -> None:
        await add(store, job("plain", priority=2), job("ageing", priority=2, ageing=span(3_600)), now=at(60))
        before = {one.id: one for one in await everything(store)}

        await store.update(Q, Change(priority=-5), now=at(9))

        for one in await everything(store):
            assert one.priority == -5
            assert one.sort_key == before[one.id].sort_key - 7

    async def test_a_changed_priority_changes_the_place(self, store: Store) -> None:
        await add(store, *jobs("abc"))

        await store.update(replace(Q, ids=frozenset("c")), Change(priority=-1), now=at(1))
        await store.update(replace(Q, ids=frozenset("a")), Change(priority=1), now=at(1))

        assert ids(await claim_jobs(store, 9)) == ["c", "b", "a"]

    async def test_a_priority_changed_back_gives_the_old_place_back(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        b = replace(Q, ids=frozenset("b"))

        await store.update(b, Change(priority=1), now=at(1))
        await store.update(b, Change(priority=0), now=at(1))

        assert ids(await claim_jobs(store, 9)) == ["a", "b", "c"]

    async def test_a_changed_priority_holds_for_an_active_job_that_waits_again(self, store: Store) -> None:
        await add(store, *jobs("abc"))
        held = await take_one(store, "c")
        await store.update(replace(Q, ids=frozenset("c")), Change(priority=-1), now=at(1))
        await settle(store, Outcome.given_back(held))

        assert ids(await claim_jobs(store, 9)) == ["c", "a", "b"]

    async def test_a_waiting_job_can_be_delayed(self, store: Store) -> None:
        await add(store, *jobs("abc"))

        await store.update(replace(Q, ids=frozenset("a")), Change(delay=span(60)), now=at(10))
        await store.update(replace(Q, ids=frozenset("b")), Change(run_at=at(99)), now=at(10))

        found = await everything(store)
        assert [one.run_at for one in found] == [at(70), at(99), None]
        assert [one.state.value for one in found] == ["delayed", "delayed", "waiting"]
        assert ids(await claim_jobs(store, 9, now=at(11))) == ["c"]

    async def test_a_delayed_job_can_be_delayed_anew(self, store: Store) -> None:
        await add(store, *jobs("ab", delay=span(60)))

        await store.update(replace(Q, ids=frozenset("a")), Change(delay=span(5)), now=at(10))
        await store.update(replace(Q, ids=frozenset("b")), Change(run_at=at(500)), now=at(10))

        assert [one.run_at for one in await everything(store)] == [at(15), at(500)]
        assert ids((await store.advance({"q"}, now=at(15))).due) == ["a"]

    @pytest.mark.parametrize(
        "change", [Change(delay=timedelta(0)), Change(run_at=at(10)), Change(run_at=at(-5))]
    )
    async def test_a_job_can_be_promoted(self, store: Store, change: Change) -> None:
        await add(store, job("a", delay=span(60)))

        assert await store.update(Q, change, now=at(10)) == {JobKey("q", "a")}

        found = await get(store, "a")
        assert (found.state, found.run_at) == (JobState.WAITING, None)
        assert ids(await claim_jobs(store, now=at(10))) == ["a"]

    async def test_cancelling_asks_the_holder(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        await store.update(Q, Change(cancel=True), now=at(1))

        assert await get(store, "a") == replace(held, cancel_requested=True)
        beats = [Beat(lease=held.lease)]
        assert (await store.renew(beats, LEASE, now=at(2))).cancelled == {held.lease}

    @pytest.mark.parametrize("state", TERMINAL)
    async def test_a_finished_job_can_be_retried(self, store: Store, state: JobState) -> None:
        await add(store, job("a", payload="1", options="2", priority=3))
        await claim_jobs(store)
        await store.advance({"q"}, now=at(30))
        held = await take_one(store, "a", now=at(31))
        await store.update(Q, Change(cancel=True), now=at(32))
        ended = {"completed": completed, "failed": failed, "cancelled": cancelled}[state.value](
            held, retention=Retention(age=span(60), count=5)
        )
        await settle(store, replace(ended, report="4"), now=at(40))
        before = await get(store, "a")

        assert await store.update(Q, Change(retry=True), now=at(50)) == {JobKey("q", "a")}

        assert await get(store, "a") == replace(
            before,
            state=JobState.WAITING,
            attempt=0,
            stalled=0,
            processed_at=None,
            finished_at=None,
            expires_at=None,
            keep_count=None,
            locked_by=None,
        )
        assert (before.payload, before.options, before.report) == ("1", "2", "4")

    async def test_a_retried_job_runs_and_settles_again(self, store: Store) -> None:
        await add(store, job("a"))
        await finish(store, "a", at_second=1)
        await store.update(Q, Change(retry=True), now=at(2))

        (held,) = await claim_jobs(store, now=at(3))
        assert (held.attempt, held.cancel_requested) == (1, False)

        await settle(store, failed(held), now=at(4))
        assert await states(store) == {"a": JobState.FAILED}

    async def test_the_old_lease_of_a_retried_job_is_stale(self, store: Store) -> None:
        await add(store, job("a"))
        (old,) = await claim_jobs(store)
        await settle(store, completed(old), now=at(1))
        await store.update(Q, Change(retry=True), now=at(2))

        assert (await store.settle([failed(old)], now=at(3))).applied == frozenset()
        assert (await store.renew([Beat(lease=old.lease)], LEASE, now=at(3))).held == frozenset()
        assert await states(store) == {"a": JobState.WAITING}

    async def test_a_changed_retention_counts_from_the_jobs_end(self, store: Store) -> None:
        await add(store, job("a"))
        await finish(store, "a", at_second=10)

        await store.update(Q, Change(retention=Retention(age=span(60), count=4)), now=at(50))

        found = await get(store, "a")
        assert (found.expires_at, found.keep_count) == (at(70), 4)

    @pytest.mark.parametrize("state", PLAIN)
    async def test_the_report_of_a_job_that_nobody_holds_can_be_replaced(
        self, store: Store, state: JobState
    ) -> None:
        before = await in_state(store, state, job("a", report='{"n":1}'))

        changed = await store.update(Q, Change(report='{"n":2}'), now=at(1))

        found = normal(await get(store, "a"))
        held = state is JobState.ACTIVE
        assert changed == (frozenset() if held else {before.key})
        assert found == normal(before if held else replace(before, report='{"n":2}'))

    @needs(Feature.FLOWS)
    async def test_the_report_of_a_job_that_waits_for_children_can_be_replaced(self, store: Store) -> None:
        before = await in_state(store, JobState.WAITING_CHILDREN, job("a"))
        where = Where(queue="q", ids=frozenset("a"), report=before.report)

        assert await store.update(where, Change(report='{"n":2}'), now=at(1)) == {before.key}

        assert normal(await get(store, "a")) == normal(replace(before, report='{"n":2}'))

    async def test_a_report_is_replaced_by_one_of_those_who_have_read_it(self, store: Store) -> None:
        await add(store, job("a", report='{"n":1}'))
        read = await get(store, "a")
        where = Where(queue="q", ids=frozenset("a"), report=read.report)

        first = await store.update(where, Change(report='{"n":2}'), now=at(1))
        second = await store.update(where, Change(report='{"n":3}'), now=at(1))

        assert first == {read.key}
        assert second == frozenset()
        assert normal(await get(store, "a")) == normal(replace(read, report='{"n":2}'))

    async def test_several_changes_in_one(self, store: Store) -> None:
        """Of a change of several things, each job gets what applies to it."""
        await add(store, job("waiting"), job("held"))
        await take_one(store, "held")

        changed = await store.update(
            Q, Change(payload="9", priority=4, delay=span(60), cancel=True), now=at(10)
        )

        waiting, held = await everything(store)
        assert changed == {waiting.key, held.key}
        assert (waiting.payload, waiting.priority, waiting.run_at) == ("9", 4, at(70))
        assert (waiting.state, waiting.cancel_requested) == (JobState.DELAYED, False)
        assert (held.payload, held.priority, held.run_at) == ("9", 4, None)
        assert (held.state, held.cancel_requested) == (JobState.ACTIVE, True)

    async def test_a_change_of_nothing_changes_nothing(self, store: Store) -> None:
        await one_in_each_state(store)
        before = await everything(store)

        assert await store.update(Q, Change(), now=at(1)) == frozenset()
        assert await everything(store) == before

    async def test_jobs_outside_the_set_are_left_alone(self, store: Store) -> None:
        await add(store, *jobs("ab"), job("a", queue="other"))

        changed = await store.update(replace(Q, ids=frozenset("a")), Change(payload="9"), now=at(1))

        assert changed == {JobKey("q", "a")}
        assert [one.payload for one in await everything(store)] == ["9", "null"]
        assert (await get(store, "a", queue="other")).payload == "null"
