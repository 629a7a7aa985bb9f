"""One error where no store can be made, instead of one for each test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest

from conveyor.conformance.plugin.areas import NO_STORE

if TYPE_CHECKING:
    from collections.abc import Generator

#: What makes the store of a test.
_FIXTURES: Final = ("conveyor_url", "store_url", "store")


@dataclass
class _Stores:
    """Of which stores one was made in this process, and of which none could be."""

    made: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)


_STORES: Final = pytest.StashKey[_Stores]()


def store_of(item: pytest.Item) -> str:
    """Which store a test of the suite is of: its scheme, or the class that makes it."""
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    scheme: str | None = parameters.get("conveyor_scheme")
    return scheme or str(getattr(getattr(item, "cls", None), "__name__", "?"))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Remember of which stores the first one could not be made."""
    item: Any = request.node
    if fixturedef.argname not in _FIXTURES or not hasattr(getattr(item, "function", None), "conveyor_area"):
        return (yield)
    stores = request.config.stash.setdefault(_STORES, _Stores())
    try:
        value = yield
    except Exception:
        if store_of(item) not in stores.made:
            stores.broken.add(store_of(item))
        raise
    if fixturedef.argname == "store":
        stores.made.add(store_of(item))
    return value


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Run no further test of a store that could not be made: the first error says why."""
    ours = hasattr(getattr(item, "function", None), "conveyor_area")
    if ours and store_of(item) in item.config.stash.get(_STORES, _Stores()).broken:
        pytest.skip(f"{NO_STORE}: see the first error of {store_of(item)}")
