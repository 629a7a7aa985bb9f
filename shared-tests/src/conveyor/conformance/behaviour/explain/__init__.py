"""Explain: why a job is not running."""

from __future__ import annotations

from conveyor.conformance.behaviour.explain.reasons import Reasons
from conveyor.conformance.behaviour.explain.workers import RunningOut


class Explaining(Reasons, RunningOut):
    """Explain."""
