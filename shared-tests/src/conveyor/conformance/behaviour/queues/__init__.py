"""Queue behaviour: `Queue` and `Job` on the store, as users see them."""

from __future__ import annotations

from conveyor.conformance.behaviour.arguments import Arguments
from conveyor.conformance.behaviour.data import Data
from conveyor.conformance.behaviour.ended_runs import EndedRuns
from conveyor.conformance.behaviour.executors import Executors
from conveyor.conformance.behaviour.keep import KeepingFinishedJobs
from conveyor.conformance.behaviour.outside_writes import OutsideWrites
from conveyor.conformance.behaviour.queues.adding import Adding
from conveyor.conformance.behaviour.queues.deduplicating import Deduplicating
from conveyor.conformance.behaviour.queues.managing import Managing
from conveyor.conformance.behaviour.queues.waiting import Waiting
from conveyor.conformance.behaviour.refusals import Refusals
from conveyor.conformance.behaviour.removals import Removals
from conveyor.conformance.behaviour.short_leases import ShortLeases
from conveyor.conformance.behaviour.workers import Workers


class QueueBehaviour(
    Adding,
    Arguments,
    Data,
    Deduplicating,
    Managing,
    Waiting,
    Workers,
    EndedRuns,
    Executors,
    Refusals,
    ShortLeases,
    OutsideWrites,
    Removals,
    KeepingFinishedJobs,
):
    """Queues and workers."""
