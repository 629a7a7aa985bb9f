"""Sets of jobs: finding, counting, changing and removing them."""

from __future__ import annotations

from conveyor.conformance.contract.sets.alike import Alike
from conveyor.conformance.contract.sets.changing import Changing
from conveyor.conformance.contract.sets.counting import Counting
from conveyor.conformance.contract.sets.expiring import Expiring
from conveyor.conformance.contract.sets.finding import Finding
from conveyor.conformance.contract.sets.paging import Paging
from conveyor.conformance.contract.sets.removing import Removing


class Sets(Alike, Finding, Expiring, Paging, Counting, Changing, Removing):
    """Sets of jobs."""
