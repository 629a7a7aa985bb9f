"""The shared suite on this store; its races run over several connections and in several processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from conveyor.conformance import StoreContract
from conveyor.conformance.behaviour.using import Transaction, Using
from conveyor.conformance.suite import Fixtures
from conveyor.store.pg.options import parsed


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
