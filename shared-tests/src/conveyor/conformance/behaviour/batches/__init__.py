"""Batches: a handler that takes many jobs, each of which keeps a life of its own."""

from __future__ import annotations

from conveyor.conformance.behaviour.batches.filling import Gathering
from conveyor.conformance.behaviour.batches.interruptions import Interruptions
from conveyor.conformance.behaviour.batches.outcomes import Outcomes


class Batches(Gathering, Outcomes, Interruptions):
    """Batches."""
