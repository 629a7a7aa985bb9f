"""Events: hints that reach every subscriber, and never hold anybody up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest

from conveyor.conformance.kit.area import area, needs
from conveyor.conformance.kit.make import at
from conveyor.core.events import (
    EVENTS,
    Event,
    Gap,
    JobActive,
    JobCompleted,
    JobFailed,
    JobProgress,
    JobWaiting,
    QueuePaused,
)
from conveyor.core.store import Feature, Store

#: How long an event may take to another handle before it counts as lost.
SOON = 15.0
#: More events than a subscriber can reasonably have room for.
FLOOD = 30_000

#: One event of every kind that is published, its values as awkward as they get.
SAMPLES: dict[str, dict[str, Any]] = {
    "JobActive": {"worker": "w'\"é🐝"},
    "JobProgress": {"progress": {"done": [1, 2.5, None, True, "é🐝"], "of": 2**60}},
    "JobRetrying": {"reason": 'it\'s\n"wrong"', "attempts_made": 3},
    "JobFailed": {"reason": 'it\'s\n"wrong"'},
    "QueuePaused": {"job_name": "__all__"},
    "QueueResumed": {"group": "__ungrouped__"},
}


def sample(kind: type[Event], queue: str = "q") -> Event:
    """An event of that kind."""
    values = dict(SAMPLES.get(kind.__name__, {}))
    if "job_id" in kind.__dataclass_fields__:
        values["job_id"] = "job-'é🐝"
    return kind(queue_name=queue, at=at(1.234567), **values)


def waiting(id: str, queue: str = "q") -> JobWaiting:
    """A job that can be claimed now."""
    return JobWaiting(queue_name=queue, job_id=id, at=at(0))


async def next_events(events: AsyncIterator[Event], count: int) -> list[Event]:
    """The next events of a subscription."""
    async with asyncio.timeout(SOON):
        return [await anext(events) for _ in range(count)]


async def received_until(events: AsyncIterator[Event], *, last: Event) -> list[Event]:
    """The events of a subscription up to this one."""
    found: list[Event] = []
    async with asyncio.timeout(SOON):
        while not found or found[-1] != last:
            found.append(await anext(events))
    return found[:-1]


@contextlib.asynccontextmanager
async def listening(
    store: Store, queues: Collection[str] = ("q",), **options: Any
) -> AsyncIterator[AsyncIterator[Event]]:
    """A subscription."""
    async with store.bus.subscribe(queues, **options) as events:
        yield events


@area("events")
class Events:
    """`Store.bus`."""

    async def test_an_event_arrives_as_it_was_published(self, store: Store) -> None:
        async with listening(store) as events:
            for event in (sample(kind) for kind in EVENTS.values() if kind is not Gap):
                await store.bus.publish([event])

                assert await next_events(events, 1) == [event]

    async def test_events_arrive_in_the_order_of_publishing(self, store: Store) -> None:
        published = [waiting(str(n)) for n in range(100)]

        async with listening(store) as events:
            await store.bus.publish(published[:60])
            await store.bus.publish(published[60:])

            assert await next_events(events, 100) == published

    async def test_a_subscriber_receives_its_queues_only(self, store: Store) -> None:
        async with listening(store, {"q", "r"}) as events:
            await store.bus.publish([waiting("1", "other"), waiting("2", "r"), waiting("3", "q")])

            assert await next_events(events, 2) == [waiting("2", "r"), waiting("3", "q")]

    async def test_a_subscriber_receives_the_kinds_it_asked_for_only(self, store: Store) -> None:
        async with listening(store, kinds={JobCompleted, QueuePaused}) as events:
            await store.bus.publish(
                [waiting("1"), sample(JobCompleted), sample(JobActive), sample(QueuePaused)]
            )

            assert await next_events(events, 2) == [sample(JobCompleted), sample(QueuePaused)]

    async def test_every_subscriber_receives_every_event(self, store: Store) -> None:
        async with listening(store) as one, listening(store) as two, listening(store, {"r"}) as other:
            await store.bus.publish([waiting("1"), waiting("2", "r")])

            assert await next_events(one, 1) == [waiting("1")]
            assert await next_events(two, 1) == [waiting("1")]
            assert await next_events(other, 1) == [waiting("2", "r")]

    async def test_an_event_is_received_once(self, store: Store) -> None:
        async with listening(store) as events:
            await store.bus.publish([waiting("1")])
            assert await next_events(events, 1) == [waiting("1")]

            await store.bus.publish([waiting("2")])
            assert await received_until(events, last=waiting("2")) == []

    async def test_a_subscriber_receives_nothing_from_before(self, store: Store) -> None:
        await store.bus.publish([waiting("1")])

        async with listening(store) as events:
            await store.bus.publish([waiting("2")])

            assert await received_until(events, last=waiting("2")) == []

    async def test_publishing_to_nobody_or_nothing_is_fine(self, store: Store) -> None:
        await store.bus.publish([])
        await store.bus.publish([waiting("1")])

    async def test_publishing_does_not_wait_for_a_subscriber_who_does_not_listen(self, store: Store) -> None:
        async with listening(store) as idle, listening(store) as busy:
            await store.bus.publish([waiting("1")])

            assert await next_events(busy, 1) == [waiting("1")]
            assert await next_events(idle, 1) == [waiting("1")]

    async def test_a_subscriber_who_is_too_slow_learns_how_much_it_missed(self, store: Store) -> None:
        published = [waiting(str(n)) for n in range(FLOOD)]

        async with listening(store) as events:
            for first in range(0, FLOOD, 1_000):
                await store.bus.publish(published[first : first + 1_000])
            found = [*await received_until(events, last=published[-1]), published[-1]]

        gaps = [event for event in found if isinstance(event, Gap)]
        rest = [event for event in found if not isinstance(event, Gap)]
        assert rest == published[FLOOD - len(rest) :], "the oldest are dropped, and the order is kept"
        assert sum(gap.missed for gap in gaps) == FLOOD - len(rest)
        assert {gap.queue_name for gap in gaps} <= {"q"}

    async def test_a_slow_subscriber_costs_the_others_nothing(self, store: Store) -> None:
        published = [waiting(str(n)) for n in range(FLOOD)]

        async with listening(store) as _, listening(store) as events:
            for first in range(0, FLOOD, 1_000):
                await store.bus.publish(published[first : first + 1_000])
                assert await next_events(events, 1_000) == published[first : first + 1_000]

    async def test_a_subscription_ends_when_it_is_left(self, store: Store) -> None:
        async with listening(store) as events:
            await store.bus.publish([waiting("1")])
            await next_events(events, 1)

        async with listening(store) as events:
            await store.bus.publish([waiting("2")])
            assert await next_events(events, 1) == [waiting("2")]

    async def test_a_subscription_ends_when_the_store_is_closed(self, store: Store) -> None:
        async def listen() -> list[Event]:
            async with listening(store) as events:
                ready.set()
                return [event async for event in events]

        ready = asyncio.Event()
        listener = asyncio.create_task(listen())
        await ready.wait()
        await store.close()

        async with asyncio.timeout(SOON):
            assert await listener == []

    async def test_publishing_never_raises(self, store: Store) -> None:
        """Publishing events raises nothing, not even when the store is closed."""
        await store.close()

        await store.bus.publish([waiting("1")])

    async def test_waiting_for_an_event_can_be_cancelled(self, store: Store) -> None:
        async with listening(store) as events:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(events)

            await store.bus.publish([waiting("1")])
            assert await next_events(events, 1) == [waiting("1")]

    async def test_a_large_event_arrives(self, store: Store) -> None:
        event = JobProgress(queue_name="q", job_id="a", at=at(0), progress={"text": "é" * 20_000})

        async with listening(store) as events:
            await store.bus.publish([event])

            assert await next_events(events, 1) == [event]

    @pytest.mark.parametrize("queue", ["q" * 255, "群" * 255, "it's", '"', "__all__", "\x1fq", "a b\tc"])
    async def test_events_of_queues_of_any_name_arrive(self, store: Store, queue: str) -> None:
        async with listening(store, {queue}) as events:
            await store.bus.publish([waiting("1", queue)])

            assert await next_events(events, 1) == [waiting("1", queue)]


@area("events", Feature.MULTI_PROCESS)
class EventsOfOthers:
    """Events between two handles on the same data."""

    async def test_an_event_reaches_another_handle_as_it_was_published(
        self, store: Store, peer: Store
    ) -> None:
        async with listening(peer) as events:
            for event in (sample(kind) for kind in EVENTS.values() if kind is not Gap):
                await store.bus.publish([event])

                assert await next_events(events, 1) == [event]

    async def test_events_reach_another_handle_in_the_order_of_publishing(
        self, store: Store, peer: Store
    ) -> None:
        published = [waiting(str(n)) for n in range(300)]

        async with listening(peer) as events:
            for first in range(0, 300, 50):
                await store.bus.publish(published[first : first + 50])

            assert await next_events(events, 300) == published

    async def test_the_publisher_receives_its_own_event_once(self, store: Store, peer: Store) -> None:
        async with listening(store) as own, listening(peer) as other:
            await store.bus.publish([waiting("1")])
            assert await next_events(own, 1) == [waiting("1")]
            assert await next_events(other, 1) == [waiting("1")]
            await peer.bus.publish([waiting("2")])

            assert await received_until(own, last=waiting("2")) == []

    async def test_a_listener_elsewhere_receives_its_queues_and_kinds_only(
        self, store: Store, peer: Store
    ) -> None:
        async with listening(peer, {"r"}, kinds={JobFailed}) as events:
            await store.bus.publish(
                [waiting("1", "r"), sample(JobFailed, "q"), sample(JobActive, "r"), sample(JobFailed, "r")]
            )

            assert await next_events(events, 1) == [sample(JobFailed, "r")]

    async def test_a_listener_elsewhere_receives_nothing_from_before(self, store: Store, peer: Store) -> None:
        await store.bus.publish([waiting("1")])
        async with listening(store) as own:
            await store.bus.publish([waiting("2")])
            await next_events(own, 1)
            await asyncio.sleep(0.05)

            async with listening(peer) as events:
                await store.bus.publish([waiting("3")])

                assert await received_until(events, last=waiting("3")) == []

    async def test_a_large_event_reaches_another_handle(self, store: Store, peer: Store) -> None:
        event = JobProgress(queue_name="q", job_id="a", at=at(0), progress={"text": "é" * 20_000})

        async with listening(peer) as events:
            await store.bus.publish([event, waiting("1")])

            assert [one for one in await received_until(events, last=waiting("1")) if one != event] == []

    @pytest.mark.parametrize("queue", ["群" * 255, "it's", "\x1fq"])
    async def test_events_of_queues_of_any_name_reach_another_handle(
        self, store: Store, peer: Store, queue: str
    ) -> None:
        async with listening(peer, {queue}) as events:
            await store.bus.publish([waiting("1", queue)])

            assert await next_events(events, 1) == [waiting("1", queue)]

    @needs(Feature.MULTI_PROCESS)
    async def test_publishing_goes_on_when_the_other_handle_is_closed(
        self, store: Store, peer: Store
    ) -> None:
        async with listening(store) as events:
            await peer.close()
            await store.bus.publish([waiting("1")])

            assert await next_events(events, 1) == [waiting("1")]


class AllEvents(Events, EventsOfOthers):
    """Events."""
