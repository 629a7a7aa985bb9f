"""Limits: never more active jobs, and never more starts in a window, than they say."""

from __future__ import annotations

from conveyor.conformance.contract.limits.active import Active, LimitsAndPauses
from conveyor.conformance.contract.limits.rates import Rates


class Limits(Active, Rates, LimitsAndPauses):
    """Limits."""
