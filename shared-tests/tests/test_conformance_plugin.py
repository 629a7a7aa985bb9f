"""The plugin, from outside: what a store's author types, and what the run tells."""

from __future__ import annotations

import inspect
import json
import pydoc
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from conveyor.conformance import StoreContract
from conveyor.conformance.plugin import places
from conveyor.conformance.plugin import report as reporting
from conveyor.conformance.plugin.areas import AREAS
from conveyor.conformance.plugin.expectations import RULES, sentence

pytest_plugins = ["pytester"]

#: A small and quick part of the suite, that has tests of several areas.
PART = "inserting_nothing or settling_nothing or renewing_nothing or data_survives or async_with"

RUN = ("--pyargs", "conveyor.conformance", "-p", "no:cacheprovider", "-W", "error")

#: A few tests of the contract: to collect them all takes seconds.
A_PART = """
from conveyor.conformance import StoreContract

class Part(StoreContract):
    pass

for name in dir(StoreContract):
    if name.startswith("test_") and not any(part in name for part in {PARTS}):
        setattr(Part, name, None)
"""

#: A store that a stranger wrote: MemoryStore without some of its features.
MINE = """
import pytest
from conveyor.core.errors import UnsupportedFeatureError
from conveyor.core.store import Feature
from conveyor.store.memory import MemoryStore

class Mine(MemoryStore):
    @property
    def features(self):
        return super().features - {LEFT_OUT}

    async def insert(self, jobs, **options):
        if {BUG}:
            jobs = list(reversed(jobs))
        if any(job.group for job in jobs) and Feature.GROUPS not in self.features:
            raise UnsupportedFeatureError(type(self).__name__, Feature.GROUPS)
        return await super().insert(jobs, **options)

    async def settle(self, outcomes, **options):
        spawned = [job for outcome in outcomes for job in outcome.spawn]
        if any(job.group for job in spawned) and Feature.GROUPS not in self.features:
            raise UnsupportedFeatureError(type(self).__name__, Feature.GROUPS)
        return await super().settle(outcomes, **options)

    async def pause(self, queue, what, for_=None, **options):
        if what.group is not None and Feature.GROUPS not in self.features:
            raise UnsupportedFeatureError(type(self).__name__, Feature.GROUPS)
        await super().pause(queue, what, for_, **options)

class TestMine(Part):
    @pytest.fixture
    async def store(self):
        async with Mine() as store:
            yield store
"""


def mine(pytester: pytest.Pytester, part: str, *, left_out: str = "set()", bug: bool = False) -> None:
    """A test file of a stranger's store, in a project that has no settings for pytest-asyncio."""
    text = MINE.replace("{LEFT_OUT}", left_out).replace("{BUG}", str(bug))
    pytester.makepyfile(test_mine=a_part(part) + text)


def a_part(part: str) -> str:
    return A_PART.replace("{PARTS}", str(part.split(" or ")))


def run_a_part(pytester: pytest.Pytester, part: str, *options: str) -> pytest.RunResult:
    """Run tests of the contract on installed stores."""
    pytester.makepyfile(test_part=a_part(part) + "\nclass TestPart(Part): pass\n")
    return run_here(pytester, "-W", "error", *options)


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run pytest in a process of its own."""
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)


def run_here(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run pytest in this process, which has imported the suite already."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)


def report(pytester: pytest.Pytester, store: str) -> dict[str, Any]:
    """What a run said of a store."""
    found: dict[str, Any] = json.loads((pytester.path / "report.json").read_text())
    told: dict[str, Any] = found[store]
    return told


#: For a test of what is told of a whole run that passes: whether a store does is shown by its own tests.
ALL_PASS = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    test = item.function
    ran = ("conveyor", ["memory", test.conveyor_area, test.__name__, item.name, False])
    for when in ("setup", "call", "teardown"):
        outcome = {"keywords": {}, "outcome": "passed", "longrepr": None, "when": when}
        report = pytest.TestReport(item.nodeid, item.location, **outcome, user_properties=[ran])
        item.ihook.pytest_runtest_logreport(report=report)
    return True
"""


@pytest.mark.slow
def test_a_store_that_passes_every_test_conforms(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(ALL_PASS)

    result = pytester.runpytest_subprocess(
        *RUN, "--conveyor-store", "memory", "--conveyor-report", "report.json"
    )

    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*conveyor store conformance*",
            "*memory*",
            "inserting *ok *",
            "claiming *ok *",
            "memory (conveyor-store-memory *): CONFORMS",
        ]
    )
    found = report(pytester, "memory")
    assert found["verdict"] == "CONFORMS"
    assert {name.replace("_", " ") for name in AREAS} <= set(found["areas"])
    assert found["areas"]["inserting"]["passed"] > 20


