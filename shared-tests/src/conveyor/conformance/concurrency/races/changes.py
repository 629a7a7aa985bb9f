"""Races of those who look at a job with those who change it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from conveyor.conformance.concurrency.races.together import (
    ROUNDS,
    WAITING,
    Handles,
    Q,
    at_once,
    turns,
    while_at_work,
)
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
    retried,
    span,
    states,
    take_one,
)
from conveyor.core.store import (
    Beat,
    Change,
    Feature,
    JobKey,
    JobRecord,
    JobState,
    Outcome,
    Store,
    Where,
)


@area("races")
class ChangeRaces:
    """What is found, changed, settled, taken back and removed at once."""

    @pytest.mark.parametrize("state", [JobState.WAITING, JobState.ACTIVE, JobState.COMPLETED])
    async def test_what_is_found_is_in_the_set(self, handles: Handles, state: JobState) -> None:
        found: list[JobRecord] = []

        async def find() -> None:
            where = Where(queue="q", states=frozenset({state}))
            found.extend(await handles[1].find(where, limit=60, now=at(0)))

        await while_at_work(handles, find)
        await find()

        assert found or state is not JobState.COMPLETED
        assert [one for one in found if one.state is not state] == []
        assert [one for one in found if (one.token is None) is (state is JobState.ACTIVE)] == []

    async def test_a_job_on_its_way_is_counted_once(self, handles: Handles) -> None:
        counted: list[int] = []

        async def count() -> None:
            counted.append(sum((await handles[1].count(Q, now=at(0))).values()))

        await while_at_work(handles, count)

        assert set(counted) == {60}

    async def test_a_job_that_has_left_the_set_is_not_changed(self, handles: Handles) -> None:
        payloads = iter(range(1_000_000))

        async def update() -> None:
            await handles[1].update(WAITING, Change(payload=str(next(payloads))), now=at(0))

        claimed = await while_at_work(handles, update)

        assert {one.id: one.payload for one in claimed} == {
            one.id: one.payload for one in await everything(handles[0])
        }

    async def test_a_job_that_has_left_the_set_is_not_removed(self, handles: Handles) -> None:
        removed: list[JobKey] = []

        async def delete() -> None:
            removed.extend((await handles[1].delete(WAITING, limit=1, now=at(0))).removed)

        claimed = await while_at_work(handles, delete)

        left = await everything(handles[0])
        assert sorted(ids(left)) == sorted(ids(claimed))
        assert len(left) + len(set(removed)) == len(left) + len(removed) == 60

    async def test_one_of_two_outcomes_for_one_lease_is_applied(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            name = str(n)
            await add(handles[0], job(name))
            held = await take_one(handles[0], name)

            first, second = await at_once(
                [
                    handles[0].settle([completed(held)], now=at(1)),
                    handles[1].settle([failed(held)], now=at(1)),
                ]
            )

            state = (await get(handles[0], name)).state
            assert (bool(first.applied), bool(second.applied)) in {(True, False), (False, True)}
            assert state is (JobState.COMPLETED if first.applied else JobState.FAILED)

    async def test_an_outcome_given_twice_at_once_is_applied_once(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            name = str(n)
            await add(handles[0], job(name))
            held = await take_one(handles[0], name)
            outcome = completed(held, spawn=(job(f"{name}-next"),))

            answers = await at_once([store.settle([outcome], now=at(1)) for store in turns(handles, 3)])

            assert [settled.applied for settled in answers] == [{held.lease}] * 3
            assert sum(len(settled.spawned) for settled in answers) == 1

    async def test_a_lease_is_settled_or_taken_back_but_not_both(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            name = str(n)
            await add(handles[0], job(name))
            held = await take_one(handles[0], name)
            calls: list[Coroutine[Any, Any, Any]] = [
                handles[0].settle([completed(held)], now=at(30)),
                handles[1].advance({"q"}, now=at(30)),
            ]
            if n % 2:
                calls.reverse()

            await at_once(calls)

            found = await get(handles[0], name)
            outcome = (found.state, found.stalled)
            assert outcome in {(JobState.COMPLETED, 0), (JobState.WAITING, 1)}

    async def test_a_stalled_job_is_counted_once_by_many_advances(self, handles: Handles) -> None:
        await add(handles[0], *jobs("abcdef"))
        await claim_jobs(handles[0], 6)

        advanced = await at_once([store.advance({"q"}, now=at(60)) for store in turns(handles, 6)])

        assert sorted(key.id for one in advanced for key in one.stalled) == list("abcdef")
        assert {one.stalled for one in await everything(handles[0])} == {1}

    async def test_a_due_job_is_reported_once_by_many_advances(self, handles: Handles) -> None:
        await add(handles[0], *jobs("abcdef", delay=span(5)))

        advanced = await at_once([store.advance({"q"}, now=at(60)) for store in turns(handles, 6)])

        assert sorted(key.id for one in advanced for key in one.due) == list("abcdef")

    async def test_what_a_beat_and_a_change_write_at_once_both_stay(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            name = str(n)
            await add(handles[0], job(name))
            held = await take_one(handles[0], name)
            where = replace(Q, ids=frozenset({name}))

            await at_once(
                [
                    self.write(handles[0], held),
                    handles[1].update(where, Change(payload="2"), now=at(1)),
                    handles[0].update(where, Change(priority=3), now=at(1)),
                    handles[1].update(where, Change(cancel=True), now=at(1)),
                ]
            )

            found = await get(handles[0], name)
            assert (found.report, found.payload, found.priority) == ("1", "2", 3)
            assert found.cancel_requested

    async def write(self, store: Store, held: JobRecord) -> Any:
        """Renew a lease and write a report."""
        return await store.renew([Beat(lease=held.lease, report="1")], LEASE, now=at(1))

    async def test_a_job_is_removed_or_settled_and_counted_once(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            name = str(n)
            await add(handles[0], job(name))
            where = replace(Q, ids=frozenset({name}))

            removed = await at_once([s.delete(where, limit=1, now=at(1)) for s in turns(handles, 4)])

            assert sorted(len(deleted.removed) for deleted in removed) == [0, 0, 0, 1]

    async def test_a_finished_job_is_retried_once(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            name = str(n)
            await in_state(handles[0], JobState.FAILED, job(name))
            where = replace(Q, ids=frozenset({name}))

            changed = await at_once(
                [s.update(where, Change(retry=True), now=at(1)) for s in turns(handles, 4)]
            )

            assert sum(map(len, changed)) == 1

    @needs(Feature.UNIQUE_KEYS)
    async def test_one_of_a_retry_and_others_of_its_key_gets_the_key(self, handles: Handles) -> None:
        for n in range(2 * ROUNDS):
            key = f"key-{n}"
            for name in (f"a{n}", f"b{n}"):
                await in_state(handles[0], JobState.FAILED, job(name, unique_key=key))
            new = job(f"new{n}", unique_key=key)

            a, b, [inserted] = await asyncio.gather(
                handles[0].update(replace(Q, ids=frozenset({f"a{n}"})), Change(retry=True), now=at(1)),
                handles[1].update(replace(Q, ids=frozenset({f"b{n}"})), Change(retry=True), now=at(1)),
                handles[0].insert([new], now=at(1)),
            )

            assert len(a) + len(b) + inserted.created == 1
            holders = [
                one
                for one in await everything(handles[1], now=at(1))
                if one.unique_key == key and one.holds_key
            ]
            assert [one.state for one in holders] == [JobState.WAITING]

    async def test_every_job_is_accepted_as_finished_exactly_once(self, handles: Handles) -> None:
        dice = random.Random(2)
        names = [f"job-{n}" for n in range(60)]
        await add(handles[0], *jobs(names))
        accepted: Counter[str] = Counter()
        ways: list[Callable[[JobRecord], Outcome]] = [
            completed,
            failed,
            cancelled,
            retried,
            Outcome.given_back,
        ]
        clock = iter(range(100_000))

        async def worker(store: Store) -> None:
            while sum(accepted.values()) < len(names):
                second = next(clock)
                held = await claim_jobs(store, dice.randint(1, 4), now=at(second), lease=span(15))
                await asyncio.sleep(0)
                await store.advance({"q"}, now=at(next(clock)))
                outcomes = [dice.choice(ways)(one) for one in held]
                if dice.random() < 0.1:
                    continue  # this worker is gone, and its leases run out
                settled = await store.settle(outcomes, now=at(next(clock)))
                accepted.update(
                    outcome.lease.id
                    for outcome in outcomes
                    if outcome.state.terminal and outcome.lease in settled.applied
                )

        await at_once([worker(store) for store in turns(handles, 6)])

        assert accepted == Counter(names)
        assert all(state.terminal for state in (await states(handles[0])).values())
