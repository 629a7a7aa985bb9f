"""Flows: parents that wait for their children, and children that release them, once."""

from __future__ import annotations

from conveyor.conformance.contract.flows.awaiting import Awaiting
from conveyor.conformance.contract.flows.changing import Changing
from conveyor.conformance.contract.flows.held import HeldParents
from conveyor.conformance.contract.flows.inserting import InsertingFamilies
from conveyor.conformance.contract.flows.releasing import Releasing
from conveyor.conformance.contract.flows.reopening import Reopening


class Flows(InsertingFamilies, Releasing, Changing, Reopening, Awaiting, HeldParents):
    """Parents and children."""
