"""Unique keys: at most one job of a queue holds one, and for exactly as long as it should."""

from __future__ import annotations

from conveyor.conformance.contract.unique_keys.holding import Holding
from conveyor.conformance.contract.unique_keys.lapsing import Lapsing
from conveyor.conformance.contract.unique_keys.retaking import Retaking


class UniqueKeys(Holding, Lapsing, Retaking):
    """Everything about unique keys."""
