"""The suite is tested itself: each of these stores and engines has one bug, which the named area catches.

So does each of some processes, which a test of our packages catches.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from broken import BUGS, ENGINE_BUGS, Bug, EngineBug, process
from broken.process import PROCESS_BUGS, ProcessBug
from conveyor.conformance.contract import events
from conveyor.conformance.kit import area as areas
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


def failures(pytester: pytest.Pytester, area: str, store: type[MemoryStore], *options: str) -> set[str]:
    """Run one area on a store, and return the names of the tests that failed."""
    pytester.makepyfile(
        f"""
        import sys
        import pytest
        from conveyor.conformance.suite import Fixtures

        catches = sys.modules[{__name__!r}]

        class TestStore(catches.AREAS[{area!r}], Fixtures):
            @pytest.fixture
            async def store(self):
                async with catches.STORES[{store.__name__!r}]() as store:
                    yield store
        """
    )
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    run = pytester.inline_run("-q", "--tb=no", "-p", "no:cacheprovider", *options)
    passed, _, failed = run.listoutcomes()
    assert passed or failed, "nothing ran"
    return {report.nodeid.rpartition("::")[2].partition("[")[0] for report in failed}


STORES: dict[str, type[MemoryStore]] = {
    "MemoryStore": MemoryStore,
    **{bug.store.__name__: bug.store for bug in BUGS},
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests that would hang fail at once."""
    monkeypatch.setattr(areas, "PATIENCE", 3.0)
    monkeypatch.setattr(events, "SOON", 0.5)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_store_with_one_bug_is_caught(pytester: pytest.Pytester, bug: Bug) -> None:
    assert failures(pytester, bug.area, bug.store, "-x", "-k", bug.test) == {bug.test}


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("bug", ENGINE_BUGS, ids=str)
def test_an_engine_with_one_bug_is_caught(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, bug: EngineBug
) -> None:
    bug.put_in(monkeypatch)

    assert failures(pytester, bug.area, MemoryStore, "-x", "-k", bug.test) == {bug.test}


@pytest.mark.slow
@pytest.mark.parametrize("area", sorted({bug.area for bug in ALL_BUGS}))
def test_a_store_without_a_bug_is_not(pytester: pytest.Pytester, area: str) -> None:
    tests = {bug.test for bug in ALL_BUGS if bug.area == area}

    assert failures(pytester, area, MemoryStore, "-k", " or ".join(tests)) == set()


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
