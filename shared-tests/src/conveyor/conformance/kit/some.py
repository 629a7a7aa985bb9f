"""Which cases a store is put through, of those that are the engine's and not the store's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from conveyor.core.store import Store
from conveyor.store.memory import MemoryStore

T = TypeVar("T")


def some_of(cases: Sequence[T], store: Store, turn: int, *, one_in: int = 3) -> Sequence[T]:
    """Every case on the reference; on another store one in so many, and those by turns."""
    return cases if isinstance(store, MemoryStore) else cases[turn % one_in :: one_in]
