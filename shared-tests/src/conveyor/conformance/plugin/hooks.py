"""The pytest plugin of the conformance suite: its options, the places of its stores, and its report.

It is loaded in every pytest run of an environment that has the suite installed, and before coverage is
measured: it imports nothing of conveyor's other packages at start-up.
"""

from __future__ import annotations

from typing import Final

import pytest

from conveyor.conformance.plugin.making import pytest_fixture_setup, pytest_runtest_setup
from conveyor.conformance.plugin.options import (
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
)
from conveyor.conformance.plugin.places import (
    conveyor_places,
    conveyor_scheme,
    conveyor_url,
    pytest_generate_tests,
)
from conveyor.conformance.plugin.report import pytest_runtest_makereport

__all__ = [
    "conveyor_places",
    "conveyor_scheme",
    "conveyor_url",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_fixture_setup",
    "pytest_generate_tests",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
]

#: The rooms and modules that have assertions.
_REWRITTEN: Final = ("contract", "behaviour", "concurrency", "kit", "suite", "test_conformance")

# said here because pytest's own registration goes by RECORD, which does not list an editable install's files
pytest.register_assert_rewrite(*(f"conveyor.conformance.{module}" for module in _REWRITTEN))
