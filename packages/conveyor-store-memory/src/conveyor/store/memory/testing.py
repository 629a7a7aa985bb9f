"""How the conformance suite gets a fresh memory store: the entry point of `conveyor.testing`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from uuid import uuid4


@contextmanager
def provision(_context: object) -> Iterator[Callable[[], AbstractContextManager[str]]]:
    """Offer URLs of empty stores; handles that are opened from one URL share its data."""
    yield _fresh


@contextmanager
def _fresh() -> Iterator[str]:
    yield f"memory://{uuid4()}"
