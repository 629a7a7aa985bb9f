"""The pytest plugin of the suite: its options, the places of its stores, and its report."""

from __future__ import annotations

from conveyor.conformance.plugin.areas import LEFT_OUT, NOT_OFFERED
from conveyor.conformance.plugin.places import Fresh, Place

__all__ = ["LEFT_OUT", "NOT_OFFERED", "Fresh", "Place"]
