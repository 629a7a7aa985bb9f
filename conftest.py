"""What `-m "not slow"` leaves out of the contract: tests that take more than 50 ms, by nature."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

#: A new connection plans everything anew; a call reads a file, and most write it.
STORES: Final = {"postgresql", "jsonfile", "plainsql"}
#: Every moment of every call, and histories by the hundred.
AREAS: Final = {"cancellations", "interleavings", "model"}
#: Of a name: tests that start processes, play something once for each call of a worker, or add very much.
WORDS: Final = ("process", "executor", "dies", "die_at", "killed", "random", "every_ending", "ten_thousand")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark them, before they are chosen by their marks; not in a run of another project's tests."""
    if config.rootpath != Path(__file__).parent:
        return
    for item in items:
        area = getattr(getattr(item, "function", None), "conveyor_area", None)
        store = getattr(getattr(item, "cls", None), "store_scheme", None)
        long = area in AREAS or any(word in item.name for word in WORDS)
        if area is not None and (store in STORES or long):
            item.add_marker("slow")
