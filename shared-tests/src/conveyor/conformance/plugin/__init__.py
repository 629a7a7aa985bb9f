"""The pytest plugin of the suite: its options, the places of its stores, and its report."""

from __future__ import annotations

from conveyor.conformance.plugin.hooks import Fresh, Place
from conveyor.conformance.plugin.skips import LEFT_OUT, NOT_OFFERED

__all__ = ["LEFT_OUT", "NOT_OFFERED", "Fresh", "Place"]
