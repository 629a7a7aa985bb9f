"""The pytest plugin of the conformance suite: its options, the places of its stores, and its report.

It is loaded in every pytest run of an environment that has the suite installed, and before coverage is
measured: it imports nothing of conveyor at start-up.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from conveyor.conformance.plugin.skips import LEFT_OUT, NOT_OFFERED

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

#: What a `conveyor.testing` entry point gives for a `Place`: each call is the URL of one more fresh store.
Fresh = "Callable[[], AbstractContextManager[str]]"

#: In the order of the table.
AREAS: Final = (
    "inserting",
    "claiming",
    "renewing",
    "settling",
    "advancing",
    "sets",
    "pausing",
    "unique_keys",
    "flows",
    "groups",
    "limits",
    "events",
    "round_trips",
    "lifecycle",
    "honesty",
    "races",
    "crashes",
    "cancellations",
    "interleavings",
    "stalls",
    "model",
    "queue_behaviour",
    "flow_behaviour",
    "deduplication",
    "dead_letters",
    "workers_seen",
    "explain",
    "group_behaviour",
    "limit_behaviour",
    "batches",
    "ageing",
    "schedules",
    "using",
)
#: The rooms and modules that have assertions.
_REWRITTEN: Final = ("contract", "behaviour", "concurrency", "kit", "suite", "test_conformance")

# said here because pytest's own registration goes by RECORD, which does not list an editable install's files
pytest.register_assert_rewrite(*(f"conveyor.conformance.{module}" for module in _REWRITTEN))


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a `conveyor.testing` provisioner makes its stores.

    `url` is the `--conveyor-url` given, if any; `worker` this process's name in the run; `owner` the id of
    the process whose end is the end of the run; `tmp_path` a folder for this process, and `shared_path` one
    for all processes of the run.
    """

    url: str | None
    worker: str
    owner: int
    tmp_path: Path
    shared_path: Path


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
    if not config.getoption("--conveyor-store"):
        return
    for scheme in _schemes(config):
        if not (config.getoption("--conveyor-url") or _provisioner(scheme)):
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
    """Leave the long storms out, and say so, unless they are asked for."""
    if "chaos" in str(config.getoption("markexpr")):
        return
    for item in items:
        ours = hasattr(getattr(item, "function", None), "conveyor_area")
        if item.get_closest_marker("chaos") and (ours or config.getini("conveyor_chaos_apart")):
            item.add_marker(pytest.mark.skip(reason=LEFT_OUT))


def _schemes(config: pytest.Config) -> list[str]:
    asked: Any = config.getoption("--conveyor-store")
    if "all" in asked:
        return sorted({entry.name for entry in entry_points(group="conveyor.testing")})
    return [str(scheme) for scheme in dict.fromkeys(asked)]


