"""Flow behaviour: FlowProducer, Job and Worker on the store, as users of flows see them."""

from __future__ import annotations

from conveyor.conformance.behaviour.flows.adding import AddingFlows
from conveyor.conformance.behaviour.flows.cancelling import Cancelling
from conveyor.conformance.behaviour.flows.endings import Endings
from conveyor.conformance.behaviour.flows.growing import Growing
from conveyor.conformance.behaviour.flows.reading import Reading
from conveyor.conformance.behaviour.flows.retrying import Retrying
from conveyor.conformance.behaviour.short_leases import Deciding
from conveyor.conformance.concurrency.flow_model import RandomFlows


class AllFlowBehaviour(AddingFlows, Endings, Reading, Retrying, Cancelling, Growing, RandomFlows, Deciding):
    """Flows."""
