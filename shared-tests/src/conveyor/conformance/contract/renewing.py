"""Renewing: signs of life, what they write, and which leases are lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    AT_ONCE,
    ENDINGS,
    LEASE,
    add,
    at,
    claim_jobs,
    completed,
    everything,
    get,
    in_state,
    job,
    jobs,
    new_token,
    retried,
    settle,
    span,
    take_one,
)
from conveyor.core.store import Beat, Change, JobRecord, JobState, Lease, Renewed, Store, Where


def beat(held: JobRecord, **fields: Any) -> Beat:
    """A sign of life."""
    return Beat(lease=held.lease, **fields)


def lost(*leases: Lease) -> Renewed:
    """What a renewal says of leases that are all lost."""
    return Renewed(held=frozenset(), lost=frozenset(leases), cancelled=frozenset())


@area("renewing")
class Renewing:
    """`Store.renew`."""

    async def test_a_renewed_lease_lasts_that_long_from_now(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        renewed = await store.renew([beat(held)], span(45), now=at(10))

        assert renewed == Renewed(held=frozenset({held.lease}), lost=frozenset(), cancelled=frozenset())
        assert await get(store, "a") == replace(held, lease_until=at(55))

    async def test_a_renewed_lease_does_not_stall(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        await store.renew([beat(held)], LEASE, now=at(20))

        assert list((await store.advance({"q"}, now=at(49.999999))).stalled) == []
        assert [key.id for key in (await store.advance({"q"}, now=at(50))).stalled] == ["a"]

    async def test_renewing_nothing_renews_nothing(self, store: Store) -> None:
        assert await store.renew([], LEASE, now=at(0)) == lost()

    async def test_one_call_renews_many_leases_of_several_queues(self, store: Store) -> None:
        await add(store, job("a"), job("b"), job("a", queue="other"))
        held = [*await claim_jobs(store, 2), *await claim_jobs(store, queue="other")]

        renewed = await store.renew([beat(one) for one in held], LEASE, now=at(5))

        assert renewed.held == {one.lease for one in held}
        assert {one.lease_until for one in await everything(store)} == {at(35)}
        assert (await get(store, "a", queue="other")).lease_until == at(35)

    async def test_a_beat_writes_what_it_carries(self, store: Store) -> None:
        await add(store, *jobs("abcd", payload="1", report='{"logs":[]}'))
        a, b, c, d = await claim_jobs(store, 4)

        await store.renew(
            [beat(a), beat(b, report="2"), beat(c, payload="3"), beat(d, report="4", payload="5")],
            LEASE,
            now=at(1),
        )

        written = [(found.report, found.payload) for found in await everything(store)]
        assert written == [('{"logs":[]}', "1"), ("2", "1"), ('{"logs":[]}', "3"), ("4", "5")]

    async def test_a_lease_that_ran_out_but_was_not_taken_back_is_still_held(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        renewed = await store.renew([beat(held, report="1")], LEASE, now=at(1_000))

        assert renewed.held == {held.lease}
        assert await get(store, "a") == replace(held, lease_until=at(1_030), report="1")

    async def test_a_lease_that_was_taken_back_is_lost_and_writes_nothing(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        await store.advance({"q"}, now=at(30))
        before = await get(store, "a")

        assert await store.renew([beat(held, report="1", payload="2")], LEASE, now=at(31)) == lost(held.lease)
        assert await get(store, "a") == before

    async def test_a_lease_that_another_claim_has_now_is_lost_and_writes_nothing(self, store: Store) -> None:
        await add(store, job("a"))
        (stale,) = await claim_jobs(store, worker="same")
        await store.advance({"q"}, now=at(30))
        (held,) = await claim_jobs(store, worker="same", now=at(31))

        renewed = await store.renew([beat(stale, report="1", payload="2")], LEASE, now=at(32))

        assert renewed == lost(stale.lease)
        assert await get(store, "a") == held

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_the_lease_of_a_finished_job_is_lost(self, store: Store, ending: str) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        await settle(store, ENDINGS[ending](held), now=at(1))
        before = await get(store, "a")

        assert await store.renew([beat(held, report="1", payload="2")], LEASE, now=at(2)) == lost(held.lease)
        assert await get(store, "a") == before

    async def test_the_lease_of_a_job_that_waits_again_is_lost(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        await settle(store, retried(held), now=at(1))

        assert await store.renew([beat(held)], LEASE, now=at(2)) == lost(held.lease)

    async def test_the_lease_of_a_removed_job_is_lost(self, store: Store) -> None:
        await add(store, job("settled"), job("deleted"))
        settled, deleted = await claim_jobs(store, 2)
        await settle(store, completed(settled, retention=AT_ONCE), now=at(1))
        await store.delete(Where(queue="q"), limit=9, now=at(1))

        renewed = await store.renew([beat(settled), beat(deleted)], LEASE, now=at(2))

        assert renewed == lost(settled.lease, deleted.lease)
        assert await everything(store) == []

    async def test_a_lease_that_never_was_is_lost(self, store: Store) -> None:
        await add(store, job("waiting"), job("held"))
        await take_one(store, "held")
        forged = [Lease("q", one, new_token()) for one in ("waiting", "held", "missing")]

        renewed = await store.renew([Beat(lease=lease, report="1") for lease in forged], LEASE, now=at(1))

        assert renewed == lost(*forged)
        assert {found.report for found in await everything(store)} == {"{}"}

    async def test_a_lost_lease_fails_no_other(self, store: Store) -> None:
        await add(store, job("a"), job("b"), job("c"))
        a, b, c = await claim_jobs(store, 3)
        await settle(store, completed(b), now=at(1))

        renewed = await store.renew(
            [beat(a, report="1"), beat(b, report="2"), beat(c, report="3")], LEASE, now=at(2)
        )

        assert renewed.held == {a.lease, c.lease}
        assert renewed.lost == {b.lease}
        assert [found.report for found in await everything(store)] == ["1", '{"result":"done"}', "3"]

    async def test_a_stale_beat_beside_the_current_one_writes_nothing(self, store: Store) -> None:
        await add(store, job("a"))
        (stale,) = await claim_jobs(store)
        await store.advance({"q"}, now=at(30))
        (held,) = await claim_jobs(store, now=at(31))

        renewed = await store.renew([beat(held, report="1"), beat(stale, report="2")], LEASE, now=at(32))

        assert renewed.held == {held.lease}
        assert renewed.lost == {stale.lease}
        assert (await get(store, "a")).report == "1"

    async def test_the_holder_learns_at_every_beat_that_the_job_should_be_cancelled(
        self, store: Store
    ) -> None:
        await add(store, job("a"), job("b"))
        a, b = await claim_jobs(store, 2)
        await store.update(Where(queue="q", ids=frozenset("a")), Change(cancel=True), now=at(1))

        for moment in (2, 3):
            renewed = await store.renew([beat(a), beat(b)], LEASE, now=at(moment))

            assert renewed == Renewed(
                held=frozenset({a.lease, b.lease}), lost=frozenset(), cancelled=frozenset({a.lease})
            )

    async def test_a_job_that_should_be_cancelled_is_renewed_and_written_like_any_other(
        self, store: Store
    ) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)
        await store.update(Where(queue="q"), Change(cancel=True), now=at(1))

        await store.renew([beat(held, report="1", payload="2")], LEASE, now=at(20))

        found = await get(store, "a")
        assert (found.report, found.payload, found.lease_until) == ("1", "2", at(50))
        assert list((await store.advance({"q"}, now=at(49))).stalled) == []

    @pytest.mark.parametrize("state", [JobState.WAITING, JobState.DELAYED])
    async def test_a_beat_for_a_job_that_is_not_active_changes_nothing(
        self, store: Store, state: JobState
    ) -> None:
        before = await in_state(store, state, job("a"))

        renewed = await store.renew([Beat(lease=Lease("q", "a", ""), report="1")], LEASE, now=at(1))

        assert renewed == lost(Lease("q", "a", ""))
        assert await get(store, "a") == before
