"""Inserting: which job stands for each record, and what it looks like then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from conveyor.conformance.kit.area import area
from conveyor.conformance.kit.make import (
    TICK,
    add,
    at,
    completed,
    everything,
    get,
    ids,
    in_state,
    job,
    jobs,
    look,
    normal,
    settle,
    span,
    take_one,
)
from conveyor.core.store import Inserted, JobKey, JobRecord, JobState, Store, Where

#: The states that need no feature.
PLAIN = [state for state in JobState if state is not JobState.WAITING_CHILDREN]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@area("inserting")
class Inserting:
    """`Store.insert`."""

    async def test_a_new_job_is_stored_as_given(self, store: Store) -> None:
        given = job(
            "a",
            name="welcome",
            payload='{"to":"ada"}',
            options='{"attempts":5}',
            report='{"logs":[]}',
            priority=7,
            lifo=True,
        )

        await add(store, given, now=at(3))

        found = await get(store, "a")
        assert normal(found) == JobRecord(
            queue="q",
            id="a",
            name="welcome",
            payload='{"to": "ada"}',
            options='{"attempts": 5}',
            report='{"logs": []}',
            priority=7,
            lifo=True,
            state=JobState.WAITING,
            seq=found.seq,
            sort_key=7.0,
            created_at=at(3),
        )

    async def test_insert_answers_for_each_job_in_order(self, store: Store) -> None:
        answers = await add(store, job("b"), job("a", delay=span(5)), job("c", queue="other"), now=at(1))

        assert list(answers) == [
            Inserted(key=JobKey("q", "b"), created=True, state=JobState.WAITING, created_at=at(1)),
            Inserted(key=JobKey("q", "a"), created=True, state=JobState.DELAYED, created_at=at(1)),
            Inserted(key=JobKey("other", "c"), created=True, state=JobState.WAITING, created_at=at(1)),
        ]

    async def test_inserting_nothing_answers_nothing(self, store: Store) -> None:
        assert list(await store.insert([], now=at(0))) == []

    async def test_many_jobs_are_inserted_in_one_call_in_their_order(self, store: Store) -> None:
        wanted = [f"job-{n}" for n in range(1_000)]

        answers = await add(store, *jobs(wanted))

        assert ids(answers) == wanted
        assert ids(await everything(store)) == wanted

    async def test_what_a_caller_puts_in_the_stores_own_fields_is_ignored(self, store: Store) -> None:
        forged = job(
            "a",
            state=JobState.COMPLETED,
            seq=99,
            sort_key=-5.0,
            holds_key=True,
            unique_until=at(99),
            pending=3,
            released=True,
            token="forged",
            lease_until=at(99),
            locked_by="nobody",
            attempt=4,
            stalled=2,
            cancel_requested=True,
            created_at=at(-99),
            processed_at=at(-98),
            finished_at=at(-97),
            expires_at=at(99),
            keep_count=1,
        )

        (answer,) = await add(store, forged, now=at(1))

        found = await get(store, "a")
        assert answer == Inserted(
            key=JobKey("q", "a"), created=True, state=JobState.WAITING, created_at=at(1)
        )
        assert found == JobRecord(
            queue="q", id="a", name="work", state=JobState.WAITING, seq=found.seq, created_at=at(1)
        )

    @pytest.mark.parametrize("state", PLAIN)
    async def test_an_id_that_exists_is_not_created_and_changes_nothing(
        self, store: Store, state: JobState
    ) -> None:
        before = await in_state(store, state, job("a", payload="1"), now=at(0))

        (answer,) = await add(store, job("a", name="other", payload="2", priority=-9), now=at(7))

        assert answer == Inserted(key=JobKey("q", "a"), created=False, state=state, created_at=at(0))
        assert await get(store, "a") == before

    async def test_ids_are_unique_within_their_queue_only(self, store: Store) -> None:
        await add(store, job("a", queue="one"))

        (answer,) = await add(store, job("a", queue="two"))

        assert answer.created
        assert await get(store, "a", queue="one")
        assert await get(store, "a", queue="two")

    async def test_of_two_jobs_with_one_id_in_one_call_the_first_is_created(self, store: Store) -> None:
        answers = await add(store, job("a", payload="1"), job("b"), job("a", payload="2"))

        assert [answer.created for answer in answers] == [True, True, False]
        assert ids(answers) == ["a", "b", "a"]
        assert (await get(store, "a")).payload == "1"

    async def test_an_id_can_be_used_again_after_its_job_was_removed(self, store: Store) -> None:
        await add(store, job("a", payload="1"))
        await store.delete(Where(queue="q"), limit=1, now=at(1))

        (answer,) = await add(store, job("a", payload="2"), now=at(2))

        assert answer.created
        assert (await get(store, "a")).payload == "2"

    async def test_seq_grows_with_every_insert(self, store: Store) -> None:
        await add(store, job("a"), job("b"))
        await add(store, job("c", priority=-1))
        await add(store, job("d", delay=span(1)))

        found = [(await get(store, one)).seq for one in "abcd"]

        assert found == sorted(set(found))

    async def test_the_later_of_two_jobs_has_the_greater_seq_even_if_the_earlier_is_gone(
        self, store: Store
    ) -> None:
        await add(store, job("a"))
        earlier = await get(store, "a")
        await store.delete(Where(queue="q"), limit=1, now=at(1))

        await add(store, job("b"), now=at(2))

        assert (await get(store, "b")).seq > earlier.seq

    async def test_a_job_with_a_delay_runs_that_long_from_now(self, store: Store) -> None:
        await add(store, job("a", delay=span(5)), now=at(10))

        found = await get(store, "a")
        assert (found.state, found.run_at, found.delay) == (JobState.DELAYED, at(15), None)

    async def test_a_delay_of_a_microsecond_is_a_delay(self, store: Store) -> None:
        await add(store, job("a", delay=TICK), now=at(10))

        found = await get(store, "a")
        assert (found.state, found.run_at) == (JobState.DELAYED, at(10) + TICK)

    async def test_a_delay_of_zero_is_none(self, store: Store) -> None:
        await add(store, job("a", delay=timedelta(0)))

        found = await get(store, "a")
        assert (found.state, found.run_at, found.delay) == (JobState.WAITING, None, None)

    async def test_a_job_with_a_run_at_to_come_is_delayed_until_then(self, store: Store) -> None:
        await add(store, job("a", run_at=at(10) + TICK), now=at(10))

        found = await get(store, "a")
        assert (found.state, found.run_at) == (JobState.DELAYED, at(10) + TICK)

    @pytest.mark.parametrize("ago", [0, 1, 1_000_000])
    async def test_a_job_whose_run_at_is_not_to_come_is_waiting(self, store: Store, ago: int) -> None:
        await add(store, job("a", run_at=at(10 - ago)), now=at(10))

        assert (await get(store, "a")).state is JobState.WAITING

    async def test_sort_key_is_the_priority(self, store: Store) -> None:
        await add(store, job("a", priority=-3), job("b", priority=12), now=at(99))

        assert [(await get(store, one)).sort_key for one in "ab"] == [-3.0, 12.0]

    async def test_with_ageing_sort_key_is_the_priority_and_the_insertion_time_in_its_units(
        self, store: Store
    ) -> None:
        await add(store, job("a", priority=2, ageing=span(600)), now=at(60))

        found = await get(store, "a")
        assert found.sort_key == 2 + (at(60) - EPOCH) / span(600)
        assert found.ageing == span(600)

    async def test_new_only_creates_all_when_no_id_exists(self, store: Store) -> None:
        answers = await store.insert([job("a"), job("b")], new_only=True, now=at(0))

        assert [answer.created for answer in answers] == [True, True]
        assert ids(await everything(store)) == ["a", "b"]

    async def test_new_only_creates_nothing_when_an_id_exists(self, store: Store) -> None:
        await add(store, job("old"), now=at(0))
        await settle(store, completed(await take_one(store, "old")))

        answers = await store.insert(
            [job("new"), job("later", delay=span(5)), job("old")], new_only=True, now=at(9)
        )

        assert list(answers) == [
            Inserted(key=JobKey("q", "new"), created=False, state=JobState.WAITING, created_at=at(9)),
            Inserted(key=JobKey("q", "later"), created=False, state=JobState.DELAYED, created_at=at(9)),
            Inserted(key=JobKey("q", "old"), created=False, state=JobState.COMPLETED, created_at=at(0)),
        ]
        assert ids(await everything(store)) == ["old"]

    async def test_new_only_creates_nothing_when_an_id_is_given_twice(self, store: Store) -> None:
        answers = await store.insert([job("a"), job("b"), job("a")], new_only=True, now=at(0))

        assert [answer.created for answer in answers] == [False, False, False]
        assert await everything(store) == []

    async def test_new_only_looks_at_ids_within_their_queue(self, store: Store) -> None:
        await add(store, job("a", queue="other"))

        answers = await store.insert([job("a")], new_only=True, now=at(0))

        assert [answer.created for answer in answers] == [True]

    async def test_insert_may_be_repeated(self, store: Store) -> None:
        jobs = [job("a"), job("b", delay=span(5))]
        first = await store.insert(jobs, now=at(0))
        before = await everything(store)

        again = await store.insert(jobs, now=at(1))

        assert ids(again) == ids(first)
        assert [answer.created for answer in again] == [False, False]
        assert [answer.state for answer in again] == [answer.state for answer in first]
        assert [answer.created_at for answer in again] == [at(0), at(0)]
        assert await everything(store) == before

    async def test_without_now_the_stores_clock_decides(self, store: Store) -> None:
        await store.insert([job("a", delay=span(3_600))])

        (found,) = await store.find(Where(queue="q"), limit=1)
        assert found.created_at is not None
        assert found.created_at.utcoffset() == timedelta(0)
        assert found.run_at == found.created_at + span(3_600)
        assert await look(store, "a") == found
