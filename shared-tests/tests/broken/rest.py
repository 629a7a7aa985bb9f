"""Bugs about features, events and closing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any, Self

from broken.store import Broken, caught_by
from conveyor.core.errors import InvalidOptionError
from conveyor.core.events import Event
from conveyor.core.store import (
    Feature,
)
from conveyor.store.memory import MemoryStore


@caught_by("honesty", "test_a_declared_feature_is_there_and_an_undeclared_one_is_refused")
class AcceptsInSilence(Broken):
    """Groups are not declared, and accepted without a word."""

    @property
    def features(self) -> frozenset[Feature]:
        return super().features - {Feature.GROUPS}


@caught_by("lifecycle", "test_no_error_about_a_url_or_an_option_shows_what_may_be_a_password")
class ShowsPasswords(Broken):
    """The error about a URL that cannot be used quotes it."""

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        try:
            return super().from_url(url, **options)
        except InvalidOptionError as error:
            raise InvalidOptionError("url", url, error.allowed) from None


@caught_by("lifecycle", "test_an_option_of_a_wrong_kind_is_refused_by_its_name")
class TakesOptionsAsTheyAre(Broken):
    """What an option is given is found out by what breaks on it."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(None if name is None else name.lower())

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        return cls(**options) if options else super().from_url(url)


@caught_by("lifecycle", "test_another_event_loop_may_use_the_store_or_is_told_what_it_may_use")
class BelongsToOneLoopInSilence(Broken):
    """What happens on another event loop than the store's own is told by whatever breaks there."""

    def _refuse_other_loops(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            msg = "is bound to a different event loop"
            raise RuntimeError(msg)


@caught_by("events", "test_an_event_arrives_as_it_was_published")
class LosesEvents(Broken):
    """Nothing that is published ever arrives."""

    async def open(self) -> None:
        await super().open()
        monkey(self, _nothing)


def monkey(store: MemoryStore, publish: Callable[[Sequence[Event]], Awaitable[None]]) -> None:
    """Replace what a store's bus does with what is published."""
    vars(store._bus)["publish"] = publish


async def _nothing(_: Sequence[Event]) -> None:
    """Deliver no event."""


@caught_by("queue behaviour", "test_waiting_for_a_job_that_does_not_finish_ends_in_time")
class BlocksListeners(Broken):
    """A subscription begins when the first event comes: who waits for a job waits for ever if none does."""

    async def open(self) -> None:
        await super().open()
        subscribe = self._bus.subscribe

        @contextlib.asynccontextmanager
        async def late(queues: Collection[str], **options: Any) -> AsyncIterator[AsyncIterator[Event]]:
            async with subscribe(queues, **options) as events:
                await anext(events)
                yield events

        vars(self._bus)["subscribe"] = late


@caught_by("events", "test_an_event_is_received_once")
class RepeatsEvents(Broken):
    """Its own notification comes back to the publisher, who hears everything twice."""

    async def open(self) -> None:
        await super().open()
        publish = self._bus.publish

        async def twice(published: Sequence[Event]) -> None:
            await publish([*published, *published])

        monkey(self, twice)


@caught_by("lifecycle", "test_a_closed_store_refuses_every_call")
class WorksWhenClosed(Broken):
    """A closed store goes on as if nothing were."""

    async def close(self) -> None:
        pass
