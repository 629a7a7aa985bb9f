"""The shared suite on this store; its races run over several connections and in several processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
import pytest

from conveyor.conformance import StoreContract
from conveyor.conformance.behaviour.using import Transaction, Using
from conveyor.conformance.suite import Fixtures
from conveyor.store.pg.options import parsed
from pg_kept import close_all, kept_connections

#: Areas in which each test begins with new connections, as a user's process does.
NEWLY_CONNECTED: Final = {"lifecycle", "events", "races", "crashes", "cancellations"}


@pytest.fixture(scope="module", autouse=True)
def _closed_at_the_end() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture(autouse=True)
def _connections(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.function.conveyor_area in NEWLY_CONNECTED:
        yield
        return
    with kept_connections():
        yield


class TestPgContract(StoreContract):
    store_scheme = "postgresql"


class TestPgTransactions(Using, Fixtures):
    """`using` in a transaction of the user's; without one it is held to the same above."""

    store_scheme = "postgresql"

    @pytest.fixture
    def transaction(self, store_url: str) -> Transaction:
        dsn, _ = parsed(store_url, {})

        @asynccontextmanager
        async def begun() -> AsyncIterator[psycopg.AsyncConnection[Any]]:
            async with await psycopg.AsyncConnection.connect(dsn, prepare_threshold=None) as connection:
                yield connection

        return begun
