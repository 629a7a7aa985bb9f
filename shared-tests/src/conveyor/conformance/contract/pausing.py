"""Pausing: what no claim returns, from the next one on, until it is resumed or its time is over."""

from __future__ import annotations

from datetime import timedelta

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    TICK,
    add,
    at,
    claim,
    claim_jobs,
    completed,
    everything,
    get,
    ids,
    job,
    jobs,
    retried,
    settle,
    span,
    take_by_id,
)
from conveyor.core.store import Feature, JobState, Pause, Store

QUEUE = Pause()


@area("pausing")
class Pausing:
    """`Store.pause`, `resume` and `paused`."""

    async def test_a_paused_queue_gives_no_job(self, store: Store) -> None:
        await add(store, *jobs("ab"), job("c", queue="other"))

        await store.pause("q", QUEUE, now=at(0))

        assert await claim_jobs(store, 9) == []
        assert await claim_jobs(store, 9, names=frozenset({"work"})) == []
        assert ids(await claim_jobs(store, 9, queue="other")) == ["c"]

    async def test_a_queue_can_be_paused_before_it_has_a_job(self, store: Store) -> None:
        await store.pause("q", QUEUE, now=at(0))
        await add(store, job("a"))

        assert await claim_jobs(store) == []

    async def test_a_resumed_queue_goes_on(self, store: Store) -> None:
        await add(store, *jobs("ab"))
        await store.pause("q", QUEUE, now=at(0))

        await store.resume("q", QUEUE, now=at(1))

        assert ids(await claim_jobs(store, 9, now=at(1))) == ["a", "b"]

    async def test_a_paused_name_is_passed_over(self, store: Store) -> None:
        await add(store, job("a", name="x"), job("b", name="y"), job("c", name="x"), job("d", name="z"))

        await store.pause("q", Pause(name="x"), now=at(0))

        assert ids(await claim_jobs(store, 9)) == ["b", "d"]
        assert await claim_jobs(store, 9, names=frozenset({"x"})) == []

        await store.resume("q", Pause(name="x"), now=at(1))
        assert ids(await claim_jobs(store, 9)) == ["a", "c"]

    async def test_a_pause_is_of_one_queue(self, store: Store) -> None:
        await add(store, job("a", name="x", queue="one"), job("b", name="x", queue="two"))

        await store.pause("one", Pause(name="x"), now=at(0))

        assert await claim_jobs(store, queue="one") == []
        assert ids(await claim_jobs(store, queue="two")) == ["b"]

    @needs(Feature.GROUPS)
    async def test_a_job_of_a_paused_group_is_claimed_by_its_id(self, store: Store) -> None:
        await add(store, job("a", group="g"), job("b", group="g"))
        await store.pause("q", Pause(group="g"), now=at(0))

        assert ids(await take_by_id(store, "b")) == ["b"]

    @needs(Feature.GROUPS)
    async def test_a_paused_group_is_passed_over(self, store: Store) -> None:
        await add(store, job("a", group="g"), job("b"), job("c", group="h"), job("d", group="g"))

        await store.pause("q", Pause(group="g"), now=at(0))

        assert set(ids(await claim_jobs(store, 9))) == {"b", "c"}

        await store.resume("q", Pause(group="g"), now=at(1))
        assert set(ids(await claim_jobs(store, 9))) == {"a", "d"}

    @needs(Feature.GROUPS)
    async def test_a_name_and_a_group_with_one_word_are_two_things(self, store: Store) -> None:
        await add(store, job("a", name="x"), job("b", group="x"))

        await store.pause("q", Pause(name="x"), now=at(0))

        assert ids(await claim_jobs(store, 9)) == ["b"]
        assert await store.paused("q", now=at(1)) == {Pause(name="x"): None}

    async def test_resuming_undoes_exactly_this_pause(self, store: Store) -> None:
        await add(store, job("a", name="x"), job("b", name="y"))
        await store.pause("q", Pause(name="x"), now=at(0))
        await store.pause("q", Pause(name="y"), now=at(0))
        await store.pause("q", QUEUE, now=at(0))

        await store.resume("q", Pause(name="y"), now=at(1))
        assert await claim_jobs(store, 9, now=at(1)) == []

        await store.resume("q", QUEUE, now=at(2))
        assert ids(await claim_jobs(store, 9, now=at(2))) == ["b"]

    async def test_resuming_what_is_not_paused_does_nothing(self, store: Store) -> None:
        await store.pause("q", Pause(name="x"), now=at(0))

        await store.resume("q", QUEUE, now=at(1))
        await store.resume("q", Pause(name="y"), now=at(1))

        assert await store.paused("q", now=at(1)) == {Pause(name="x"): None}

    async def test_jobs_that_run_are_not_touched(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await claim_jobs(store)

        await store.pause("q", QUEUE, now=at(1))

        assert await get(store, "a") == held
        await settle(store, completed(held), now=at(2))

    async def test_paused_jobs_wait_in_their_places(self, store: Store) -> None:
        await add(store, job("a", name="x"), *jobs("bc"))
        await store.pause("q", Pause(name="x"), now=at(0))
        before = await everything(store)

        (held,) = await claim_jobs(store)
        await settle(store, retried(held), now=at(1))
        await store.resume("q", Pause(name="x"), now=at(2))

        assert (await everything(store))[0] == before[0]
        assert ids(await claim_jobs(store, 9, now=at(2))) == ["a", "b", "c"]

    async def test_delayed_jobs_of_a_paused_queue_become_due(self, store: Store) -> None:
        await add(store, job("a", delay=span(5)))
        await store.pause("q", QUEUE, now=at(0))

        await store.advance({"q"}, now=at(5))

        assert (await get(store, "a")).state is JobState.WAITING

    # -------------------------------------------------------------- timed ones

    @pytest.mark.parametrize("what", [QUEUE, Pause(name="work")], ids=["queue", "name"])
    async def test_a_timed_pause_ends_by_itself_exactly_then(self, store: Store, what: Pause) -> None:
        await add(store, job("a"))
        await store.pause("q", what, span(10), now=at(5))

        assert await claim_jobs(store, now=at(15) - TICK) == []
        assert ids(await claim_jobs(store, now=at(15))) == ["a"]

    @needs(Feature.GROUPS)
    async def test_a_timed_pause_of_a_group_ends_by_itself(self, store: Store) -> None:
        await add(store, job("a", group="g"))
        await store.pause("q", Pause(group="g"), span(10), now=at(5))

        assert await claim_jobs(store, now=at(15) - TICK) == []
        assert ids(await claim_jobs(store, now=at(15))) == ["a"]

    @pytest.mark.parametrize(
        ("first", "second", "until"),
        [
            (span(10), span(5), at(10)),
            (span(5), span(10), at(11)),
            (None, span(5), None),
            (span(5), None, None),
        ],
    )
    async def test_the_later_of_two_ends_holds(
        self, store: Store, first: timedelta | None, second: timedelta | None, until: object
    ) -> None:
        await store.pause("q", QUEUE, first, now=at(0))
        await store.pause("q", QUEUE, second, now=at(1))

        assert await store.paused("q", now=at(2)) == {QUEUE: until}

    async def test_an_ended_pause_does_not_prolong_a_new_one(self, store: Store) -> None:
        await store.pause("q", QUEUE, span(100), now=at(0))
        await store.resume("q", QUEUE, now=at(1))
        await store.pause("q", QUEUE, span(5), now=at(2))

        assert await store.paused("q", now=at(3)) == {QUEUE: at(7)}

    async def test_what_is_paused_now_and_until_when(self, store: Store) -> None:
        await store.pause("q", Pause(name="x"), now=at(0))
        await store.pause("q", Pause(name="y"), span(10), now=at(0))
        await store.pause("other", QUEUE, now=at(0))

        assert await store.paused("q", now=at(1)) == {Pause(name="x"): None, Pause(name="y"): at(10)}
        assert await store.paused("q", now=at(10)) == {Pause(name="x"): None}
        assert await store.paused("never heard of", now=at(1)) == {}

    async def test_ended_pauses_are_not_reported_after_an_advance_either(self, store: Store) -> None:
        await store.pause("q", QUEUE, span(5), now=at(0))
        await store.pause("q", Pause(name="x"), now=at(0))
        await store.advance({"q"}, now=at(60))

        assert await store.paused("q", now=at(60)) == {Pause(name="x"): None}

    async def test_an_advance_keeps_pauses_that_last(self, store: Store) -> None:
        await add(store, job("a"))
        await store.pause("q", QUEUE, span(100), now=at(0))
        await store.advance({"q"}, now=at(60))

        assert await claim_jobs(store, now=at(60)) == []
        assert await store.paused("q", now=at(60)) == {QUEUE: at(100)}

    async def test_wait_is_no_longer_than_until_a_timed_pause_ends(self, store: Store) -> None:
        await add(store, job("a"))
        await store.pause("q", QUEUE, span(10), now=at(0))

        wait = (await store.claim(claim(), now=at(4))).wait

        assert wait is not None
        assert timedelta(0) <= wait <= span(6)

    async def test_wait_is_no_longer_than_until_the_pause_of_a_name_ends(self, store: Store) -> None:
        await add(store, job("a"), job("b", name="x"))
        await store.pause("q", Pause(name="x"), span(10), now=at(0))

        claimed = await store.claim(claim(5), now=at(4))

        assert ids(claimed) == ["a"]
        assert claimed.wait is not None
        assert timedelta(0) <= claimed.wait <= span(6)

    async def test_wait_is_none_for_a_pause_without_end(self, store: Store) -> None:
        await add(store, job("a"))
        await store.pause("q", QUEUE, now=at(0))

        assert (await store.claim(claim(), now=at(4))).wait is None

    async def test_a_forgotten_queue_is_not_paused(self, store: Store) -> None:
        await store.pause("q", QUEUE, now=at(0))
        await store.pause("q", Pause(name="work"), now=at(0))

        await store.forget("q", now=at(1))

        await add(store, job("a"), now=at(2))
        assert await store.paused("q", now=at(2)) == {}
        assert ids(await claim_jobs(store, now=at(2))) == ["a"]
