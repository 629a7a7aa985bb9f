"""Queue behaviour: `Worker` on the store, as users see it."""

from __future__ import annotations

from conveyor.conformance.behaviour.workers.calls import HandlerCalls
from conveyor.conformance.behaviour.workers.losses import Losses
from conveyor.conformance.behaviour.workers.raising import Raising
from conveyor.conformance.behaviour.workers.runs import Runs
from conveyor.conformance.behaviour.workers.several import RunningWorkers


class Workers(Runs, Raising, HandlerCalls, Losses, RunningWorkers):
    """Workers that run jobs."""