@pytest.mark.slow
def test_a_store_is_tested_by_its_scheme(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess(
        *RUN,
        "--conveyor-store",
        "memory",
        "--conveyor-report",
        "report.json",
        "-k",
        PART + " or two_handles or whose_clock",
    )

    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*memory*",
            "inserting *ok *",
            "memory (conveyor-store-memory *): passes the part that ran",
            "memory does not offer: durable, multi-process, server-clock",
        ]
    )
    assert report(pytester, "memory")["not offered"] == ["durable", "multi-process", "server-clock"]


@pytest.mark.slow
def test_a_run_in_parallel_reports_the_same(pytester: pytest.Pytester) -> None:
    options = ("--conveyor-store", "memory", "--conveyor-report", "report.json")
    part = "timed_pause or opening_twice or two_handles_see"
    assert run_a_part(pytester, part, *options).ret == 0
    alone = report(pytester, "memory")

    assert run(pytester, *options, "-W", "error", "-n", "2").ret == 0

    assert report(pytester, "memory") == alone
    assert alone["areas"]["pausing"]["passed"] > 1
    assert alone["areas"]["lifecycle"] == {"passed": 1, "not offered": 1}


@pytest.mark.slow
def test_several_stores_stand_side_by_side(pytester: pytest.Pytester) -> None:
    result = run_a_part(pytester, PART, "--conveyor-store", "memory", "--conveyor-store", "sqlite")

    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["* memory *sqlite", "lifecycle *ok *ok *", "memory (*part that ran", "sqlite (*part that ran"]
    )


@pytest.mark.slow
def test_all_is_every_installed_store(pytester: pytest.Pytester) -> None:
    result = run_a_part(pytester, "inserting_nothing", "--conveyor-store", "all")

    result.stdout.fnmatch_lines(["memory (*): *", "sqlite (*): *"])


@pytest.mark.slow
def test_a_url_template_says_where_the_stores_are(pytester: pytest.Pytester) -> None:
    template = "sqlite:///{tmp}/{worker}-{n}.db"
    result = run_a_part(pytester, PART, "--conveyor-store", "sqlite", "--conveyor-url", template)

    assert result.ret == 0
    result.stdout.fnmatch_lines(["sqlite (*): passes the part that ran"])


@pytest.mark.slow
def test_an_unknown_store_cannot_be_tested(pytester: pytest.Pytester) -> None:
    result = run_a_part(pytester, PART, "--conveyor-store", "nope", "--conveyor-url", "nope://")

    assert result.ret != 0
    result.stdout.fnmatch_lines(["*UnknownStoreError*nope*"])
    result.stdout.fnmatch_lines(["nope: COULD NOT BE TESTED"])


@pytest.mark.slow
def test_no_store_is_an_error_of_usage(pytester: pytest.Pytester) -> None:
    result = run_here(pytester, "--pyargs", "conveyor.conformance")

    assert result.ret != 0
    assert "CONFORMS" not in result.stdout.str()
    assert "--conveyor-store SCHEME" in result.stdout.str() + result.stderr.str()


@pytest.mark.slow
def test_a_store_that_nobody_provides_needs_a_url(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess(*RUN, "--conveyor-store", "nope")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*how to make a store of 'nope'*--conveyor-url*"])


@pytest.mark.slow
def test_the_users_own_packages_are_not_shadowed(pytester: pytest.Pytester) -> None:
    package = pytester.mkpydir("core")
    (package / "own.py").write_text("mine = True")
    pytester.makepyfile(test_own="import core.own\n\ndef test_own():\n    assert core.own.mine\n")
    pytester.makeini("[pytest]\npythonpath = .\nasyncio_default_fixture_loop_scope = function")

    result = run(
        pytester, *RUN[:2], "test_own.py", "--conveyor-store", "memory", "-k", "test_own or inserting_nothing"
    )

    assert result.ret == 0
    assert result.parseoutcomes()["passed"] == 2


# ------------------------------------------------------------- a class of one's own


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_a_class_of_ones_own_needs_no_settings(pytester: pytest.Pytester, mode: str) -> None:
    mine(pytester, PART)

    result = run_here(pytester, f"--asyncio-mode={mode}")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["*TestMine", "inserting *ok 1", "TestMine: passes the part that ran"])


@pytest.mark.slow
def test_what_a_store_does_not_declare_is_a_row_of_its_own(pytester: pytest.Pytester) -> None:
    mine(pytester, "groups or refused", left_out="{Feature.GROUPS}")

    result = run_here(pytester, "--conveyor-report", "report.json")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["groups *not offered", "honesty *ok *", "TestMine does not offer: *groups*"])
    assert "groups" in report(pytester, "TestMine")["not offered"]


