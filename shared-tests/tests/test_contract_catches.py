"""The suite is tested itself: each of these stores and engines has one bug, which the named area catches.

So does each of some processes, which a test of our packages catches.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from hypothesis import Phase

from broken import BUGS, ENGINE_BUGS, Bug, EngineBug, process
from broken.process import PROCESS_BUGS, ProcessBug
from conveyor.conformance.concurrency.interleavings import every_call, happenings
from conveyor.conformance.concurrency.model import agreeing
from conveyor.conformance.contract import events
from conveyor.conformance.kit import area, bench
from conveyor.conformance.plugin.areas import AREAS as NAMES
from conveyor.conformance.suite import Fixtures, StoreContract
from conveyor.store.memory import MemoryStore

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]

ALL_BUGS: list[Bug | EngineBug] = [*BUGS, *ENGINE_BUGS]
#: The class of each area, from what its tests say of themselves.
AREAS: dict[str, type] = {
    test.conveyor_area: part
    for part in StoreContract.__bases__
    if part is not Fixtures
    for name, test in inspect.getmembers(part)
    if name.startswith("test_")
}


class Tested(Fixtures):
    """The store of one class of tests: with a bug, or in an engine with one, or without."""

    bug: ClassVar[Bug | EngineBug | None]

    @pytest.fixture
    def store_class(self, monkeypatch: pytest.MonkeyPatch) -> type[MemoryStore]:
        """The class of the store, with the bug in its place; tests that would hang fail soon."""
        if self.bug is None:
            return MemoryStore
        monkeypatch.setattr(area, "TIMEOUT", 3.0)
        monkeypatch.setattr(events, "SOON", 0.5)
        for module in (bench, every_call, happenings):
            monkeypatch.setattr(module, "SOON", 2.0)
        # which histories are played changes with any line of ours: so many of them find a bug by all means
        monkeypatch.setattr(agreeing, "EXAMPLES", 5_000)
        monkeypatch.setattr(agreeing, "PHASES", (Phase.generate,))
        if isinstance(self.bug, EngineBug):
            self.bug.put_in(monkeypatch)
            return MemoryStore
        return self.bug.store


async def opened(_: Tested, store_class: type[MemoryStore]) -> AsyncIterator[MemoryStore]:
    async with store_class() as store:
        yield store


def classes_of(part: str) -> dict[str, type]:
    """For pytest: a class without a bug, and one for each bug of an area with the test that fails."""
    bugs = [bug for bug in ALL_BUGS if bug.area == part]
    every = {test for test in dir(AREAS[part]) if test.startswith("test_")}

    def with_tests(tests: set[str], bug: Bug | EngineBug | None) -> type:
        left_out, own = dict.fromkeys(every - tests), {"bug": bug, "store": pytest_asyncio.fixture(opened)}
        return type("Test", (AREAS[part], Tested), left_out | own)

    caught = {f"Test{n}": with_tests({bug.test}, bug) for n, bug in enumerate(bugs)}
    return {"TestNone": with_tests({bug.test for bug in bugs}, None), **caught}


class Outcomes:
    """For pytest: which tests failed and passed with each bug.

    Of a bug the first failure is enough, and without one that each test passes once: that it does with all of
    its parameters, the contract of the memory store shows.
    """

    def __init__(self) -> None:
        self.failed: dict[str, set[str]] = defaultdict(set)
        self.passed: dict[str, set[str]] = defaultdict(set)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        _, owner, name = item.nodeid.partition("[")[0].split("::")
        if owner == "TestNone":
            if name in self.passed[owner]:
                pytest.skip("it has passed")
        elif self.failed[owner]:
            pytest.skip("the bug is caught")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _, owner, name = report.nodeid.partition("[")[0].split("::")
        if report.failed:
            self.failed[owner].add(name)
        elif report.passed and report.when == "call":
            self.passed[owner].add(name)


#: By area. One run is for all bugs of an area: to begin one and to look for its tests takes longer than most.
PLAYED: dict[str, Outcomes] = {}


@pytest.fixture
def played(request: pytest.FixtureRequest) -> Outcomes:
    """What came of an area with each of its bugs."""
    given: Bug | EngineBug | str = request.node.callspec.params["bug"]
    part = given if isinstance(given, str) else given.area
    if part not in PLAYED:
        pytester: pytest.Pytester = request.getfixturevalue("pytester")
        pytester.makepyfile(
            f"""
            import sys

            globals().update(sys.modules[{__name__!r}].classes_of({part!r}))
            """
        )
        pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
        outcomes = Outcomes()
        pytester.inline_run("-q", "--tb=no", "-p", "no:cacheprovider", plugins=[outcomes])
        PLAYED[part] = outcomes
    return PLAYED[part]


def in_its_areas_run(bug: Bug | EngineBug | str, part: str) -> Any:
    return pytest.param(bug, marks=pytest.mark.xdist_group(f"catches {part}"), id=str(bug))


@pytest.mark.slow
@pytest.mark.parametrize("bug", [in_its_areas_run(bug, bug.area) for bug in ALL_BUGS])
def test_a_store_or_an_engine_with_one_bug_is_caught(played: Outcomes, bug: Bug | EngineBug) -> None:
    owner = f"Test{[one for one in ALL_BUGS if one.area == bug.area].index(bug)}"

    assert played.failed[owner] == {bug.test}


@pytest.mark.slow
@pytest.mark.parametrize("bug", [in_its_areas_run(part, part) for part in sorted({b.area for b in ALL_BUGS})])
def test_a_store_without_a_bug_is_not(played: Outcomes, bug: str) -> None:
    assert played.failed["TestNone"] == set()
    assert played.passed["TestNone"] == {one.test for one in ALL_BUGS if one.area == bug}


@pytest.mark.slow
def test_a_store_that_lives_by_its_clients_clocks_is_caught(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from conveyor.conformance import StoreContract
        from conveyor.core.store import Feature
        from conveyor.store.sqlite import SqliteStore

        class Wrong(SqliteStore):
            @property
            def features(self):
                return super().features | {Feature.SERVER_CLOCK}

        class TestIt(StoreContract):
            @pytest.fixture
            def store_url(self, tmp_path):
                return f"sqlite:///{tmp_path}/jobs.db"

            @pytest.fixture
            async def store(self, store_url):
                async with Wrong.from_url(store_url) as store:
                    yield store
        """
    )
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")

    run = pytester.inline_run("-q", "--tb=no", "-p", "no:cacheprovider", "-k", "whose_clock_is_wrong")

    assert [len(reports) for reports in run.listoutcomes()] == [0, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("bug", PROCESS_BUGS, ids=str)
def test_a_process_with_one_bug_is_caught(tmp_path: Path, bug: ProcessBug) -> None:
    put_in = f"import runpy; runpy.run_path({process.__file__!r})[{str(bug)!r}]()"
    (tmp_path / "sitecustomize.py").write_text(put_in, encoding="utf-8")

    options = ["-x", "-q", "--tb=no", "-n", "0", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", bug.file, "-k", bug.test, *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (run.returncode, f"FAILED {bug.file}::{bug.test}" in run.stdout) == (1, True), run.stdout


def test_every_area_catches_a_bug() -> None:
    assert {bug.area for bug in ALL_BUGS} == {name.replace("_", " ") for name in NAMES}


def test_every_bug_is_another() -> None:
    assert len({bug.store for bug in BUGS}) >= 35
