"""From a claimed job to its run; or to what becomes of a job that does not run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conveyor.core._engine.run import Run
from conveyor.core._jobs.parent_outcome import parent_outcome
from conveyor.core._jobs.report import Failure, Report
from conveyor.core._jobs.settlements import Settlement, cancel_unrun, fail_undecodable, fail_unreadable
from conveyor.core.events import JobWaiting
from conveyor.core.job_options import JobOptions
from conveyor.core.store import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from conveyor.core._engine.handlers import Payloads
    from conveyor.core._engine.outcome_policy import OutcomePolicy
    from conveyor.core._engine.run import LeaseKeeper
    from conveyor.core._engine.worker_context import WorkerContext
    from conveyor.core._engine.worker_options import Rules
    from conveyor.core.store import JobRecord, Undecodable


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOpener:
    """Reads what is stored of claimed jobs."""

    context: WorkerContext
    payloads: Payloads
    policy: OutcomePolicy
    rules: Rules
    heartbeat: LeaseKeeper

    def open(self, record: JobRecord) -> Run | Settlement:
        """The run of a claimed job; or what becomes of it without one."""
        now, keep = self.context.clock.now(), self.policy.keep
        try:
            report = Report.for_run(record)
            options = JobOptions.decode(record.options)
            if record.cancel_requested:
                return cancel_unrun(record, report, now, keep=keep)
            if record.stalled > self.rules.max_stalled:
                return self.policy.stalled(record, report, options, now)
            data = self.payloads.of(record.name).decode(record.payload)
        except Exception as error:  # noqa: BLE001 - a validator of the user's may raise anything: it fails this job alone
            text = f"what is stored of the job cannot be read: {Failure.of(error).message}"
            failure = Failure(type="undecodable", message=text)
            return fail_undecodable(record, failure, now, keep=keep)
        return Run(
            record=record,
            report=report,
            settings=options,
            data=data,
            heartbeat=self.heartbeat,
            loop=asyncio.get_running_loop(),
        )

    def fail_unreadable(self, row: Undecodable) -> Settlement:
        """What becomes of a claimed job of which the store cannot read what it has stored."""
        return fail_unreadable(row, self.context.clock.now(), keep=self.policy.keep)

    async def parent_outcomes(
        self, runs: Iterable[Run]
    ) -> list[tuple[Run, Settlement | BaseException | None]]:
        """What becomes of those that are parents, or what keeps that from being known; None: they may run."""
        parents = [run for run in runs if run.settings.children or run.report.children]
        store, clock, keep = self.context.store, self.context.clock, self.policy.keep
        found = await asyncio.gather(
            *(
                parent_outcome(store, run.record, run.report, run.settings, clock, keep=keep)
                for run in parents
            ),
            return_exceptions=True,
        )
        return list(zip(parents, found, strict=True))


def give_back(record: JobRecord, now: datetime, *, quietly: bool = False) -> Settlement:
    """Return a job to the store as if never claimed; with `quietly` no worker is woken for it."""
    event = JobWaiting(queue_name=record.queue, job_id=record.id, at=now)
    return Settlement(outcome=Outcome.given_back(record), events=() if quietly else (event,))
