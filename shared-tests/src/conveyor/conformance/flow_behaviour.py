"""Flow behaviour: FlowProducer, Job and Worker on the store, as users of flows see them."""

from __future__ import annotations

from conveyor.conformance.flow_adding import AddingFlows
from conveyor.conformance.flow_endings import Endings
from conveyor.conformance.flow_growing import Growing
from conveyor.conformance.flow_living import Cancelling, Reading, Retrying
from conveyor.conformance.flow_model import RandomFlows
from conveyor.conformance.short_holds import Deciding


class AllFlowBehaviour(AddingFlows, Endings, Reading, Retrying, Cancelling, Growing, RandomFlows, Deciding):
    """Flows."""
