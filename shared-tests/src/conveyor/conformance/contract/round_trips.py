"""Round trips: what goes into a store comes out of it, equal."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import (
    AT_ONCE,
    LEASE,
    add,
    at,
    child,
    claim,
    completed,
    everything,
    get,
    ids,
    in_state,
    job,
    look,
    settle,
    take,
    take_one,
)
from conveyor.core.store import (
    Beat,
    Change,
    Feature,
    JobKey,
    JobState,
    Limit,
    Outcome,
    Pause,
    Rate,
    Store,
    Where,
)

#: JSON texts as core may hand them over. None is to be looked into.
DOCUMENTS = {
    "null": "null",
    "true": "true",
    "false": "false",
    "zero": "0",
    "a text": '"ok"',
    "a number in a text": '"123"',
    "an empty text": '""',
    "null in a text": '"null"',
    "an object in a text": '"{\\"a\\": 1}"',
    "an empty object": "{}",
    "an empty array": "[]",
    "nested": '{"a":[1,[2,[3,{"b":[null,true,{}]}]]],"c":{"d":{"e":{}}}}',
    "deep": "[" * 64 + "]" * 64,
    "unicode": '{"é":"naïve 群 🐝 \\u0001 \u202e \ufeff"}',
    "escapes": '{"a":"quote \\" slash \\\\ line \\n tab \\t unit \\u001f"}',
    "sql": '{"a":"\'; drop table jobs; -- %s ? :x $1 @y"}',
    "beyond 32 bits": "4294967297",
    "beyond 64 bits": f"{2**64}",
    "beyond a float": f"[{10**400}, -{10**400}]",
    "beyond a float's precision": f"[{2**53 + 1}, {2**63 - 1}, -{2**63}]",
    "floats": "[0.1, 1.5, -2.25, 1e-300, 1.7976931348623157e308]",
    "spaces": '{ "a" : [ 1 , 2 ] }',
    "large": json.dumps({"text": "é" * 300_000}),
    "many keys": json.dumps({f"key-{n}": n for n in range(5_000)}),
}

#: Names of things, none of which means anything to a store.
NAMES = [
    "a",
    " ",
    "  a  ",
    "A",
    "0",
    "null",
    "None",
    "__all__",
    "__ungrouped__",
    "__none__",
    "*",
    "%",
    "_",
    "a%b_c*d?",
    "it's",
    'say "hello"',
    "`a`",
    "back\\slash",
    "semi;colon",
    "--",
    "/* a */",
    "'; drop table conveyor_jobs; --",
    "$1",
    ":name",
    "%s",
    "{}",
    "{0}",
    "a,b",
    "a:b",
    "a/b",
    "a.b",
    "a|b",
    "a\x1fb",
    "a\nb",
    "a\tb",
    "\x01",
    "\x1f",
    "\x7f",
    "é",
    "e\u0301",
    "naïve café",
    "ß",
    "\u0130i\u0307\u0131",
    "ﬃ",
    "日本語のキュー",
    "кириллица",
    "اسم",
    "\u202eabc",
    "\u200b",
    "\ufeffabc",
    "🐝",
    "👩‍👩‍👧‍👦",
    "\U0010ffff",
    "x" * 255,
    "群" * 255,
    "🐝" * 255,
]

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


def same(one: str, other: str) -> bool:
    """Whether two JSON texts say the same."""
    return bool(json.loads(one) == json.loads(other))


def numbered(names: list[str]) -> dict[str, str]:
    """These names by a number that pytest can show."""
    return {f"{n:02}": name for n, name in enumerate(names)}


@area("round trips")
class Documents:
    """Payloads, options and reports."""

    @pytest.mark.parametrize("kind", DOCUMENTS)
    async def test_documents_come_back_equal(self, store: Store, kind: str) -> None:
        text = DOCUMENTS[kind]

        await add(store, job("a", payload=text, options=text, report=text))

        stored = await get(store, "a")
        (held,) = await take(store)
        for found in (stored, held):
            assert same(found.payload, text)
            assert same(found.options, text)
            assert same(found.report, text)

    @pytest.mark.parametrize("kind", DOCUMENTS)
    async def test_documents_that_are_written_later_come_back_equal(self, store: Store, kind: str) -> None:
        text = DOCUMENTS[kind]
        await add(store, job("beat"), job("settled"), job("changed"))
        beat, settled, changed = await take(store, 3)

        await store.renew([Beat(lease=beat.lease, report=text, payload=text)], LEASE, now=at(1))
        await settle(store, Outcome.completed(settled, text), now=at(1))
        await store.update(Where(ids=frozenset({changed.id})), Change(payload=text), now=at(1))

        found = await everything(store)
        assert same(found[0].report, text)
        assert same(found[0].payload, text)
        assert same(found[1].report, text)
        assert same(found[2].payload, text)

    async def test_a_document_stays_as_it_is_through_a_whole_life(self, store: Store) -> None:
        text = DOCUMENTS["escapes"]
        await add(store, job("a", payload=text, options=text))
        for second in range(3):
            (held,) = await take(store, now=at(second))
            await settle(store, Outcome.retry(held, text, delay=timedelta(0)), now=at(second))
        await take(store, now=at(5))
        await store.advance({"q"}, now=at(100))

        found = await get(store, "a")
        assert same(found.payload, text)
        assert same(found.options, text)
        assert same(found.report, text)

    async def test_spawned_documents_come_back_equal(self, store: Store) -> None:
        await add(store, job("a"))
        (held,) = await take(store)
        texts = list(DOCUMENTS.values())
        spawn = tuple(job(str(n), payload=text) for n, text in enumerate(texts))

        await settle(store, completed(held, spawn=spawn, retention=AT_ONCE), now=at(1))

        for found, text in zip(await everything(store), texts, strict=True):
            assert same(found.payload, text)


@area("round trips")
class Names:
    """Names of queues, jobs, groups, keys and workers, as awkward as they get."""

    async def test_jobs_in_queues_of_any_name_live_their_lives(self, store: Store) -> None:
        for queue in NAMES:
            await add(store, job("a", queue=queue), job("b", queue=queue, delay=LEASE))

        for queue in NAMES:
            assert {key[0] for key in await store.count(Where(queue=queue), now=at(0))} == {queue}
            (held,) = await take(store, 5, queue=queue)
            assert (held.queue, held.id) == (queue, "a")
            await settle(store, completed(held), now=at(1))
            assert ids((await store.advance({queue}, now=at(60))).due) == ["b"]

        assert len(await store.count(Where(), now=at(60))) == 2 * len(NAMES)

    async def test_jobs_of_any_id_live_their_lives(self, store: Store) -> None:
        await add(store, *(job(id) for id in NAMES))

        assert ids(await everything(store)) == NAMES
        for name in NAMES:
            held = await take_one(store, name)
            assert held.id == name
            await settle(store, completed(held), now=at(1))
            assert (await get(store, name)).state is JobState.COMPLETED
            one = Where(queue="q", ids=frozenset({name}))
            assert list((await store.delete(one, limit=9, now=at(2))).removed) == [held.key]
            assert await look(store, name) is None

    async def test_jobs_of_any_name_are_found_claimed_and_paused_by_it(self, store: Store) -> None:
        kinds = numbered(NAMES)
        await add(store, *(job(n, name=name) for n, name in kinds.items()))

        for n, name in kinds.items():
            where = Where(queue="q", names=frozenset({name}))
            assert ids(await store.find(where, limit=9, now=at(0))) == [n]
            await store.pause("q", Pause(name=name), now=at(0))
            assert await store.paused("q", now=at(0)) == {Pause(name=name): None}
            assert await take(store, names=frozenset({name})) == []
            await store.resume("q", Pause(name=name), now=at(0))
            (held,) = await take(store, 9, names=frozenset({name}))
            assert (held.id, held.name) == (n, name)

    async def test_pausing_a_name_pauses_no_other(self, store: Store) -> None:
        kinds = numbered(NAMES)
        await add(store, *(job(n, name=name) for n, name in kinds.items()))
        for name in NAMES[:20]:
            await store.pause("q", Pause(name=name), now=at(0))

        assert ids(await take(store, 99)) == list(kinds)[20:]

    @needs(Feature.GROUPS)
    async def test_groups_of_any_name_are_told_apart(self, store: Store) -> None:
        kinds = numbered(NAMES)
        await add(store, *(job(n, group=group) for n, group in kinds.items()))

        counts = await store.count(Where(queue="q"), by_group=True, now=at(0))
        assert counts == {(group, JobState.WAITING): 1 for group in NAMES}
        await store.pause("q", Pause(group="__ungrouped__"), now=at(0))
        assert len(await take(store, 99)) == len(NAMES) - 1

    @needs(Feature.UNIQUE_KEYS)
    async def test_keys_of_any_text_are_told_apart(self, store: Store) -> None:
        kinds = numbered([*NAMES, "k" * 10_000, "k" * 10_001])
        first = await add(store, *(job(n, unique_key=key) for n, key in kinds.items()))
        second = await add(store, *(job(f"x{n}", unique_key=key) for n, key in kinds.items()))

        assert all(answer.created for answer in first)
        assert ids(second) == list(kinds)

    async def test_workers_of_any_name_hold_jobs(self, store: Store) -> None:
        for n, name in numbered(NAMES).items():
            await add(store, job(n))
            (held,) = await take(store, worker=name)
            assert held.locked_by == name

    @needs(Feature.FLOWS)
    async def test_parents_of_any_name_are_released(self, store: Store) -> None:
        for n, name in numbered(NAMES).items():
            parent = JobKey(name, name)
            await add(store, job(n, parent=parent), job(name, queue=name))
            settled = await settle(store, completed(await take_one(store, n)), now=at(1))
            assert list(settled.released) == [parent]


@area("round trips")
class Values:
    """Numbers, instants and durations."""

    @pytest.mark.parametrize("priority", [-(2**31), -1, 0, 1, 2**31 - 1])
    async def test_every_int32_is_a_priority(self, store: Store, priority: int) -> None:
        await add(store, job("a", priority=priority), job("zero"))

        assert ((await get(store, "a")).priority, (await get(store, "a")).rank) == (priority, float(priority))
        await store.update(Where(ids=frozenset({"zero"})), Change(priority=priority), now=at(0))
        assert (await get(store, "zero")).priority == priority

    async def test_the_ends_of_int32_are_in_order(self, store: Store) -> None:
        await add(
            store, *(job(str(p), priority=p) for p in (2**31 - 1, 0, -(2**31), 2**31 - 2, -(2**31) + 1))
        )

        assert ids(await take(store, 9)) == ["-2147483648", "-2147483647", "0", "2147483646", "2147483647"]

    @pytest.mark.parametrize("moment", INSTANTS, ids=str)
    async def test_instants_come_back_to_the_microsecond(self, store: Store, moment: datetime) -> None:
        early = datetime(1970, 1, 1, tzinfo=UTC) - timedelta(days=1)
        await add(store, job("a", run_at=moment), now=early)

        found = await get(store, "a", now=early)
        assert (found.run_at, found.created_at) == (moment, early)
        assert found.run_at is not None
        assert found.run_at.utcoffset() == timedelta(0)

        due = await store.advance({"q"}, now=moment)
        (held,) = await take(store, now=moment)
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
        await add(store, job("a"))
        (held,) = await take(store, lease=length)
        assert held.lease_until == at(0) + length

        await store.renew([Beat(lease=held.lease)], length, now=at(5))
        assert (await get(store, "a")).lease_until == at(5) + length

    async def test_an_instant_in_another_zone_is_the_same_instant(self, store: Store) -> None:
        zone = datetime.fromisoformat("2026-03-02T12:00:00+05:30").tzinfo
        await add(store, job("a", run_at=at(60).astimezone(zone)))

        assert (await get(store, "a")).run_at == at(60)
        assert ids((await store.advance({"q"}, now=at(60).astimezone(zone))).due) == ["a"]

    async def test_ranks_that_differ_by_a_microsecond_of_ageing_are_in_order(self, store: Store) -> None:
        for n in range(3):
            moment = at(0) + timedelta(microseconds=40 * n)
            await add(store, job(str(n), ageing=timedelta(seconds=1), priority=5 - 5 * (n == 1)), now=moment)

        assert ids(await take(store, 9)) == ["1", "0", "2"]

    async def test_a_huge_count_is_a_count(self, store: Store) -> None:
        await add(store, job("a"))

        assert ids((await store.claim(claim(2**31 - 1), now=at(0))).jobs) == ["a"]
        assert len(await store.find(Where(queue="q"), limit=2**31 - 1, now=at(0))) == 1

    @needs(Feature.RATE_LIMITS)
    async def test_a_huge_window_is_a_window(self, store: Store) -> None:
        await add(store, job("a"), job("b"))
        limit = Limit(rate=Rate(max=1, per=timedelta(days=36_525)))

        assert ids(await take(store, 9, limit=limit)) == ["a"]
        assert await take(store, 9, limit=limit, now=at(1_000_000)) == []

    async def test_the_record_of_a_claim_is_the_record_that_is_stored(self, store: Store) -> None:
        full: dict[str, Any] = {
            "payload": "[1]",
            "options": "[2]",
            "report": "[3]",
            "priority": -4,
            "lifo": True,
        }
        await add(store, job("a", **full))
        (held,) = await take(store)

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


class RoundTrips(Documents, Names, Values):
    """Round trips."""
