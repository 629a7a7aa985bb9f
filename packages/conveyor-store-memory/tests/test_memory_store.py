"""What the contract leaves to this store: its URLs, its event loop, and that it forgets."""

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

import conveyor.store.memory
from conveyor.conformance.kit.anything import ANYTHING, wrongly_taken
from conveyor.core.errors import HIDDEN, GroupFullError, InvalidOptionError, StoreClosedError, StoreError
from conveyor.core.events import JobWaiting
from conveyor.core.store import (
    Claim,
    Feature,
    JobRecord,
    JobState,
    Limit,
    Outcome,
    Pause,
    Rate,
    Retention,
    Store,
    Where,
)
from conveyor.store.memory import MemoryStore
from conveyor.store.memory import store as module
from conveyor.store.memory.queues import MOST_VIEWS
from conveyor.store.memory.testing import provision

START = datetime(2030, 1, 1, tzinfo=UTC)
EVERYTHING = Where()


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


def job(job_id: str, *, group: str | None = None, name: str = "work") -> JobRecord:
    return JobRecord(queue="q", id=job_id, name=name, group=group)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def claim(
    number: int = 1,
    *,
    token: str = "token",
    names: frozenset[str] | None = None,
    group_limit: Limit | None = None,
    limit: Limit | None = None,
) -> Claim:
    return Claim(
        queue="q",
        count=number,
        token=token,
        lease=timedelta(minutes=1),
        worker="w",
        names=names,
        limit=limit,
        group_limit=group_limit,
    )


async def ids(store: Store) -> list[str]:
    return [found.id for found in await store.find(EVERYTHING, limit=100, now=START)]


def test_the_package_offers_the_store_and_nothing_else() -> None:
    assert conveyor.store.memory.__all__ == ["MemoryStore"]


def test_it_declares_what_one_process_can_offer(store: MemoryStore) -> None:
    assert store.features == set(Feature) - {Feature.DURABLE, Feature.MULTI_PROCESS, Feature.SERVER_CLOCK}
    assert isinstance(store, Store)


@pytest.mark.parametrize("url", ["memory:", "memory://"])
async def test_a_url_without_a_name_is_a_private_store(url: str) -> None:
    async with MemoryStore.from_url(url) as one, MemoryStore.from_url(url) as other:
        await one.insert([job("a")], now=START)

        assert await ids(other) == []


async def test_stores_of_one_name_share_their_jobs() -> None:
    async with MemoryStore.from_url("memory://a") as one, MemoryStore.from_url("memory://a") as other:
        await one.insert([job("a")], now=START)

        assert await ids(other) == ["a"]


async def test_stores_of_two_names_share_nothing() -> None:
    async with MemoryStore.from_url("memory://a") as one, MemoryStore.from_url("memory://b") as other:
        await one.insert([job("a")], now=START)

        assert await ids(other) == []


async def test_jobs_of_a_name_outlive_the_store_that_added_them() -> None:
    async with MemoryStore("kept") as first:
        await first.insert([job("a")], now=START)

    async with MemoryStore("kept") as second:
        assert await ids(second) == ["a"]


def test_jobs_of_a_name_go_with_the_event_loop() -> None:
    async def add() -> list[str]:
        async with MemoryStore("of-a-loop") as store:
            await store.insert([job("a")], now=START)
            return await ids(store)

    assert asyncio.run(add()) == ["a"]
    assert asyncio.run(add()) == ["a"]

    gc.collect()
    assert not any("of-a-loop" in names for names in module._named.values())


@pytest.mark.parametrize(
    "url", ["memory:name", "memory:///path", "memory://a/b", "memory://a?b=c", "sqlite://"]
)
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(InvalidOptionError, match="memory://NAME"):
        MemoryStore.from_url(url)


def test_what_a_parameter_cannot_be_is_refused_by_its_name() -> None:
    texts = {name for name, value in ANYTHING.items() if isinstance(value, str)}

    assert wrongly_taken(MemoryStore, {}, {"name": texts | {"None"}}) == []
    assert wrongly_taken(MemoryStore.from_url, {}, {"url": ()}) == []
    assert [*inspect.signature(MemoryStore).parameters] == ["name"]


def test_an_option_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match=r"room=.*the memory store has no options") as caught:
        MemoryStore.from_url("memory:", room=3)

    assert (caught.value.option, caught.value.value) == ("room", HIDDEN)


def test_the_suites_stores_are_empty_and_apart() -> None:
    with provision(None) as fresh, fresh() as one, fresh() as other:
        assert one.startswith("memory://")
        assert one != other


CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "insert": lambda store: store.insert([job("a")], now=START),
    "claim": lambda store: store.claim(claim(), now=START),
    "renew": lambda store: store.renew([], timedelta(1), now=START),
    "settle": lambda store: store.settle([], now=START),
    "advance": lambda store: store.advance({"q"}, now=START),
    "find": lambda store: store.find(EVERYTHING, limit=1, now=START),
    "count": lambda store: store.count(EVERYTHING, now=START),
    "delete": lambda store: store.delete(EVERYTHING, limit=1, now=START),
    "pause": lambda store: store.pause("q", Pause(), now=START),
    "resume": lambda store: store.resume("q", Pause(), now=START),
    "paused": lambda store: store.paused("q", now=START),
    "forget": lambda store: store.forget("q", now=START),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_store_that_is_not_open_does_nothing(call: Callable[[Store], Awaitable[object]]) -> None:
    store = MemoryStore()
    with pytest.raises(StoreClosedError):
        await call(store)

    async with store:
        await call(store)

    with pytest.raises(StoreClosedError):
        await call(store)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_another_event_loop_is_refused(
    store: MemoryStore, call: Callable[[Store], Awaitable[object]]
) -> None:
    async def elsewhere() -> None:
        with pytest.raises(StoreError, match="another event loop") as caught:
            await call(store)
        assert "sqlite" not in str(caught.value).lower()  # it refuses, too

    await asyncio.to_thread(asyncio.run, elsewhere())

    assert await ids(store) == []


@pytest.mark.parametrize("change", [MemoryStore.open, MemoryStore.close])
async def test_an_open_store_is_not_opened_or_closed_from_another_event_loop(
    store: MemoryStore, change: Callable[[MemoryStore], Awaitable[None]]
) -> None:
    async def elsewhere() -> None:
        with pytest.raises(StoreError, match="another event loop"):
            await change(store)

    await asyncio.to_thread(asyncio.run, elsewhere())

    assert await ids(store) == []


def test_a_closed_store_may_be_opened_on_another_event_loop() -> None:
    store = MemoryStore()

    async def add(job_id: str) -> list[str]:
        async with store:
            await store.insert([job(job_id)], now=START)
            return await ids(store)

    assert asyncio.run(add("a")) == ["a"]
    assert asyncio.run(add("b")) == ["a", "b"]


async def test_events_reach_the_stores_of_one_name_only() -> None:
    event = JobWaiting(queue_name="q", at=START, job_id="a")
    async with (
        MemoryStore("a") as one,
        MemoryStore("a") as peer,
        MemoryStore("b") as other,
        peer.bus.subscribe({"q"}) as of_peer,
        other.bus.subscribe({"q"}) as of_other,
    ):
        await one.bus.publish([event])
        await other.close()

        assert await anext(of_peer) == event
        assert [event async for event in of_other] == []


async def test_closing_a_store_ends_its_own_subscriptions_only() -> None:
    event = JobWaiting(queue_name="q", at=START, job_id="a")
    async with (
        MemoryStore("a") as one,
        MemoryStore("a") as peer,
        one.bus.subscribe({"q"}) as of_one,
        peer.bus.subscribe({"q"}) as of_peer,
    ):
        await one.close()
        await peer.bus.publish([event])

        assert [event async for event in of_one] == []
        assert await anext(of_peer) == event


async def test_a_record_that_was_handed_out_does_not_change(store: MemoryStore) -> None:
    await store.insert([job("a")], now=START)
    [before] = await store.find(EVERYTHING, limit=1, now=START)

    await store.claim(claim(), now=START)

    assert (before.state, before.attempt, before.token) == (JobState.WAITING, 0, None)


async def test_a_refused_insert_leaves_nothing(store: MemoryStore) -> None:
    jobs = [JobRecord(queue="q", id=str(n), name="n", group="g", group_max_size=2) for n in range(3)]

    with pytest.raises(GroupFullError):
        await store.insert(jobs, now=START)

    assert await ids(store) == []


async def test_a_clock_that_is_set_back_lets_no_limit_be_passed(store: MemoryStore) -> None:
    rate = Limit(rate=Rate(max=1, per=timedelta(seconds=10)))
    await store.insert([job("a", group="g"), job("b", group="g")], now=START)
    await store.advance({"q"}, now=at(100))
    assert len((await store.claim(claim(2, group_limit=rate), now=at(50))).jobs) == 1
    assert len((await store.claim(claim(2, group_limit=rate), now=at(59))).jobs) == 0

    assert len((await store.claim(claim(2, group_limit=rate), now=at(60))).jobs) == 1
    await store.insert([job("c", group="g")], now=at(60))
    assert (await store.claim(claim(2, group_limit=rate), now=at(75))).jobs[0].id == "c"


