"""Publishing what has changed at a queue because time has passed: jobs that are due, or had stalled."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from conveyor.core._engine.settler import shown
from conveyor.core.events import JobStalled, JobWaiting

if TYPE_CHECKING:
    from conveyor.core._engine.worker_context import WorkerContext
    from conveyor.core.store import Advanced

_log: Final = logging.getLogger("conveyor.worker")


def publish_advanced(context: WorkerContext, advanced: Advanced) -> bool:
    """Publish which jobs are waiting now, and log those that had stalled; says whether there are any."""
    at = context.clock.now()
    waiting = (*advanced.stalled, *advanced.unstarted, *advanced.due)
    if waiting:
        context.publisher.publish(
            [
                *(JobStalled(queue_name=key.queue, job_id=key.id, at=at) for key in advanced.stalled),
                *(JobWaiting(queue_name=key.queue, job_id=key.id, at=at) for key in waiting),
            ]
        )
    if advanced.stalled:
        _log.warning(
            "%d job(s) had stalled: the lease ran out, and they were taken back: %s",
            len(advanced.stalled),
            shown(key.id for key in advanced.stalled),
        )
    return bool(waiting)
