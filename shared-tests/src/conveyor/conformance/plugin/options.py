"""The options of the suite's plugin, and what follows from them for a run."""

from __future__ import annotations

import warnings
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pytest

from conveyor.conformance.plugin.areas import AREAS, LEFT_OUT
from conveyor.conformance.plugin.report import Report


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the suite's options."""
    group = parser.getgroup("conveyor", "Conveyor store conformance")
    group.addoption(
        "--conveyor-store",
        action="append",
        default=[],
        metavar="SCHEME",
        help="the store to hold to the contract, by URL scheme; repeatable; 'all' for every one installed",
    )
    group.addoption(
        "--conveyor-url",
        metavar="TEMPLATE",
        help="where its stores are; {tmp}, {worker} and {n} (counts the tests) are filled in",
    )
    parser.addini(
        "conveyor_chaos_apart",
        "leave out every test marked chaos, not only those of the suite, unless -m names the mark",
        type="bool",
        default=False,
    )
    group.addoption(
        "--conveyor-area",
        action="append",
        default=[],
        metavar="AREA",
        help="run the tests of this area of the suite only, such as 'inserting'; repeatable",
    )
    group.addoption("--conveyor-report", metavar="FILE", help="write the report there as JSON")
    group.addoption(
        "--conveyor-examples",
        type=int,
        metavar="N",
        help="how many random histories the model test plays (120, always the same; given here: new ones)",
    )
    group.addoption(
        "--conveyor-steps", type=int, default=30, metavar="N", help="how many calls each history has (30)"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check the options, and start the report in the process that will print it."""
    config.addinivalue_line(
        "markers", "chaos: a long storm, left out unless `-m chaos` (or the like) is given"
    )
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Report(config), "conveyor-report")
    areas_of(config)
    if not config.getoption("--conveyor-store"):
        return
    for scheme in schemes_of(config):
        if not (config.getoption("--conveyor-url") or provisioner_of(scheme)):
            raise pytest.UsageError(
                f"no installed package tells how to make a store of {scheme!r} (a 'conveyor.testing' "
                f"entry point): pass --conveyor-url, such as '{scheme}://{{tmp}}/{{n}}'"
            )
    # The suite lies in a PEP 420 namespace: pytest's default mode would put .../site-packages/conveyor
    # on sys.path, where `core` and `store` could shadow the user's own packages.
    config.option.importmode = "importlib"
    # A project that has no settings for pytest-asyncio is none of its business here.
    warnings.filterwarnings("ignore", message='.*"asyncio_default_fixture_loop_scope" is unset')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep to the areas that were asked for, and leave the long storms out unless they are."""
    _keep_to_areas(config, items)
    if "chaos" in str(config.getoption("markexpr")):
        return
    for item in items:
        ours = hasattr(getattr(item, "function", None), "conveyor_area")
        if item.get_closest_marker("chaos") and (ours or config.getini("conveyor_chaos_apart")):
            item.add_marker(pytest.mark.skip(reason=LEFT_OUT))


def _keep_to_areas(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = areas_of(config)
    if not asked:
        return

    def is_left_out(item: pytest.Item) -> bool:
        return getattr(getattr(item, "function", None), "conveyor_area", None) not in {None, *asked}

    config.hook.pytest_deselected(items=[item for item in items if is_left_out(item)])
    items[:] = [item for item in items if not is_left_out(item)]


def areas_of(config: pytest.Config) -> frozenset[str]:
    """The areas that a run is asked for, as tests name theirs; none for all."""
    given: Any = config.getoption("--conveyor-area")
    asked = [str(name).replace("-", "_").replace(" ", "_") for name in given]
    for name in asked:
        if name not in AREAS:
            raise pytest.UsageError(f"no area of the suite is named {name!r}: there are {', '.join(AREAS)}")
    return frozenset(name.replace("_", " ") for name in asked)


def schemes_of(config: pytest.Config) -> list[str]:
    """The URL schemes of the stores that a run is asked to test."""
    asked: Any = config.getoption("--conveyor-store")
    if "all" in asked:
        return sorted({entry.name for entry in entry_points(group="conveyor.testing")})
    return [str(scheme) for scheme in dict.fromkeys(asked)]


def provisioner_of(scheme: str) -> EntryPoint | None:
    """What makes stores of a scheme, if a package that is installed says so."""
    return next(iter(entry_points(group="conveyor.testing", name=scheme)), None)
