"""Events: as text, and on a bus within one process."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from conveyor.core import events as told
from conveyor.core.events import EVENTS, Event, Gap, JobCompleted, JobProgress, JobWaiting, LocalBus

AT = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
DETAILS: dict[str, Any] = {
    "job_id": "é'\"",
    "worker": "w",
    "progress": 12.5,
    "reason": "because\n",
    "attempts_made": 2,
    "job_name": "a",
    "missed": 7,
}


def one_of_each() -> list[Event]:
    found = []
    for kind in EVENTS.values():
        fields = {name: DETAILS[name] for name in kind.__dataclass_fields__ if name in DETAILS}
        found.append(kind(queue_name="q", at=AT, **fields))
    return found


def waiting(job_id: str, queue: str = "q") -> JobWaiting:
    return JobWaiting(queue_name=queue, at=AT, job_id=job_id)


def test_every_event_comes_back_from_its_text() -> None:
    assert told.decode(told.encode(one_of_each())) == one_of_each()
    assert told.decode(told.encode([])) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "1",
        "null",
        "{}",
        "[1, [], [2, {}]]",
        '[["JobTeleported", {"queue_name": "q", "at": "2026-01-01T00:00:00Z"}]]',
        '[["JobWaiting", {"queue_name": "q", "at": "yesterday", "job_id": "x"}]]',
        '[["JobWaiting", {"queue_name": "q", "at": "2026-01-01T00:00:00Z"}]]',
        '[["JobWaiting", {"queue_name": "q", "job_id": "x"}]]',
    ],
)
def test_what_cannot_be_understood_is_left_out(text: str) -> None:
    assert told.decode(text) == []


def test_fields_of_a_later_release_are_left_out() -> None:
    text = told.encode([waiting("x")]).replace('"job_id"', '"mood":"fine","job_id"')

    assert told.decode(text) == [waiting("x")]


async def test_each_subscriber_gets_the_events_of_its_queues_and_kinds() -> None:
    bus = LocalBus()
    done = JobCompleted(queue_name="q", at=AT, job_id="x")
    async with (
        bus.subscribe({"q"}) as everything,
        bus.subscribe({"q", "other"}, kinds={JobCompleted}) as ends,
        bus.subscribe({"other"}) as other,
    ):
        assert bus.wanted["q"] == frozenset(EVENTS.values())
        assert bus.wanted["other"] == frozenset(EVENTS.values())
        await bus.publish([waiting("x"), done])
        bus.close()

        assert [event async for event in everything] == [waiting("x"), done]
        assert [event async for event in ends] == [done]
        assert [event async for event in other] == []
    assert bus.wanted == {}


async def test_only_what_somebody_listens_for_is_wanted() -> None:
    bus = LocalBus()

    async with bus.subscribe({"a"}, kinds=[JobProgress]), bus.subscribe({"a", "b"}, kinds=[JobWaiting]):
        assert bus.wanted == {"a": {JobProgress, JobWaiting}, "b": {JobWaiting}}


async def test_a_full_subscriber_loses_the_oldest_and_is_told_how_many_first() -> None:
    bus = LocalBus(room=3)
    async with bus.subscribe({"q"}) as events:
        await bus.publish([waiting(str(n)) for n in range(10)])
        first = [await anext(events) for _ in range(4)]
        await bus.publish([waiting("after")])
        bus.close()
        rest = [event async for event in events]

    assert first == [Gap(queue_name="q", at=AT, missed=7), waiting("7"), waiting("8"), waiting("9")]
    assert rest == [waiting("after")]


async def test_a_slow_subscriber_holds_up_nobody() -> None:
    bus = LocalBus(room=2)
    async with bus.subscribe({"q"}), bus.subscribe({"q"}) as quick:
        for n in range(5):
            await bus.publish([waiting(str(n))])
            assert await anext(quick) == waiting(str(n))


async def test_closing_the_bus_ends_subscriptions_also_those_to_come() -> None:
    bus = LocalBus()
    async with bus.subscribe({"q"}) as events:
        waiter = asyncio.ensure_future(anext(events, "over"))
        await asyncio.sleep(0)
        assert not waiter.done()
        bus.close()
        assert await waiter == "over"
    async with bus.subscribe({"q"}) as events:
        assert [event async for event in events] == []
    bus.reopen()
    async with bus.subscribe({"q"}) as events:
        await bus.publish([waiting("x")])
        assert await anext(events) == waiting("x")


async def test_a_subscriber_that_left_costs_nothing() -> None:
    bus = LocalBus()
    async with bus.subscribe({"q", "other"}):
        async with bus.subscribe({"q"}):
            assert bus.wanted.keys() == {"q", "other"}
        assert bus.wanted.keys() == {"q", "other"}

    assert bus.wanted == {}
