"""Flow behaviour."""

from conveyor.conformance.flow_endings import Endings


class AllFlowBehaviour(Endings):
    """Flows."""
