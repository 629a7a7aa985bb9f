"""Whether a job that failed runs again, and when."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from conveyor.core._jobs.report import Report
    from conveyor.core.durations import Duration
    from conveyor.core.job_options import JobOptions
    from conveyor.core.store import JobRecord

_log: Final = logging.getLogger("conveyor.worker")
_AT_ONCE: Final = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Decides for one worker; `random` gives numbers from 0 up to 1."""

    strategies: Mapping[str, Callable[[int], Duration]]
    random: Callable[[], float]

    def delay(
        self, record: JobRecord, report: Report, options: JobOptions, *, asked: timedelta | None = None
    ) -> timedelta | None:
        """How long a job waits before it runs again, its failure counted; None: it has failed for good.

        What its handler `asked` for goes before the job's backoff.
        """
        if report.discarded or report.failures >= options.attempts:
            return None
        return self._backoff(record, report, options) if asked is None else asked

    def _backoff(self, record: JobRecord, report: Report, options: JobOptions) -> timedelta:
        backoff = options.backoff
        if backoff is None:
            return _AT_ONCE
        try:
            return backoff.wait(report.failures, self.random(), self.strategies)
        except Exception as error:  # noqa: BLE001 - a strategy is the user's code: it may raise anything
            _log.warning("job %s waits its plain delay: %s", record.id, error)
            plain = Backoff("fixed", backoff.delay, backoff.max_delay, backoff.jitter)
            return plain.wait(report.failures, self.random(), {})
