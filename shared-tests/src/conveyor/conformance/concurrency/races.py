"""Races: many callers at once, over two handles and in several processes. No job twice, none lost."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Any, TypeVar

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    LEASE,
    add,
    at,
    cancelled,
    child,
    claim,
    completed,
    everything,
    failed,
    get,
    ids,
    in_state,
    job,
    jobs,
    retried,
    settle,
    span,
    states,
    take,
    take_one,
)
from conveyor.core.errors import GroupFullError
from conveyor.core.store import (
    Beat,
    Change,
    Feature,
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Limit,
    Outcome,
    Pause,
    Rate,
    Release,
    Settled,
    Store,
    Where,
)

T = TypeVar("T")
Handles = Sequence[Store]
Q = Where(queue="q")
WAITING = Where(queue="q", states=frozenset({JobState.WAITING}))
ROUNDS = 10


async def at_once(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Make these calls at the same time, and return their answers."""
    return list(await asyncio.gather(*calls))


def turns(handles: Handles, count: int) -> list[Store]:
    """That many callers, taking turns on the handles."""
    return list(islice(cycle(handles), count))


async def work(store: Store, mine: list[JobRecord]) -> None:
    """Claim and complete jobs until none is waiting, and keep each as it was claimed."""
    while await store.count(WAITING, now=at(0)):
        taken = await take(store, 5)  # none: somebody else is at those that wait
        mine += taken
        await asyncio.sleep(0)
        await store.settle([completed(record) for record in taken], now=at(0))


async def while_at_work(handles: Handles, call: Callable[[], Coroutine[Any, Any, object]]) -> list[JobRecord]:
    """Repeat a call while 60 jobs are claimed and completed; return them as they were claimed."""
    await add(handles[0], *jobs(f"job-{n}" for n in range(60)))
    claimed: list[JobRecord] = []
    working = asyncio.gather(*(work(store, claimed) for store in turns(handles, 2)))
    while not working.done():
        await call()
        await asyncio.sleep(0)
    await working
    return claimed