async def test_a_pause_that_ended_holds_again_when_the_clock_is_set_back(store: MemoryStore) -> None:
    await store.insert([job("a"), job("b")], now=START)
    await store.pause("q", Pause(name="work"), timedelta(seconds=10), now=START)
    assert len((await store.claim(claim(), now=at(10))).jobs) == 1

    assert (await store.claim(claim(), now=at(9))).jobs == ()


async def test_a_group_is_remembered_while_jobs_without_one_wait_longer(store: MemoryStore) -> None:
    await store.insert([job("ungrouped")], now=START)
    await store.insert([job("a", group="a")], now=START)
    await store.pause("q", Pause(name="work"), now=START)
    await store.insert([job("b", group="b", name="other"), job("b2", group="b", name="other")], now=START)
    [held] = (await store.claim(claim(), now=START)).jobs
    await store.settle([Outcome.completed(held, "{}")], now=START)
    await store.delete(Where(ids=frozenset({"b2"})), limit=1, now=START)

    await store.advance({"q"}, now=START)

    await store.insert([job("b3", group="b")], now=START)
    await store.resume("q", Pause(name="work"), now=START)
    claimed = await store.claim(claim(3), now=START)
    assert [found.id for found in claimed.jobs] == ["ungrouped", "a", "b3"]


@pytest.mark.slow
async def test_many_idle_groups_leave_nothing_behind(store: MemoryStore) -> None:
    limit = Limit(active=1, rate=Rate(max=1, per=timedelta(minutes=1)))
    await store.insert([job(str(n), group=f"group-{n}") for n in range(10_000)], now=START)
    claimed = await store.claim(claim(10_000, group_limit=limit, limit=limit), now=START)
    assert len(claimed.jobs) == 1
    claimed = await store.claim(claim(10_000, group_limit=limit), now=START)
    gone = Retention(age=timedelta(0))
    held = await store.find(EVERYTHING, limit=10_000, now=START)
    await store.settle([Outcome.completed(found, "{}", retention=gone) for found in held], now=START)

    await store.advance({"q"}, now=START + timedelta(minutes=11))
    assert (await store.claim(claim(group_limit=limit), now=START + timedelta(minutes=11))).jobs == ()

    queue = store._data().queue("q")
    assert (queue.rows, queue.groups, queue.tombstones) == ({}, {}, {})
    assert not queue.fair_share.known
    assert all(
        len(held) == 0
        for held in (queue.fair_share._last_served, queue.fair_share._slots, queue.fair_share._changed)
    )
    assert queue.group_starts._by_key == {}
    assert all(not view.changed and not len(view._slots) for view in queue._views.values())


async def test_kinds_of_claims_without_number_leave_few_traces(store: MemoryStore) -> None:
    await store.insert([job("a", name="rare")], now=START)

    for n in range(3 * MOST_VIEWS):
        await store.claim(claim(names=frozenset({f"name-{n}"})), now=START)

    assert len(store._data().queue("q")._views) == MOST_VIEWS
    assert len((await store.claim(claim(names=frozenset({"rare"})), now=START)).jobs) == 1


async def test_a_kind_of_claim_that_nobody_makes_any_more_gathers_no_changes(store: MemoryStore) -> None:
    await store.claim(claim(), now=START)
    await store.insert([job(str(n), group=f"group-{n}") for n in range(2_000)], now=START)

    await store.advance({"q"}, now=START)

    assert store._data().queue("q")._views == {}
    assert len((await store.claim(claim(), now=START)).jobs) == 1


@pytest.mark.slow
async def test_repeats_of_jobs_that_are_gone_are_forgotten_after_ten_minutes(store: MemoryStore) -> None:
    await store.insert([job("a")], now=START)
    [held] = (await store.claim(claim(), now=START)).jobs
    outcome = Outcome.completed(held, "{}", retention=Retention(age=timedelta(0)))
    await store.settle([outcome], now=START)

    await store.advance({"q"}, now=at(600))
    assert (await store.settle([outcome], now=at(600))).applied == {held.lease}

    await store.advance({"q"}, now=at(601))
    assert (await store.settle([outcome], now=at(601))).applied == frozenset()