def _provisioner(scheme: str) -> EntryPoint | None:
    return next(iter(entry_points(group="conveyor.testing", name=scheme)), None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of the contract once for each store that was asked for."""
    if "conveyor_scheme" not in metafunc.fixturenames or getattr(
        metafunc.cls, "store_is_made_by_hand", False
    ):
        return
    own: str | None = getattr(metafunc.cls, "store_scheme", None)
    schemes = [own] if own else _schemes(metafunc.config)
    if not schemes:  # an empty parameter set would be skipped, and look like a pass
        raise pytest.UsageError(
            "which store? Pass --conveyor-store SCHEME (or 'all'), or give the class a `store` fixture"
        )
    metafunc.parametrize("conveyor_scheme", schemes, scope="session")


@dataclass
class _Places:
    """One running provisioner for each scheme, for the life of this process."""

    config: pytest.Config
    factory: pytest.TempPathFactory
    stack: ExitStack = field(default_factory=ExitStack)
    fresh: dict[str, Callable[[], AbstractContextManager[str]]] = field(default_factory=dict)

    def of(self, scheme: str) -> Callable[[], AbstractContextManager[str]]:
        if scheme not in self.fresh:
            self.fresh[scheme] = self._start(scheme)
        return self.fresh[scheme]

    def _start(self, scheme: str) -> Callable[[], AbstractContextManager[str]]:
        worker: str = getattr(self.config, "workerinput", {}).get("workerid", "main")
        base = self.factory.getbasetemp()
        place = Place(
            url=self.config.getoption("--conveyor-url"),
            worker=worker,
            owner=os.getpid() if worker == "main" else os.getppid(),  # xdist's controller starts its workers
            tmp_path=self.factory.mktemp(f"conveyor-{scheme}"),
            shared_path=base if worker == "main" else base.parent,
        )
        if place.url is not None and scheme in _schemes(self.config):
            return _from_template(place.url, place)
        found = _provisioner(scheme)
        if found is None:
            raise pytest.UsageError(f"no installed package tells how to make a store of {scheme!r}")
        fresh: Callable[[], AbstractContextManager[str]] = self.stack.enter_context(found.load()(place))
        return fresh


def _from_template(template: str, place: Place) -> Callable[[], AbstractContextManager[str]]:
    count = iter(range(1_000_000))

    @contextmanager
    def fresh() -> Iterator[str]:
        yield template.format(worker=place.worker, tmp=place.tmp_path, n=next(count))

    return fresh


@pytest.fixture(scope="session")
def _conveyor_places(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[_Places]:
    places = _Places(pytestconfig, tmp_path_factory)
    with places.stack:
        yield places


@pytest.fixture(scope="session")
def conveyor_scheme() -> str | None:
    """The scheme of the store under test; None for a store that is made by hand."""
    return None


@pytest.fixture
def conveyor_url(conveyor_scheme: str | None, _conveyor_places: _Places) -> Iterator[str | None]:
    """The URL of a fresh, empty store of that scheme."""
    if conveyor_scheme is None:
        yield None
        return
    with _conveyor_places.of(conveyor_scheme)() as url:
        yield url


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Tell the report, which may be in another process, whose test of which area this is."""
    report: Any = yield
    function = getattr(item, "function", None)
    area = getattr(function, "conveyor_area", None)
    if area is not None and function is not None:
        parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        owner: Any = getattr(item, "cls", None)
        store = parameters.get("conveyor_scheme") or getattr(owner, "__name__", "?")
        report.user_properties.append(("conveyor", [store, area, function.__name__]))
    return report


class Report:
    """The table at the end. It is made in the process that the user sees; xdist brings it the reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._cells: dict[tuple[str, str], Counter[str]] = {}
        self._seen: dict[str, set[str]] = {}
        self._lacking: dict[str, set[str]] = {}
        self._left_out = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one report of a test of the suite."""
        properties: dict[str, Any] = dict(report.user_properties)
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        left_out = report.skipped and LEFT_OUT in reason
        self._left_out += left_out
        if "conveyor" not in properties:
            return
        store, area, name = properties["conveyor"]
        cell = self._cells.setdefault((area, store), Counter())
        self._seen.setdefault(store, set()).add(name)
        if report.failed:
            cell["failed" if report.when == "call" else "errors"] += 1
        elif report.skipped:
            _, offered, lacking = reason.partition(NOT_OFFERED)
            cell["left out" if left_out else "not offered" if offered else "skipped"] += 1
            if offered:
                self._lacking.setdefault(store, set()).update(lacking.split(", "))
        elif report.when == "call":
            cell["passed"] += 1

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
            terminalreporter.write_line(f"{store}{origin}: {self._verdict(store)}")
            if lacking := self._lacking.get(store):
                terminalreporter.write_line(f"{store} does not offer: {', '.join(sorted(lacking))}")
        if path := self._config.getoption("--conveyor-report"):
            Path(path).write_text(json.dumps(self._as_json(areas, stores), indent=1), encoding="utf-8")

    def _cell(self, area: str, store: str) -> str:
        cell = self._cells.get((area, store), Counter())
        if cell["failed"]:
            return f"FAIL {cell['failed']}/{cell['failed'] + cell['passed']}"
        if cell["errors"]:
            return f"ERROR {cell['errors']}"
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
        return "CONFORMS"

    def _as_json(self, areas: list[str], stores: list[str]) -> dict[str, Any]:
        return {
            store: {
                "package": _origin(store),
                "verdict": self._verdict(store),
                "not offered": sorted(self._lacking.get(store, ())),
                "areas": {area: dict(self._cells.get((area, store), {})) for area in areas},
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
