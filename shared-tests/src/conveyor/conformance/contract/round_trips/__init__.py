"""Round trips: what goes into a store comes out of it, equal."""

from __future__ import annotations

from conveyor.conformance.contract.round_trips.documents import Documents
from conveyor.conformance.contract.round_trips.names import Names
from conveyor.conformance.contract.round_trips.values import Values


class RoundTrips(Documents, Names, Values):
    """Round trips."""
