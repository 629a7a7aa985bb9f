"""The table at the end of a run, and a verdict for each store."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from conveyor.conformance.plugin.areas import AREAS, LEFT_OUT, NOT_OFFERED
from conveyor.conformance.plugin.expectations import TITLE, expected
from conveyor.conformance.plugin.making import store_of

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Tell the report, which may be in another process, whose test of which area this is.

    And, if it fails, what it expected.
    """
    report: Any = yield
    function = getattr(item, "function", None)
    area = getattr(function, "conveyor_area", None)
    if area is not None and function is not None:
        is_of_speed = getattr(function, "conveyor_measures_speed", False)
        report.user_properties.append(
            ("conveyor", [store_of(item), area, function.__name__, item.name, is_of_speed])
        )
        if report.failed:
            report.sections.append((TITLE, expected(item, area)))
    return report


#: How many of the slowest tests are printed, and how many seconds make a test slow.
SLOWEST: Final = 5
SLOW: Final = 2.0


class Report:
    """The table at the end. It is made in the process that the user sees; xdist brings it the reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._cells: dict[tuple[str, str], Counter[str]] = {}
        self._seen: dict[str, set[str]] = {}
        self._lacking: dict[str, set[str]] = {}
        self._left_out = 0
        #: Of each store: what came of each test of each area, and how many seconds it took.
        self._outcomes: dict[str, dict[str, dict[str, str]]] = {}
        self._seconds: defaultdict[tuple[str, str], float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one report of a test of the suite."""
        properties: dict[str, Any] = dict(report.user_properties)
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        left_out = report.skipped and LEFT_OUT in reason
        self._left_out += left_out
        if "conveyor" not in properties:
            return
        store, area, function, name, is_of_speed = properties["conveyor"]
        self._seen.setdefault(store, set()).add(function)
        self._seconds[store, name] += report.duration
        cell = self._cells.setdefault((area, store), Counter())
        if report.failed:
            outcome = "errors" if report.when != "call" else "too slow" if is_of_speed else "failed"
        elif report.skipped:
            _, offered, lacking = reason.partition(NOT_OFFERED)
            outcome = "left out" if left_out else "not offered" if offered else "skipped"
            if offered:
                self._lacking.setdefault(store, set()).update(lacking.split(", "))
        elif report.when == "call":
            outcome = "passed"
        else:
            return
        cell[outcome] += 1
        self._outcomes.setdefault(store, {}).setdefault(area, {})[name] = outcome

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the table, and a verdict for each store."""
        if self._cells:
            self._print_table(terminalreporter)
        if self._left_out:
            terminalreporter.write_line(f"{self._left_out} long storms were left out: run them with -m chaos")

    def _print_table(self, terminalreporter: Any) -> None:
        areas = sorted({area for area, _ in self._cells}, key=_place_in_table)
        stores = sorted({store for _, store in self._cells})
        width = max(map(len, areas)) + 2
        columns = [max(14, len(store) + 2) for store in stores]
        terminalreporter.section("conveyor store conformance")
        terminalreporter.write_line(
            " " * width + "".join(f"{s:>{w}}" for s, w in zip(stores, columns, strict=True))
        )
        for area in areas:
            cells = [self._cell(area, store) for store in stores]
            row = "".join(f"{cell:>{w}}" for cell, w in zip(cells, columns, strict=True))
            terminalreporter.write_line(f"{area:<{width}}{row}", red="FAIL" in row or "ERROR" in row)
        for store in stores:
            origin = f" ({found})" if (found := _origin(store)) else ""
            too_slow = sum(cell["too slow"] for (_, owner), cell in self._cells.items() if owner == store)
            slowly = f" (and is slower than {too_slow} storms ask for)" if too_slow else ""
            terminalreporter.write_line(f"{store}{origin}: {self._verdict(store)}{slowly}")
            if lacking := self._lacking.get(store):
                terminalreporter.write_line(f"{store} does not offer: {', '.join(sorted(lacking))}")
        self._print_slowest(terminalreporter)
        if path := self._config.getoption("--conveyor-report"):
            Path(path).write_text(json.dumps(self._as_json(areas, stores), indent=1), encoding="utf-8")

    def _print_slowest(self, terminalreporter: Any) -> None:
        slow = [(seconds, store, name) for (store, name), seconds in self._seconds.items() if seconds >= SLOW]
        for seconds, store, name in sorted(slow, reverse=True)[:SLOWEST]:
            terminalreporter.write_line(f"slow: {seconds:.1f} s on {store}: {name}")

    def _cell(self, area: str, store: str) -> str:
        cell = self._cells.get((area, store), Counter())
        if cell["failed"]:
            return f"FAIL {cell['failed']}/{cell['failed'] + cell['passed']}"
        if cell["errors"]:
            return f"ERROR {cell['errors']}"
        if cell["too slow"]:
            return f"SLOW {cell['too slow']}/{cell['too slow'] + cell['passed']}"
        if cell["passed"]:
            return f"ok {cell['passed']}"
        return next((way for way in ("not offered", "skipped", "left out") if cell[way]), "-")

    def _verdict(self, store: str) -> str:
        total: Counter[str] = Counter()
        for (_, owner), cell in self._cells.items():
            if owner == store:
                total.update(cell)
        if total["failed"]:
            return "DOES NOT CONFORM"
        if total["errors"] or not total["passed"]:
            return "COULD NOT BE TESTED"
        if total["skipped"] or _every_test() - self._seen[store]:
            return "passes the part that ran"
        return "CONFORMS"  # though it may be slow: that is said beside the verdict

    def _as_json(self, areas: list[str], stores: list[str]) -> dict[str, Any]:
        return {
            store: {
                "package": _origin(store),
                "verdict": self._verdict(store),
                "not offered": sorted(self._lacking.get(store, ())),
                "areas": {area: dict(self._cells.get((area, store), {})) for area in areas},
                "tests": self._outcomes.get(store, {}),
            }
            for store in stores
        }


def _place_in_table(area: str) -> tuple[int, str]:
    name = area.replace(" ", "_")
    return (AREAS.index(name) if name in AREAS else len(AREAS), area)


def _every_test() -> set[str]:
    """The names of all tests: a run that left some out, however, shows conformance of a part only."""
    from conveyor.conformance.suite import StoreContract  # noqa: PLC0415 - not at start-up

    return {name for name in dir(StoreContract) if name.startswith("test_")}


def _origin(scheme: str) -> str | None:
    for entry in entry_points(group="conveyor.stores", name=scheme):
        if entry.dist is not None:
            return f"{entry.dist.name} {entry.dist.version}"
    return None
