"""What `-m "not slow"` leaves out of the contract: tests that take more than 50 ms, by nature.

Which tests come first in a run in parallel. And the PostgreSQL that all tests of a run share: a server of
its own costs two seconds.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from conveyor.testing.pg import Server, get_server

#: A new connection plans everything anew; a call reads a file, and most write it.
STORES: Final = {"postgresql", "jsonfile", "plainsql"}
#: Every moment of every call, and histories by the hundred.
AREAS: Final = {"cancellations", "interleavings", "model"}
#: Of a name: tests that start processes, play something once for each call of a worker, or add very much.
WORDS: Final = ("process", "executor", "dies", "die_at", "killed", "random", "every_ending", "ten_thousand")

#: A machine that does other work as well is no bug.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


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
        # The engine's, on a store that writes its whole file in each call: a third of its tests' time.
        if store == "jsonfile" and area == "interleavings":
            item.add_marker("chaos")


@pytest.hookimpl(trylast=True, specname="pytest_collection_modifyitems")
def pytest_put_slow_tests_first(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the small ones fill the end of a run in parallel: a worker waits there for one that is late."""
    if config.rootpath == Path(__file__).parent and hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """The server of the contract's stores; what is felt outside of one database needs a `private_server`."""
    base, worker = tmp_path_factory.getbasetemp(), os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return get_server(base / "postgresql")
    return get_server(base.parent / "postgresql", owner=os.getppid())


@pytest.fixture(scope="module")
def module_database(shared_server: Server) -> Iterator[str]:
    """The URL of a database for the tests of a module."""
    with shared_server.database(f"conveyor_{secrets.token_hex(6)}") as url:
        yield url


@pytest.fixture
def empty_database(shared_server: Server) -> Iterator[str]:
    """The URL of a database for one test."""
    with shared_server.database(f"conveyor_{secrets.token_hex(6)}") as url:
        yield url
