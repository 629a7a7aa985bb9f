"""Unique keys: at most one job of a queue holds one, and for exactly as long as it should."""

from __future__ import annotations

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    AT_ONCE,
    ENDINGS,
    TICK,
    add,
    at,
    completed,
    everything,
    get,
    ids,
    in_state,
    job,
    look,
    retried,
    settle,
    span,
    take,
    take_one,
)
from conveyor.core.store import (
    Change,
    Feature,
    Inserted,
    JobKey,
    JobState,
    Outcome,
    Retention,
    Store,
    Where,
)

Q = Where(queue="q")
LIVE = [JobState.WAITING, JobState.DELAYED, JobState.ACTIVE]
TERMINAL = [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED]


@area("unique keys", Feature.UNIQUE_KEYS)
class UniqueKeys:
    """`unique_key` and `unique_for`."""

    async def test_a_new_job_holds_its_key(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"), job("b", unique_key="l", unique_for=span(60)), job("c"))

        a, b, c = await everything(store)
        assert (a.unique_key, a.unique_for, a.holds_key, a.unique_until) == ("k", None, True, None)
        assert (b.unique_key, b.unique_for, b.holds_key, b.unique_until) == ("l", span(60), True, at(60))
        assert (c.unique_key, c.holds_key, c.unique_until) == (None, False, None)

    @pytest.mark.parametrize("state", LIVE)
    async def test_a_job_whose_key_is_held_is_not_created_and_the_holder_is_told(
        self, store: Store, state: JobState
    ) -> None:
        holder = await in_state(store, state, job("a", unique_key="k"))

        (answer,) = await add(store, job("b", unique_key="k", payload="2"), now=at(5))

        assert answer == Inserted(key=JobKey("q", "a"), created=False, state=state, created_at=at(0))
        assert await look(store, "b") is None
        assert await get(store, "a") == holder

    async def test_a_key_is_held_within_its_queue(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))

        (answer,) = await add(store, job("b", unique_key="k", queue="other"))

        assert answer.created

    async def test_keys_are_told_apart_exactly(self, store: Store) -> None:
        keys = ["k", "K", "k ", " k", "k\u0301", "ḱ", "1", "01", "'", "%", "_"]

        answers = await add(store, *(job(str(n), unique_key=key) for n, key in enumerate(keys)))

        assert [answer.created for answer in answers] == [True] * len(keys)

    async def test_of_two_jobs_with_one_key_in_one_call_the_first_is_created(self, store: Store) -> None:
        answers = await add(
            store, job("a", unique_key="k"), job("b", unique_key="l"), job("c", unique_key="k")
        )

        assert ids(answers) == ["a", "b", "a"]
        assert [answer.created for answer in answers] == [True, True, False]
        assert ids(await everything(store)) == ["a", "b"]

    async def test_the_id_is_looked_at_before_the_key(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"), job("b"))

        (answer,) = await add(store, job("b", unique_key="k"))

        assert (answer.key.id, answer.created) == ("b", False)

    async def test_each_record_of_a_call_is_judged_by_what_is_there_when_its_turn_comes(
        self, store: Store
    ) -> None:
        await add(store, job("holder", unique_key="k"))

        answers = await add(store, job("a", unique_key="k"), job("a"), job("b", unique_key="k"), job("a"))

        assert ids(answers) == ["holder", "a", "holder", "a"]
        assert [answer.created for answer in answers] == [False, True, False, False]
        assert not (await get(store, "a")).holds_key

    async def test_a_job_that_exists_does_not_take_a_key(self, store: Store) -> None:
        await add(store, job("a"))
        await add(store, job("a", unique_key="k"))

        (answer,) = await add(store, job("b", unique_key="k"))

        assert answer.created
        assert (await get(store, "a")).unique_key is None

    async def test_new_only_does_not_look_at_keys(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))

        answers = await store.insert([job("b", unique_key="k"), job("c")], new_only=True, now=at(1))

        assert ids(answers) == ["a", "c"]
        assert [answer.created for answer in answers] == [False, True]

    async def test_a_refused_call_takes_no_key(self, store: Store) -> None:
        await add(store, job("a"))
        await store.insert([job("b", unique_key="k"), job("a")], new_only=True, now=at(1))

        (answer,) = await add(store, job("c", unique_key="k"))

        assert answer.created

    # ------------------------------------------------------------------- lapse

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_a_key_without_a_time_lapses_when_its_job_ends(self, store: Store, ending: str) -> None:
        await add(store, job("a", unique_key="k"))
        (held,) = await take(store)
        await settle(store, ENDINGS[ending](held), now=at(1))

        assert not (await get(store, "a")).holds_key
        (answer,) = await add(store, job("b", unique_key="k"), now=at(1))
        assert answer.created

    async def test_a_key_without_a_time_is_held_while_the_job_is_retried(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))
        for moment in range(3):
            held = await take_one(store, "a", now=at(moment))
            await settle(store, retried(held, delay=60 * moment), now=at(moment))

            (answer,) = await add(store, job("b", unique_key="k"), now=at(moment))
            assert ids([answer]) == ["a"]

    async def test_a_key_without_a_time_is_held_while_the_job_stalls(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))
        await take(store)
        await store.advance({"q"}, now=at(1_000))

        (answer,) = await add(store, job("b", unique_key="k"), now=at(1_001))

        assert ids([answer]) == ["a"]

    async def test_a_key_with_a_time_is_held_exactly_until_it_is_over(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)), now=at(5))

        (early,) = await add(store, job("b", unique_key="k"), now=at(15) - TICK)
        (then,) = await add(store, job("c", unique_key="k"), now=at(15))

        assert ids([early]) == ["a"]
        assert (then.created, then.key.id) == (True, "c")

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_a_key_with_a_time_is_held_though_its_job_has_ended(
        self, store: Store, ending: str
    ) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(60)))
        (held,) = await take(store)
        await settle(store, ENDINGS[ending](held), now=at(1))

        (answer,) = await add(store, job("b", unique_key="k"), now=at(60) - TICK)
        assert answer == Inserted(
            key=JobKey("q", "a"), created=False, state=JobState(ending), created_at=at(0)
        )
        assert (await get(store, "a", now=at(2))).holds_key

        (answer,) = await add(store, job("c", unique_key="k"), now=at(60))
        assert answer.created

    @pytest.mark.parametrize("state", LIVE)
    async def test_a_key_with_a_time_lapses_then_though_its_job_has_not_ended(
        self, store: Store, state: JobState
    ) -> None:
        await in_state(store, state, job("a", unique_key="k", unique_for=span(10)))

        (answer,) = await add(store, job("b", unique_key="k"), now=at(10))

        assert answer.created
        assert not (await get(store, "a", now=at(10))).holds_key
        assert (await get(store, "b", now=at(10))).holds_key

    async def test_a_lapsed_key_shows_as_not_held(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)))

        assert (await get(store, "a", now=at(10) - TICK)).holds_key
        assert not (await get(store, "a", now=at(10))).holds_key
        (held,) = await take(store, now=at(11))
        assert not held.holds_key

    async def test_a_job_whose_key_has_lapsed_ends_without_touching_the_new_holder(
        self, store: Store
    ) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)))
        (held,) = await take(store)
        await add(store, job("b", unique_key="k"), now=at(10))

        await settle(store, completed(held), now=at(11))

        assert (await get(store, "b", now=at(11))).holds_key
        (answer,) = await add(store, job("c", unique_key="k"), now=at(12))
        assert ids([answer]) == ["b"]

    async def test_the_time_counts_from_the_insert_and_a_duplicate_does_not_prolong_it(
        self, store: Store
    ) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)), now=at(0))
        await add(store, job("b", unique_key="k", unique_for=span(10)), now=at(9))

        (answer,) = await add(store, job("c", unique_key="k", unique_for=span(10)), now=at(10))

        assert answer.created
        assert (await get(store, "c", now=at(10))).unique_until == at(20)

    async def test_a_short_time_does_not_shorten_the_holders(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"), now=at(0))
        await add(store, job("b", unique_key="k", unique_for=span(1)), now=at(1))

        (answer,) = await add(store, job("c", unique_key="k"), now=at(100))

        assert ids([answer]) == ["a"]

    # ---------------------------------------------------------------- removing

    async def test_a_removed_job_gives_up_its_key(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(1_000)), job("b", unique_key="l"))
        await store.delete(Q, limit=9, now=at(1))

        answers = await add(store, job("c", unique_key="k"), job("d", unique_key="l"), now=at(2))

        assert [answer.created for answer in answers] == [True, True]

    async def test_a_forgotten_queue_gives_up_its_keys(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(1_000)))
        await store.forget("q", now=at(1))

        (answer,) = await add(store, job("b", unique_key="k"), now=at(2))

        assert answer.created

    async def test_a_job_that_still_holds_its_key_is_removed_only_when_that_lapses(
        self, store: Store
    ) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(60)))
        (held,) = await take(store)

        settled = await settle(store, completed(held, retention=AT_ONCE), now=at(1))

        assert list(settled.removed) == []
        found = await get(store, "a", now=at(2))
        assert (found.state, found.holds_key, found.expires_at) == (JobState.COMPLETED, True, at(60))
        expired = Where(queue="q", expired=True)
        assert ids(await store.find(expired, limit=9, now=at(60) - TICK)) == []
        assert ids(await store.find(expired, limit=9, now=at(60))) == ["a"]

    async def test_a_job_that_still_holds_its_key_outlives_a_short_retention(self, store: Store) -> None:
        await add(
            store,
            job("a", unique_key="k", unique_for=span(60)),
            job("b", unique_key="l", unique_for=span(10)),
        )
        a, b = await take(store, 2)

        keep = Retention(age=span(20))
        await settle(store, completed(a, retention=keep), completed(b, retention=keep), now=at(5))

        assert (await get(store, "a", now=at(6))).expires_at == at(60)
        assert (await get(store, "b", now=at(6))).expires_at == at(25)

    async def test_a_job_whose_key_lapsed_before_its_end_is_removed_at_once(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)))
        (held,) = await take(store)

        settled = await settle(store, completed(held, retention=AT_ONCE), now=at(10))

        assert list(settled.removed) == [held.key]
        assert await look(store, "a", now=at(10)) is None

    async def test_a_job_with_a_key_without_a_time_is_removed_at_once(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))
        (held,) = await take(store)

        settled = await settle(store, completed(held, retention=AT_ONCE), now=at(1))

        assert list(settled.removed) == [held.key]
        assert await look(store, "a") is None
        (answer,) = await add(store, job("b", unique_key="k"), now=at(1))
        assert answer.created

    # ---------------------------------------------------------------- changing

    async def test_a_key_can_be_released(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"), job("b", unique_key="l", unique_for=span(60)), job("c"))

        changed = await store.update(Q, Change(release_key=True), now=at(1))

        assert changed == {JobKey("q", "a"), JobKey("q", "b")}
        assert [found.holds_key for found in await everything(store, now=at(1))] == [False, False, False]
        answers = await add(store, job("d", unique_key="k"), job("e", unique_key="l"), now=at(2))
        assert [answer.created for answer in answers] == [True, True]

    async def test_a_finished_job_that_holds_its_key_can_release_it(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(60)))
        (held,) = await take(store)
        await settle(store, completed(held), now=at(1))

        changed = await store.update(Q, Change(release_key=True), now=at(2))

        assert changed == {JobKey("q", "a")}
        (answer,) = await add(store, job("b", unique_key="k"), now=at(2))
        assert answer.created

    async def test_releasing_a_lapsed_key_applies_to_nothing(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)))

        assert await store.update(Q, Change(release_key=True), now=at(10)) == frozenset()

    async def test_a_job_that_is_retried_takes_its_key_again(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))
        await settle(store, completed(await take_one(store, "a")), now=at(1))

        changed = await store.update(Q, Change(retry=True), now=at(2))

        assert changed == {JobKey("q", "a")}
        assert (await get(store, "a")).holds_key
        (answer,) = await add(store, job("b", unique_key="k"), now=at(3))
        assert ids([answer]) == ["a"]

    async def test_a_job_whose_key_another_holds_now_is_not_retried(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))
        await settle(store, completed(await take_one(store, "a")), now=at(1))
        await add(store, job("b", unique_key="k"), now=at(2))
        before = await everything(store)

        assert await store.update(Q, Change(retry=True), now=at(3)) == frozenset()
        assert await everything(store) == before

    async def test_of_two_finished_jobs_with_one_key_only_the_first_added_is_retried(
        self, store: Store
    ) -> None:
        await add(store, job("z", unique_key="k"))
        await settle(store, completed(await take_one(store, "z")), now=at(1))
        await add(store, job("a", unique_key="k"), now=at(2))
        await settle(store, completed(await take_one(store, "a", now=at(3))), now=at(3))

        changed = await store.update(Q, Change(retry=True), now=at(4))

        assert changed == {JobKey("q", "z")}
        assert (await get(store, "a")).state is JobState.COMPLETED

    async def test_a_job_whose_key_had_a_time_is_retried_without_taking_it_again(self, store: Store) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(10)))
        await settle(store, completed(await take_one(store, "a")), now=at(1))
        await add(store, job("b", unique_key="k"), now=at(10))

        changed = await store.update(Where(queue="q", ids=frozenset("a")), Change(retry=True), now=at(11))

        assert changed == {JobKey("q", "a")}
        assert not (await get(store, "a", now=at(11))).holds_key
        assert (await get(store, "b", now=at(11))).holds_key

    async def test_a_job_whose_key_still_has_time_is_retried_and_holds_it_until_then(
        self, store: Store
    ) -> None:
        await add(store, job("a", unique_key="k", unique_for=span(60)))
        await settle(store, completed(await take_one(store, "a")), now=at(1))

        await store.update(Q, Change(retry=True), now=at(2))

        assert (await get(store, "a", now=at(2))).holds_key
        (answer,) = await add(store, job("b", unique_key="k"), now=at(60))
        assert answer.created

    # ---------------------------------------------------------------- spawning

    async def test_a_spawned_job_whose_key_is_held_is_not_created(self, store: Store) -> None:
        await add(store, job("a"), job("b", unique_key="k"))
        held = await take_one(store, "a")

        settled = await settle(store, completed(held, spawn=(job("c", unique_key="k"),)), now=at(1))

        (answer,) = settled.spawned
        assert (answer.key.id, answer.created) == ("b", False)
        assert await look(store, "c") is None

    async def test_a_job_that_ends_may_spawn_the_next_holder_of_its_key(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))
        (held,) = await take(store)

        settled = await settle(store, completed(held, spawn=(job("b", unique_key="k"),)), now=at(1))

        assert [answer.created for answer in settled.spawned] == [True]
        assert (await get(store, "b")).holds_key

    async def test_a_job_given_back_keeps_its_key(self, store: Store) -> None:
        await add(store, job("a", unique_key="k"))
        (held,) = await take(store)
        await settle(store, Outcome.given_back(held), now=at(1))

        assert (await get(store, "a")).holds_key
