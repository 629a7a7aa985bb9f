"""Firing a queue's schedules: each due run becomes a job, in the step that moves its schedule on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core._engine.service_loop import Wakeup, run_service
from conveyor.core._jobs.ids import new_token
from conveyor.core._jobs.refusals import concerns_store, write_in_parts
from conveyor.core._jobs.settlements import event_for
from conveyor.core._jobs.short_leases import MOMENT
from conveyor.core._queue_names import schedules_of
from conveyor.core._schedules import due_runs
from conveyor.core._schedules.rows import (
    UNREADABLE,
    held_at,
    opened,
    release,
    take_over,
    unreadable,
)
from conveyor.core.store import TERMINAL, Claim, JobState, Outcome, Where

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from conveyor.core._engine.error_backoff import ErrorBackoff
    from conveyor.core._engine.worker_context import WorkerContext
    from conveyor.core._schedules.definition import ScheduleSpec, ScheduleState
    from conveyor.core.store import Claimed, JobRecord

_log: Final = logging.getLogger("conveyor.worker")

#: Schedules in one step.
_MOST: Final = 100
#: Seconds after which a look is worth its while without any event: one may be lost.
_LOOK: Final = 5.0
#: Seconds until a schedule that cannot be read, or reckoned here, is looked at again: others may be able to.
_LATER: Final = timedelta(minutes=1)
_LIVE: Final = frozenset(JobState) - TERMINAL


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Scheduler:
    """Fires the schedules of a queue. Any number of workers may: the store lets one of them have each run."""

    context: WorkerContext
    backoff: ErrorBackoff
    _wakeup: Wakeup = field(init=False, default_factory=Wakeup)
    #: Whether there were schedules when last looked.
    _any: bool = field(init=False, default=False)
    _unwritten: list[tuple[Outcome, ScheduleSpec | None]] = field(init=False, default_factory=list)
    _warned: set[str] = field(init=False, default_factory=set)

    @property
    def queue(self) -> str:
        """The queue that the schedules are in."""
        return schedules_of(self.context.queue)

    def wake(self) -> None:
        """Look now: a schedule was added or changed."""
        self._wakeup.set()

    def stop(self) -> None:
        """Let `loop` end."""
        self._wakeup.stop()

    async def loop(self) -> None:
        """Fire what is due until `stop`. The store's troubles are waited out."""
        await run_service(self.tick, self._wakeup, self.backoff)

    async def tick(self) -> float:
        """Fire what is due, and return the seconds until there is more, unless it is woken before."""
        await self._write()
        if not self._any and not await self.context.store.find(Where(queue=self.queue), limit=1):
            return _LOOK
        advanced = await self.context.store.advance({self.queue})
        claimed = await self.context.store.claim(
            Claim(
                queue=self.queue,
                count=_MOST,
                token=new_token(),
                lease=min(self.context.lease, MOMENT),
                worker=self.context.worker,
                started=False,
            )
        )
        got = len(claimed.jobs) + len(claimed.undecodable)
        if got:
            # These leases are not renewed: what cannot be decided goes back.
            # Pinned by test_a_schedule_whose_jobs_cannot_be_looked_at_fires_when_they_can.
            self._unwritten = [(Outcome.given_back(record), None) for record in claimed.jobs]
            self._unwritten = await self._decide(claimed)
            waits = [o.run_at - claimed.now for o, _ in self._unwritten if o.run_at is not None]
            await self._write()
        else:
            waits = [] if advanced.wait is None else [advanced.wait]
        if claimed.wait is not None:
            waits.append(claimed.wait)
        self._any = bool(waits)
        if got == _MOST:
            return 0.0
        return min([_LOOK, *(max(0.0, wait.total_seconds()) for wait in waits)])

    async def _decide(self, claimed: Claimed) -> list[tuple[Outcome, ScheduleSpec | None]]:
        """An outcome for every schedule that was claimed, whatever it says."""
        decided: list[tuple[Outcome, ScheduleSpec | None]] = []
        held: list[tuple[JobRecord, ScheduleSpec, ScheduleState]] = []
        for row in claimed.undecodable:
            _log.warning("the schedule %r cannot be read (%s): it has failed", row.lease.id, row.reason)
            decided.append((unreadable(row), None))
        for record in claimed.jobs:
            try:
                held.append((record, *opened(record)))
            except UNREADABLE as error:
                decided.append((self._left(record, error), None))
        made = {id for _, _, state in held for id in state.made}
        unfinished = await self._unfinished(frozenset(made)) if made else frozenset[str]()
        for record, spec, state in held:
            try:
                fired = due_runs.fire(
                    spec, state, held_at(record), unfinished=unfinished, random=self.context.random
                )
            except Exception as error:  # noqa: BLE001 - a zone unknown here, say: it stops no other one
                decided.append((self._left(record, error), None))
            else:
                decided.append((release(record, spec, fired.state, fired.jobs), spec))
        return decided

    def _left(self, record: JobRecord, error: Exception) -> Outcome:
        """Leave a schedule as it is, for later, or for a worker that can read it."""
        if record.id not in self._warned:
            self._warned.add(record.id)
            _log.warning("the schedule %r cannot be read here: %s; others go on", record.id, error)
        return Outcome.snoozed(record, record.report, delay=_LATER)

    async def _unfinished(self, ids: frozenset[str]) -> frozenset[str]:
        where = Where(queue=self.context.queue, ids=ids, states=_LIVE)
        return frozenset(record.id for record in await self.context.store.find(where, limit=len(ids)))

    async def _write(self) -> None:
        """Write what was decided; while the store is in trouble, it is kept for the next time."""
        if self._unwritten:
            await write_in_parts(self._unwritten, self._settle, self._refused)

    async def _refused(self, decided: tuple[Outcome, ScheduleSpec | None], error: Exception) -> None:
        """The store takes the others, and not this one: it is left for later, as it was before."""
        outcome, _ = decided
        if outcome.lease.id not in self._warned:
            self._warned.add(outcome.lease.id)
            _log.error("the schedule %r cannot be fired now", outcome.lease.id, exc_info=error)
        later = replace(outcome, report=None, run_at=None, delay=_LATER, spawn=())
        try:
            await self._settle([(outcome if outcome.state.terminal else later, None)])
        except Exception as again:
            if concerns_store(again):
                raise
            self._forget([outcome])  # its lease runs out, and it is looked at again

    def _forget(self, outcomes: Iterable[Outcome]) -> None:
        leases = {outcome.lease for outcome in outcomes}
        self._unwritten = [one for one in self._unwritten if one[0].lease not in leases]

    async def _settle(self, decided: Sequence[tuple[Outcome, ScheduleSpec | None]]) -> None:
        settled = await self.context.store.settle([outcome for outcome, _ in decided])
        self._forget(outcome for outcome, _ in decided)
        at = self.context.clock.now()
        self.context.publisher.publish([event_for(found, at) for found in settled.spawned if found.created])
        spawned = iter(settled.spawned)
        for outcome, spec in decided:
            if outcome.lease not in settled.applied or spec is None:
                continue
            # A call that is repeated does not say what it spawned.
            for job, found in zip(outcome.spawn, spawned, strict=False):
                await take_over(self.context.store, spec, job, found)
