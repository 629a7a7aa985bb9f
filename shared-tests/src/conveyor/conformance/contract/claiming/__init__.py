"""Claiming: who gets which job, in what order, and what the claim leaves on it."""

from __future__ import annotations

from conveyor.conformance.contract.claiming.leases import Leases
from conveyor.conformance.contract.claiming.narrowing import Narrowing
from conveyor.conformance.contract.claiming.order import ClaimOrder
from conveyor.conformance.contract.claiming.waits import Waits


class Claiming(Leases, ClaimOrder, Narrowing, Waits):
    """Everything about `claim`."""