STORMS = """
import pytest

@pytest.mark.chaos
def test_storm():
    pass

def test_calm():
    pass
"""


@pytest.mark.slow
def test_the_storms_of_the_suite_are_left_out_and_that_is_said(pytester: pytest.Pytester) -> None:
    mine(pytester, "jobs_does_not_delay_a_small_one or large_group_does_not_delay")

    result = run_here(pytester)

    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["group behaviour *ok 1", "1 long storms were left out: run them with -m chaos"]
    )


@pytest.mark.slow
def test_a_store_conforms_without_the_storms(pytester: pytest.Pytester) -> None:
    mine(pytester, "jobs_does_not_delay_a_small_one")

    result = run_here(pytester, "--conveyor-report", "report.json")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["group behaviour *left out"])
    assert report(pytester, "TestMine")["areas"]["group behaviour"] == {"left out": 1}


@pytest.mark.slow
def test_the_storms_are_run_when_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_mine=STORMS)
    pytester.makeini("[pytest]\nconveyor_chaos_apart = true\n")

    apart = run(pytester)
    asked = run(pytester, "-m", "chaos")

    apart.assert_outcomes(passed=1, skipped=1)
    apart.stdout.fnmatch_lines(["1 long storms were left out: run them with -m chaos"])
    asked.assert_outcomes(passed=1, deselected=1)
    asked.stdout.no_fnmatch_line("*left out*")


@pytest.mark.slow
def test_another_projects_tests_marked_chaos_are_its_own_affair(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_mine=STORMS)

    run(pytester).assert_outcomes(passed=2)


@pytest.mark.slow
def test_a_bug_fails_its_row_and_the_verdict(pytester: pytest.Pytester) -> None:
    mine(pytester, "many_jobs_are_inserted or inserting_nothing or settling_nothing", bug=True)

    result = run_here(pytester)

    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*assert*",
            "*- What was expected of the store -*",
            "Many jobs are inserted in one call in their order.",
            "The rule: python -m pydoc conveyor.core.store.StoreCalls.insert",
            "inserting *FAIL 1/2",
            "TestMine: DOES NOT CONFORM",
        ]
    )
    result.stdout.fnmatch_lines(["settling *ok 1"])


@pytest.mark.slow
def test_a_store_that_cannot_be_made_cannot_be_tested(pytester: pytest.Pytester) -> None:
    broken = """
import pytest

class TestMine(Part):
    @pytest.fixture
    async def store(self):
        raise ConnectionError("no server")
"""
    pytester.makepyfile(test_mine=a_part(PART) + broken)

    result = run_here(pytester)

    assert result.ret == 1
    result.assert_outcomes(errors=1, skipped=4)
    result.stdout.fnmatch_lines(
        ["*ConnectionError: no server", "*ERROR 1*", "TestMine: COULD NOT BE TESTED"], consecutive=False
    )


@pytest.mark.slow
def test_a_provisioner_that_fails_is_one_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(places.Places, "of", fail)

    result = run_a_part(pytester, PART, "--conveyor-store", "memory")

    result.assert_outcomes(errors=1, skipped=4)
    result.stdout.fnmatch_lines(["memory (*): COULD NOT BE TESTED"])


@pytest.mark.slow
def test_a_fixture_of_one_test_that_fails_stops_no_other(pytester: pytest.Pytester) -> None:
    mine(pytester, "two_handles_see or inserting_nothing or settling_nothing")
    text = (pytester.path / "test_mine.py").read_text().replace("- set()", "| {Feature.MULTI_PROCESS}")
    peer = """
    @pytest.fixture
    async def peer(self, store):
        raise ConnectionError("no second handle")
"""
    (pytester.path / "test_mine.py").write_text(text + peer)

    result = run_here(pytester)

    result.assert_outcomes(errors=1, passed=2)


@pytest.mark.slow
def test_a_run_keeps_to_the_areas_that_are_asked_for(pytester: pytest.Pytester) -> None:
    areas = ("--conveyor-area", "round-trips", "--conveyor-area", "pausing")

    part = "documents_come_back or timed_pause or inserting_nothing or settling_nothing"
    options = ("--conveyor-store", "memory", "--conveyor-report", "report.json")
    result = run_a_part(pytester, part, *areas, *options)

    assert result.ret == 0
    assert set(report(pytester, "memory")["areas"]) == {"round trips", "pausing"}
    assert result.parseoutcomes()["deselected"] == 2
    result.stdout.fnmatch_lines(["memory (*): passes the part that ran"])


@pytest.mark.slow
def test_an_area_that_there_is_not_is_an_error_of_usage(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--conveyor-area", "insertion")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*no area of the suite is named 'insertion': there are inserting, claiming, *"]
    )


