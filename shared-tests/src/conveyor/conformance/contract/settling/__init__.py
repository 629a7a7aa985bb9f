"""Settling: what a lease's holder decided is applied once, and only while the lease is held."""

from __future__ import annotations

from conveyor.conformance.contract.settling.applying import Applying
from conveyor.conformance.contract.settling.ending import Ending
from conveyor.conformance.contract.settling.repeating import Repeating
from conveyor.conformance.contract.settling.spawning import Spawning
from conveyor.conformance.contract.settling.stale import StaleOutcomes


class Settling(Applying, StaleOutcomes, Repeating, Ending, Spawning):
    """Everything about `settle`."""