@area("races")
class Races:
    """Callers at once in one process, on two handles where the store has them."""

    async def test_many_claimers_get_every_job_once(self, handles: Handles) -> None:
        wanted = [f"job-{n}" for n in range(150)]
        await add(handles[0], *jobs(wanted))

        async def claimer(store: Store) -> list[JobRecord]:
            mine: list[JobRecord] = []
            while found := await take(store, 4):
                mine += found
                await asyncio.sleep(0)
            return mine

        found = [held for mine in await at_once([claimer(s) for s in turns(handles, 8)]) for held in mine]

        assert Counter(ids(found)) == Counter(wanted)
        assert {one.token for one in await everything(handles[0])} == {one.token for one in found}

    async def test_one_of_many_claimers_gets_the_job(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            await add(handles[0], job(str(n)))

            found = await at_once([take(store, 2) for store in turns(handles, 6)])

            assert [ids(mine) for mine in found if mine] == [[str(n)]]

    async def test_one_of_many_claimers_gets_the_job_by_its_id(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            await add(handles[0], job(str(n)))

            found = await at_once([take(store, 1, ids=frozenset({str(n)})) for store in turns(handles, 6)])

            assert sum(map(len, found)) == 1

    async def test_a_claim_of_many_and_claims_by_id_do_not_share_a_job(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            names = [f"{n}-{m}" for m in range(6)]
            await add(handles[0], *jobs(names))

            found = await at_once(
                [take(handles[0], 6), *(take(handles[1], 1, ids=frozenset({name})) for name in names)]
            )

            assert Counter(held.id for mine in found for held in mine) == Counter(names)

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
        async def adder(store: Store, name: str) -> bool:
            try:
                await add(store, job(name, group="g", group_max_size=5))
            except GroupFullError:
                return False
            return True

        added = await at_once([adder(s, f"job-{n}") for n, s in enumerate(turns(handles, 16))])

        assert sum(added) == 5
        assert len(await everything(handles[0])) == 5

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

        claimed = [ids(await take(store))[0] for store in reversed(turns(handles, 20))]

        assert claimed == wanted

    # ---------------------------------------------------------------- sets, while jobs come and go

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

    # ---------------------------------------------------------------- settling

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
        await take(handles[0], 6)

        advanced = await at_once([store.advance({"q"}, now=at(60)) for store in turns(handles, 6)])

        assert sorted(key.id for one in advanced for key in one.stalled) == list("abcdef")
        assert {one.stalled for one in await everything(handles[0])} == {1}

    async def test_a_due_job_is_told_once_by_many_advances(self, handles: Handles) -> None:
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

    async def test_jobs_of_a_paused_name_stay_while_claims_look_for_others(self, handles: Handles) -> None:
        over = asyncio.Event()
        taken: list[str] = []

        async def claimer(store: Store) -> None:
            while not over.is_set():
                taken.extend(ids(await store.claim(claim(5))))
                await asyncio.sleep(0)

        claimers = [asyncio.ensure_future(claimer(store)) for store in handles]
        for n in range(4 * ROUNDS):
            await handles[0].pause("q", Pause(name=f"name-{n}"))
            await handles[0].insert([job(str(n), name=f"name-{n}")])
            await asyncio.sleep(0.001)
            await handles[0].delete(replace(Q, ids=frozenset({str(n)})), limit=1)
            await asyncio.sleep(0.001)
        over.set()
        await asyncio.gather(*claimers)

        assert taken == []

    @needs(Feature.GROUPS)
    async def test_the_next_job_of_a_group_is_found_while_the_last_one_ends(self, handles: Handles) -> None:
        wanted = [str(n) for n in range(4 * ROUNDS)]
        await add(handles[0], *jobs(wanted, group="g"), *(job(f"late-{n}", priority=5) for n in range(9)))
        found = await take(handles[0])
        for _ in wanted[1:]:
            [last] = found[-1:]

            following, _ = await asyncio.gather(take(handles[0]), settle(handles[1], completed(last)))

            found += following
        assert ids(found) == wanted

    async def test_a_pause_holds_for_every_handle_from_its_return_on(self, handles: Handles) -> None:
        await add(handles[0], *jobs("abc"))
        for store, other in (handles, reversed(handles)):
            await store.pause("q", Pause(), now=at(0))
            assert await take(other, 9) == []

            await other.resume("q", Pause(), now=at(1))
            assert len(await take(store, 1, now=at(1))) == 1

    # ---------------------------------------------------------------- families

    @needs(Feature.FLOWS)
    async def test_siblings_that_end_at_once_release_their_parent_once(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            parent = f"parent-{n}"
            kids = [f"{n}-{m}" for m in range(4)]
            await add(handles[0], *(child(kid, of=parent) for kid in kids), job(parent))
            held = [await take_one(handles[0], kid) for kid in kids]

            answers = await at_once(
                [
                    store.settle([completed(one)], now=at(1))
                    for one, store in zip(held, turns(handles, 4), strict=True)
                ]
            )

            assert [key for settled in answers for key in settled.released] == [JobKey("q", parent)]
            assert (await get(handles[0], parent)).state is JobState.WAITING

    @needs(Feature.FLOWS)
    async def test_batches_of_siblings_in_any_order_settle_without_deadlock(self, handles: Handles) -> None:
        dice = random.Random(1)
        parents = [f"parent-{n}" for n in range(6)]
        kids = [child(f"{parent}-{m}", of=parent) for parent in parents for m in range(6)]
        await add(handles[0], *kids, *jobs(parents))
        held = await take(handles[0], 99)
        dice.shuffle(held)

        answers = await at_once(
            [
                store.settle([completed(one) for one in held[first : first + 6]], now=at(1))
                for first, store in zip(range(0, 36, 6), turns(handles, 6), strict=True)
            ]
        )

        assert sorted(key.id for settled in answers for key in settled.released) == parents

    @needs(Feature.FLOWS)
    async def test_one_child_that_ends_all_and_one_that_ends_release_once(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            parent = f"parent-{n}"
            await add(handles[0], child(f"{n}-a", of=parent), child(f"{n}-b", of=parent), job(parent))
            a, b = [await take_one(handles[0], f"{n}-{kid}") for kid in "ab"]

            answers = await at_once(
                [
                    handles[0].settle([failed(a, release=Release.ALL)], now=at(1)),
                    handles[1].settle([completed(b)], now=at(1)),
                ]
            )

            assert sum(len(settled.released) for settled in answers) == 1
            found = await get(handles[0], parent)
            assert (found.state, found.pending) == (JobState.WAITING, 0)

    @needs(Feature.FLOWS)
    async def test_a_child_that_is_removed_and_settled_at_once_releases_once(self, handles: Handles) -> None:
        for n in range(ROUNDS):
            parent = f"parent-{n}"
            await add(handles[0], child(f"{n}-a", of=parent), child(f"{n}-b", of=parent), job(parent))
            held = await take_one(handles[0], f"{n}-a")
            calls: list[Coroutine[Any, Any, Any]] = [
                handles[0].settle([completed(held)], now=at(1)),
                handles[1].delete(replace(Q, ids=frozenset({held.id})), limit=1, now=at(1)),
            ]
            if n % 2:
                calls.reverse()

            await at_once(calls)

            assert (await get(handles[0], parent)).pending == 1

    @needs(Feature.FLOWS)
    async def test_a_child_that_comes_as_the_last_one_ends_is_waited_for_or_is_late(
        self, handles: Handles
    ) -> None:
        for n in range(ROUNDS):
            parent = f"parent-{n}"
            await add(handles[0], child(f"{n}-a", of=parent), job(parent))
            held = await take_one(handles[0], f"{n}-a")
            calls: list[Coroutine[Any, Any, Settled | Sequence[Inserted]]] = [
                handles[0].settle([completed(held)], now=at(1)),
                add(handles[1], child(f"{n}-b", of=parent)),
            ]
            if n % 2:
                calls.reverse()

            await at_once(calls)

            late = await get(handles[0], f"{n}-b")
            found = await get(handles[0], parent)
            assert (found.state, found.pending, late.released) in {
                (JobState.WAITING, 0, True),
                (JobState.WAITING_CHILDREN, 1, False),
            }

    # ------------------------------------------------------------------ limits

    async def drain(self, handles: Handles, **limits: Any) -> list[Counter[str | None]]:
        """Work a queue off with many workers, and return how many were active in each group, at each look."""
        looks: list[Counter[str | None]] = []

        async def worker(store: Store) -> None:
            idle = 0
            while idle < 5:
                held = await take(store, 4, **limits)
                active = await store.find(
                    replace(Q, states=frozenset({JobState.ACTIVE})), limit=99, now=at(0)
                )
                looks.append(Counter(one.group for one in active))
                await asyncio.sleep(0)
                if held:
                    await settle(store, *(completed(one) for one in held), now=at(1))
                left = await store.count(replace(Q, states=frozenset({JobState.WAITING})), now=at(0))
                idle = 0 if left else idle + 1

        await at_once([worker(store) for store in turns(handles, 6)])
        assert {one.state for one in await everything(handles[0])} == {JobState.COMPLETED}
        return looks

    @needs(Feature.ACTIVE_LIMITS)
    async def test_there_are_never_more_active_jobs_than_the_limit(self, handles: Handles) -> None:
        await add(handles[0], *jobs(f"job-{n}" for n in range(40)))

        looks = await self.drain(handles, limit=Limit(active=3))

        assert max(look.total() for look in looks) == 3

    @needs(Feature.ACTIVE_LIMITS, Feature.GROUPS)
    async def test_there_are_never_more_active_jobs_in_a_group_than_its_limit(self, handles: Handles) -> None:
        await add(handles[0], *(job(f"job-{n}", group="gh"[n % 2]) for n in range(40)))

        looks = await self.drain(handles, group_limit=Limit(active=2))

        assert max(look["g"] for look in looks) == 2
        assert max(look["h"] for look in looks) == 2

    @needs(Feature.RATE_LIMITS)
    async def test_many_claimers_start_no_more_than_the_rate(self, handles: Handles) -> None:
        await add(handles[0], *jobs(f"job-{n}" for n in range(60)))
        limit = Limit(rate=Rate(max=5, per=span(10)))

        for second in (0, 5, 10, 19, 20):
            found = await at_once(
                [take(store, 3, limit=limit, now=at(second)) for store in turns(handles, 8)]
            )

            assert sum(map(len, found)) == (0 if second % 10 else 5)

    @needs(Feature.RATE_LIMITS, Feature.GROUPS)
    async def test_many_claimers_start_no_more_in_a_group_than_its_rate(self, handles: Handles) -> None:
        await add(handles[0], *(job(f"job-{n}", group="gh"[n % 2]) for n in range(40)))
        limit = Limit(rate=Rate(max=3, per=span(10)))

        found = await at_once([take(store, 3, group_limit=limit) for store in turns(handles, 8)])

        assert Counter(held.group for mine in found for held in mine) == {"g": 3, "h": 3}

    # ---------------------------------------------------------------- all of it

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
                held = await take(store, dice.randint(1, 4), now=at(second), lease=span(15))
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


def started(url: str | None, role: str, arguments: Sequence[str]) -> list[subprocess.Popen[str]]:
    """Processes that are to play a role, one for each argument, and wait for a line before they begin."""
    if url is None:
        pytest.skip("needs the store's URL: give the class a `store_url` fixture or a `store_scheme`")
    command = [sys.executable, "-m", "conveyor.conformance.kit.runner", url, role]
    return [
        subprocess.Popen(  # noqa: S603 - our own module
            [*command, argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for argument in arguments
    ]


def let_go(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Let them begin, all at once."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


async def in_processes(
    url: str | None,
    role: str,
    count: int = 3,
    *,
    arguments: Sequence[str] | None = None,
    patience: float = 50,
) -> list[list[Any]]:
    """Play a role in several processes at once, and return what each got."""
    processes = started(url, role, arguments or [f"process-{n}" for n in range(count)])

    def play() -> list[list[Any]]:
        let_go(processes)
        return [json.loads(p.communicate(timeout=patience)[0].splitlines()[-1]) for p in processes]

    try:
        return await asyncio.to_thread(play)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@area("races", Feature.MULTI_PROCESS)
class Processes:
    """Callers in several processes at once."""

    async def test_processes_claim_every_job_once(self, store: Store, store_url: str | None) -> None:
        wanted = [f"job-{n}" for n in range(150)]
        await add(store, *jobs(wanted))

        found = await in_processes(store_url, "claim_all")

        assert Counter(name for mine in found for name in mine) == Counter(wanted)

    @needs(Feature.UNIQUE_KEYS)
    async def test_one_of_several_processes_creates_the_job_of_a_key(
        self, store: Store, store_url: str | None
    ) -> None:
        created = await in_processes(store_url, "add_keys")

        assert [sum(each) for each in zip(*created, strict=True)] == [1] * 20
        assert len(await everything(store)) == 20

    @needs(Feature.ACTIVE_LIMITS)
    async def test_processes_together_keep_a_limit(self, store: Store, store_url: str | None) -> None:
        await add(store, *jobs(f"job-{n}" for n in range(40)))

        seen = await in_processes(store_url, "work")

        assert max(max(mine) for mine in seen) <= 2
        assert set((await states(store)).values()) == {JobState.COMPLETED}

    @needs(Feature.FLOWS)
    async def test_children_that_end_in_several_processes_release_each_parent_once(
        self, store: Store, store_url: str | None
    ) -> None:
        parents = [f"parent-{n:02}" for n in range(20)]
        kids = [child(f"{parent}-{m}", of=parent, queue="kids") for m in range(3) for parent in parents]
        await add(store, *kids, *jobs(parents))

        released = await in_processes(store_url, "end_children")

        assert sorted(name for mine in released for name in mine) == parents
        assert set((await states(store)).values()) == {JobState.WAITING}

    async def test_each_processes_jobs_stay_in_their_order(self, store: Store, store_url: str | None) -> None:
        added = await in_processes(store_url, "append")

        claimed = ids((await store.claim(claim(999), now=at(0))).jobs)
        assert len({one.seq for one in await everything(store)}) == 90
        for mine in added:
            assert [name for name in claimed if name in set(mine)] == mine


class AllRaces(Races, Processes):
    """Races."""
