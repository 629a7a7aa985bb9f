"""Flow behaviour: FlowProducer, Job and Worker on the store, as users of flows see them."""

from __future__ import annotations

from conveyor.conformance.behaviour.flow_adding import AddingFlows
from conveyor.conformance.behaviour.flow_endings import Endings
from conveyor.conformance.behaviour.flow_growing import Growing
from conveyor.conformance.behaviour.flow_living import Cancelling, Reading, Retrying
from conveyor.conformance.behaviour.short_holds import Deciding
from conveyor.conformance.concurrency.flow_model import RandomFlows


class AllFlowBehaviour(AddingFlows, Endings, Reading, Retrying, Cancelling, Growing, RandomFlows, Deciding):
    """Flows."""