SPEED = """
from conveyor.conformance.kit.area import area, measures_speed

@area("groups")
class Speed:
    @measures_speed
    async def test_speed(self, store):
        assert False, "slow"

    async def test_rule(self, store):
        pass

class TestIt(Speed, Part):
    store_scheme = "memory"
"""


@pytest.mark.slow
def test_a_store_that_is_slow_conforms(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=a_part("test_speed") + SPEED)

    result = run_here(pytester, "--conveyor-report", "report.json")

    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["groups *SLOW 1/2", "memory (*): passes the part that ran (and is slower than 1 storms ask for)"]
    )
    assert report(pytester, "memory")["tests"] == {
        "groups": {"test_speed[memory]": "too slow", "test_rule[memory]": "passed"}
    }


@pytest.mark.slow
def test_the_slowest_tests_are_named(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "SLOW", 0.0)
    mine(pytester, "inserting_nothing")

    result = run_here(pytester)

    result.stdout.fnmatch_lines(["slow: 0.* s on TestMine: test_inserting_nothing*"])


@pytest.mark.slow
def test_a_declared_feature_that_could_not_be_tested_is_not_conformance(pytester: pytest.Pytester) -> None:
    mine(pytester, "two_handles_see or inserting_nothing")
    text = (pytester.path / "test_mine.py").read_text()
    (pytester.path / "test_mine.py").write_text(text.replace("- set()", "| {Feature.MULTI_PROCESS}"))

    result = run_here(pytester, "-rs")

    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["lifecycle *skipped", "TestMine: passes the part that ran", "*`peer` fixture*"]
    )


@pytest.mark.slow
def test_a_class_may_name_an_installed_store(pytester: pytest.Pytester) -> None:
    named = """
class TestIt(Part):
    store_scheme = "sqlite"
"""
    pytester.makepyfile(test_it=a_part(PART + " or two_handles_see") + named)

    result = run_here(pytester)

    assert result.ret == 0
    result.stdout.fnmatch_lines(["lifecycle *ok 3", "sqlite (*part that ran"])


@pytest.mark.slow
def test_a_class_may_bring_a_second_handle_of_its_own(pytester: pytest.Pytester) -> None:
    own = """
import pytest
from conveyor.store.sqlite import SqliteStore

class TestMine(Part):
    @pytest.fixture
    def place(self, tmp_path):
        return f"sqlite:///{tmp_path}/jobs.db"

    @pytest.fixture
    async def store(self, place):
        async with SqliteStore.from_url(place) as store:
            yield store

    @pytest.fixture
    async def peer(self, store, place):
        async with SqliteStore.from_url(place) as peer:
            yield peer
"""
    pytester.makepyfile(test_mine=a_part("two_handles_see or one_of_many_claimers_gets_the_job") + own)

    result = run_here(pytester)

    assert result.ret == 0
    result.stdout.fnmatch_lines(["lifecycle *ok 1", "races *ok 2"])


def test_every_test_of_the_contract_has_an_area_and_runs_in_every_mode() -> None:
    tests = {name: getattr(StoreContract, name) for name in dir(StoreContract) if name.startswith("test_")}

    assert len(tests) > 400
    for name, test in tests.items():
        assert test.conveyor_area.replace(" ", "_") in AREAS, name
        marks = {mark.name for mark in getattr(test, "pytestmark", [])}
        assert "asyncio" in marks or not inspect.iscoroutinefunction(test), name


def test_every_test_of_the_contract_says_in_a_sentence_what_it_expects() -> None:
    tests = {name: getattr(StoreContract, name) for name in dir(StoreContract) if name.startswith("test_")}

    # Three words are no sentence; a longer name is read as one.
    assert [name for name, test in tests.items() if len(sentence(test).split()) < 4] == []


def test_the_rules_of_every_area_can_be_read() -> None:
    assert [*RULES] == [*AREAS]
    assert {area: rule for area, rule in RULES.items() if not inspect.getdoc(pydoc.locate(rule))} == {}


def test_no_test_of_the_contract_hides_another() -> None:
    parts = [part for part in StoreContract.__mro__ if any(name.startswith("test_") for name in vars(part))]
    names = Counter(name for part in parts for name in vars(part) if name.startswith("test_"))

    assert [name for name, number in names.items() if number > 1] == []


def test_pytest_is_not_slowed_down_by_the_plugin() -> None:
    code = (
        "import sys, conveyor.conformance.plugin.hooks;"
        "print([name for name in sys.modules if name.startswith('conveyor.') and 'conformance' not in name])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_help_names_the_options(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--help")

    result.stdout.fnmatch_lines(
        [
            "*--conveyor-store=SCHEME*",
            "*--conveyor-url=TEMPLATE*",
            "*--conveyor-area=AREA*",
            "*--conveyor-report=FILE*",
        ]
    )
