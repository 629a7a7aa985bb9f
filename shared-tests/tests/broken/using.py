"""Stores whose blocks of `using` are none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from broken.store import Broken, caught_by
from conveyor.core.store import JobRecord, Store
from conveyor.core.testing import WrappedStore


@caught_by("using", "test_a_block_that_raises_adds_nothing")
class AddsAtOnce(Broken):
    """Adds what a block adds when it is added."""

    @asynccontextmanager
    async def using(self, connection: Any = None) -> AsyncIterator[Store]:
        del connection
        yield self


@caught_by("using", "test_what_a_block_adds_is_there_once_it_has_ended")
class ForgetsTheBlock(Broken):
    """Never adds what a block adds."""

    @asynccontextmanager
    async def using(self, connection: Any = None) -> AsyncIterator[Store]:
        async with Broken() as other, other.using(connection) as inside:
            yield inside


class _Blind(WrappedStore):
    def __init__(self, inside: Store, stored: Store) -> None:
        super().__init__(inside)
        self._stored = stored

    async def find(self, *args: Any, **kwargs: Any) -> Sequence[JobRecord]:
        return await self._stored.find(*args, **kwargs)


@caught_by("using", "test_within_a_block_all_is_as_if_it_were_stored")
class ReadsPastTheBlock(Broken):
    """Finds only what is stored already."""

    @asynccontextmanager
    async def using(self, connection: Any = None) -> AsyncIterator[Store]:
        async with super().using(connection) as inside:
            yield _Blind(inside, self)
