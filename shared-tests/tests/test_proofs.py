"""The rows of the README's matrix: each names a test that runs wherever the matrix says yes.

That they pass, the contract tests of each package show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from conveyor.conformance import StoreContract
from conveyor.conformance.kit.proofs import PROOFS, proved
from conveyor.core import installed_stores
from conveyor.core.discovery import open_store

pytest_plugins = ["pytester"]


def names(tests: Iterable[Callable[..., Any]]) -> set[str]:
    return {test.__name__ for test in tests}


URLS = {"memory": "memory:", "sqlite": "sqlite:///jobs.db", "postgresql": "postgresql://app@localhost/app"}


def test_every_feature_has_a_test_of_its_own() -> None:
    twice = [test.__name__ for test, times in Counter(PROOFS.values()).items() if times > 1]

    assert twice == []


def test_every_row_names_a_test_of_the_suite() -> None:
    strangers = [t.__name__ for t in PROOFS.values() if getattr(StoreContract, t.__name__, None) is not t]

    assert strangers == []
    assert all(test.__name__.startswith("test_") for test in PROOFS.values())


def test_no_feature_is_proved_by_a_storm_that_is_left_out() -> None:
    storms = [
        test.__name__
        for test in PROOFS.values()
        if any(mark.name == "chaos" for mark in getattr(test, "pytestmark", ()))
    ]

    assert storms == []


@pytest.mark.slow
def test_each_cell_says_what_a_run_on_that_store_says(pytester: pytest.Pytester) -> None:
    assert set(URLS) <= {one.scheme for one in installed_stores()}
    pytester.makepyfile(
        test_rows=f"""
        from conveyor.conformance import StoreContract

        class Rows(StoreContract):
            pass

        for name in dir(StoreContract):
            if name.startswith("test_") and name not in {names(PROOFS.values())}:
                setattr(Rows, name, None)

        for scheme in {list(URLS)}:
            globals()["Test" + scheme] = type("Test" + scheme, (Rows,), {{"store_scheme": scheme}})
        """
    )
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")

    # What a store does not offer is skipped while a test is set up.
    run = pytester.inline_run("-q", "-p", "no:cacheprovider", "--setup-only")
    found = {scheme: {outcome: set[str]() for outcome in ("passed", "skipped", "failed")} for scheme in URLS}
    for report in run.getreports("pytest_runtest_logreport"):
        if report.when == "setup":
            _, owner, name = report.nodeid.partition("[")[0].split("::")
            found[owner.removeprefix("Test")][report.outcome].add(name)

    for scheme, outcomes in found.items():
        features = open_store(URLS[scheme]).features
        offered = names(test for test in PROOFS.values() if proved(test, features))
        rest = names(PROOFS.values()) - offered
        assert outcomes == {"passed": offered, "skipped": rest, "failed": set()}, scheme
