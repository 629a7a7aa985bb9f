"""Round trips: instants, durations and numbers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    LEASE,
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
    settle,
)
from conveyor.core.store import (
    Beat,
    Change,
    Feature,
    JobState,
    Limit,
    Rate,
    Store,
    Where,
)

#: Instants with microseconds, and the ends of what core lets through.
INSTANTS = [
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2026, 3, 2, 9, 0, 0, 1, tzinfo=UTC),
    datetime(2026, 3, 2, 9, 0, 0, 123_456, tzinfo=UTC),
    datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
    datetime(2199, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
]
DURATIONS = [
    timedelta(microseconds=1),
    timedelta(microseconds=123_457),
    timedelta(seconds=1, microseconds=999_999),
    timedelta(days=1, microseconds=1),
    timedelta(days=36_525),
]


@area("round trips")
class Values:
    """Numbers, instants and durations."""

    @pytest.mark.parametrize("priority", [-(2**31), -1, 0, 1, 2**31 - 1])
    async def test_every_int32_is_a_priority(self, store: Store, priority: int) -> None:
        await add(store, job("a", priority=priority), job("zero"))

        assert ((await get(store, "a")).priority, (await get(store, "a")).sort_key) == (
            priority,
            float(priority),
        )
        await store.update(Where(ids=frozenset({"zero"})), Change(priority=priority), now=at(0))
        assert (await get(store, "zero")).priority == priority

    async def test_the_ends_of_int32_are_in_order(self, store: Store) -> None:
        await add(
            store, *(job(str(p), priority=p) for p in (2**31 - 1, 0, -(2**31), 2**31 - 2, -(2**31) + 1))
        )

        assert ids(await claim_jobs(store, 9)) == [
            "-2147483648",
            "-2147483647",
            "0",
            "2147483646",
            "2147483647",
        ]

    @pytest.mark.parametrize("moment", INSTANTS, ids=str)
    async def test_instants_come_back_to_the_microsecond(self, store: Store, moment: datetime) -> None:
        early = datetime(1970, 1, 1, tzinfo=UTC) - timedelta(days=1)
        await add(store, job("a", run_at=moment), now=early)

        found = await get(store, "a", now=early)
        assert (found.run_at, found.created_at) == (moment, early)
        assert found.run_at is not None
        assert found.run_at.utcoffset() == timedelta(0)

        due = await store.advance({"q"}, now=moment)
        (held,) = await claim_jobs(store, now=moment)
        await settle(store, completed(held), now=moment)
        found = await get(store, "a", now=moment)
        assert len(due.due) == 1
        assert (found.processed_at, found.finished_at) == (moment, moment)
        assert held.lease_until == moment + LEASE

    @pytest.mark.parametrize("length", DURATIONS, ids=str)
    async def test_durations_come_back_to_the_microsecond(self, store: Store, length: timedelta) -> None:
        await add(store, job("a", delay=length), job("b", ageing=length))

        assert (await get(store, "a")).run_at == at(0) + length
        assert (await get(store, "b")).ageing == length

    @needs(Feature.UNIQUE_KEYS)
    @pytest.mark.parametrize("length", DURATIONS, ids=str)
    async def test_the_time_of_a_key_comes_back_to_the_microsecond(
        self, store: Store, length: timedelta
    ) -> None:
        await add(store, job("a", unique_key="k", unique_for=length))

        found = await get(store, "a")
        assert (found.unique_for, found.unique_until) == (length, at(0) + length)

    @needs(Feature.FLOWS)
    @pytest.mark.parametrize("length", DURATIONS, ids=str)
    async def test_the_delay_of_a_parent_comes_back_to_the_microsecond(
        self, store: Store, length: timedelta
    ) -> None:
        await add(store, child("kid"), job("parent", delay=length))

        assert (await get(store, "parent")).delay == length

    @pytest.mark.parametrize("length", DURATIONS, ids=str)
    async def test_leases_of_any_length(self, store: Store, length: timedelta) -> None:
        """A lease may be of any length, and ends that long after its claim or its latest beat."""
        await add(store, job("a"))
        (held,) = await claim_jobs(store, lease=length)
        assert held.lease_until == at(0) + length

        await store.renew([Beat(lease=held.lease)], length, now=at(5))
        assert (await get(store, "a")).lease_until == at(5) + length

    async def test_an_instant_in_another_zone_is_the_same_instant(self, store: Store) -> None:
        zone = datetime.fromisoformat("2026-03-02T12:00:00+05:30").tzinfo
        await add(store, job("a", run_at=at(60).astimezone(zone)))

        assert (await get(store, "a")).run_at == at(60)
        assert ids((await store.advance({"q"}, now=at(60).astimezone(zone))).due) == ["a"]

    async def test_sort_keys_that_differ_by_a_microsecond_of_ageing_are_in_order(self, store: Store) -> None:
        for n in range(3):
            moment = at(0) + timedelta(microseconds=40 * n)
            await add(store, job(str(n), ageing=timedelta(seconds=1), priority=5 - 5 * (n == 1)), now=moment)

        assert ids(await claim_jobs(store, 9)) == ["1", "0", "2"]

    async def test_a_huge_count_is_a_count(self, store: Store) -> None:
        await add(store, job("a"))

        assert ids((await store.claim(claim(2**31 - 1), now=at(0))).jobs) == ["a"]
        assert len(await store.find(Where(queue="q"), limit=2**31 - 1, now=at(0))) == 1

    @needs(Feature.RATE_LIMITS)
    async def test_a_huge_window_is_a_window(self, store: Store) -> None:
        await add(store, job("a"), job("b"))
        limit = Limit(rate=Rate(max=1, per=timedelta(days=36_525)))

        assert ids(await claim_jobs(store, 9, limit=limit)) == ["a"]
        assert await claim_jobs(store, 9, limit=limit, now=at(1_000_000)) == []

    async def test_the_record_of_a_claim_is_the_record_that_is_stored(self, store: Store) -> None:
        full: dict[str, Any] = {
            "payload": "[1]",
            "options": "[2]",
            "report": "[3]",
            "priority": -4,
            "lifo": True,
        }
        await add(store, job("a", **full))
        (held,) = await claim_jobs(store)

        assert await get(store, "a") == held
        assert held == replace(held, **full)

    @pytest.mark.parametrize(
        "state", [JobState.WAITING, JobState.DELAYED, JobState.ACTIVE, JobState.COMPLETED]
    )
    async def test_what_a_caller_holds_does_not_change_with_the_job(
        self, store: Store, state: JobState
    ) -> None:
        await in_state(store, state, job("a"))
        before = await everything(store)
        copy = [replace(record) for record in before]

        await store.update(Where(), Change(payload="9", priority=9, cancel=True, retry=True), now=at(1))

        assert before == copy
