"""What the tests of `explain` work with."""

from __future__ import annotations

from conveyor.conformance.kit.bench import Bench
from conveyor.core import explanation
from conveyor.core.explanation import Reason

#: Nobody runs in the tests that have no worker.
NO_WORKERS = explanation.NoWorker(job_name=None, others=0)
NEXT = explanation.InLine(ahead=0, exact=True)


async def why(bench: Bench, id: str) -> tuple[Reason, ...]:
    """The reasons for a job of queue "q"."""
    return (await bench.queue.explain(id)).reasons
