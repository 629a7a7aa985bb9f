"""How the conformance suite gets a fresh store: the entry point of `conveyor.testing`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Any


@contextmanager
def provision(place: Any) -> Iterator[Callable[[], AbstractContextManager[str]]]:
    """Offer URLs of stores that are not there yet, in the folder that the suite has for them."""
    numbers = count()

    @contextmanager
    def fresh() -> Iterator[str]:
        yield f"plainsql://{place.tmp_path}/{next(numbers)}.db"

    yield fresh
