"""What follows in a family from the end of one of its jobs: parents decided, children ended or removed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from conveyor.core._jobs import remove_and_release
from conveyor.core._jobs.descendants import PAGE, by_queue, cancel_descendants
from conveyor.core._jobs.parent_outcome import REMOVED, parent_outcome
from conveyor.core._jobs.refusals import concerns_store, settle_in_parts, write_in_parts
from conveyor.core._jobs.report import Failure, Report
from conveyor.core._jobs.run_log import log_runs
from conveyor.core._jobs.settlements import (
    Settlement,
    cancel_unrun,
    event_of,
    events_of,
    fail_undecodable,
    fail_unreadable,
)
from conveyor.core._jobs.short_leases import MOMENT, hold
from conveyor.core.events import JobDelayed, JobWaiting
from conveyor.core.job_options import JobOptions
from conveyor.core.store import JobKey, JobState, Outcome, Release, Retention, Where

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from conveyor.core._jobs.descendants import Publish
    from conveyor.core.clock import Clock
    from conveyor.core.store import JobRecord, Settled, Store


async def follow_up(
    store: Store, settlements: Sequence[Settlement], settled: Settled, clock: Clock, publish: Publish
) -> None:
    """Do what follows in their families from the ends of these jobs, up to the roots.

    Raises what was refused of that, once all the rest is done.
    """
    following = FollowUp()
    following.note(settlements, settled)
    refused: list[Exception] = []
    while following:
        refused += await following.run(store, clock, publish)
    for error in refused:
        raise error


@dataclass(slots=True)
class FollowUp:
    """What is still to be done for the families of jobs that have ended; doing it twice does no harm."""

    #: What the worker that settled them says about how long finished jobs are kept.
    keep: Retention | None = None
    #: Parents that have completed, or are gone: children kept for them may go.
    over: dict[JobKey, None] = field(default_factory=dict)
    #: Parents that were cancelled, whose children are to be.
    cancelled: dict[JobKey, None] = field(default_factory=dict)
    #: Parents whose outcome may be decided now.
    undecided: dict[JobKey, None] = field(default_factory=dict)
    #: Decisions about parents that are held for them.
    unwritten: list[Settlement] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.over or self.cancelled or self.undecided or self.unwritten)

    def note(self, settlements: Sequence[Settlement], settled: Settled) -> None:
        """Note what follows from these settlements, of which the store has applied some."""
        unknown_parents = False
        explained = set[JobKey | None]()
        for settlement in settlements:
            outcome = settlement.outcome
            if outcome.lease not in settled.applied or not outcome.state.terminal:
                continue
            explained.add(settlement.parent)
            if outcome.release is Release.ALL and settlement.parent is not None:
                self.undecided[settlement.parent] = None
            elif outcome.release is Release.ALL:
                unknown_parents = True
            if settlement.has_children:
                # One that has failed and is kept may be reopened, and read its children then.
                if outcome.state is JobState.COMPLETED or outcome.retention == REMOVED:
                    self.over[outcome.lease.key] = None
                if outcome.state is JobState.CANCELLED and outcome.retention != REMOVED:
                    self.cancelled[outcome.lease.key] = None
        if unknown_parents:
            # The parent of a job whose row cannot be read is known by being released.
            self.undecided.update(dict.fromkeys(key for key in settled.released if key not in explained))

    async def run(
        self, store: Store, clock: Clock, publish: Publish, *, lease: timedelta = MOMENT
    ) -> list[Exception]:
        """Do a round of it, holding parents for `lease` at most, and return what was refused for good.

        Raises what concerns the store; what is done by then is not done again.
        """
        refused = await _each(self.cancelled, lambda key: cancel_descendants(store, key, clock, publish))
        refused += await _each(self.over, lambda key: _sweep(store, key, clock, publish))
        refused += await self._write(store, clock, publish)
        for queue, ids in by_queue(list(self.undecided)[:PAGE]).items():
            refused += await self._decide(store, queue, ids, clock, lease)
            refused += await self._write(store, clock, publish)
        return refused

    async def _decide(
        self, store: Store, queue: str, ids: Sequence[str], clock: Clock, lease: timedelta
    ) -> list[Exception]:
        """Claim these parents, if they can be, and decide about each."""
        refused: list[Exception] = []
        troubles: list[Exception] = []

        async def claim(part: Sequence[str]) -> None:
            keys = dict.fromkeys(JobKey(queue, job_id) for job_id in part)
            for key in keys:  # before the claim, as in `_each`
                self.undecided.pop(key, None)
            try:
                claimed = await hold(store, queue, part, lease=lease)
            except BaseException:
                self.undecided |= keys
                raise
            self.unwritten += [
                fail_unreadable(row, clock.now(), keep=self.keep) for row in claimed.undecodable
            ]
            found = await asyncio.gather(
                *(_decided(store, record, clock, self.keep) for record in claimed.jobs),
                return_exceptions=True,
            )
            for record, settlement in zip(claimed.jobs, found, strict=True):
                if isinstance(settlement, Settlement):
                    self.unwritten.append(settlement)
                    continue
                self.unwritten.append(Settlement(outcome=Outcome.given_back(record)))
                if not isinstance(settlement, Exception):
                    raise settlement
                if concerns_store(settlement):
                    self.undecided[record.key] = None  # it goes back, and is looked at again
                    troubles.append(settlement)
                else:
                    refused.append(settlement)

        async def leave(job_id: str, error: Exception) -> None:
            self.undecided.pop(JobKey(queue, job_id), None)
            refused.append(error)

        await write_in_parts(ids, claim, leave)
        for trouble in troubles:
            raise trouble
        return refused

    async def _write(self, store: Store, clock: Clock, publish: Publish) -> list[Exception]:
        settlements = self.unwritten
        if not settlements:
            return []
        settled, refused = await settle_in_parts(store, [settlement.outcome for settlement in settlements])
        self.unwritten = []
        leases = {settlement.outcome.lease for settlement in settlements}
        # The leases of the others ended meanwhile: who has them now decides, or they are decided again.
        self.undecided |= dict.fromkeys(lease.key for lease in leases - settled.applied - refused.keys())
        self.note(settlements, settled)
        log_runs((one for one in settlements if one.outcome.lease in settled.applied), None)
        await publish(events_of(settlements, settled, clock.now()))
        return list(refused.values())


async def _each(noted: dict[JobKey, None], do: Callable[[JobKey], Awaitable[None]]) -> list[Exception]:
    """Do something for each, and return what was refused: it holds up no other."""
    refused: list[Exception] = []
    while noted:
        key = next(iter(noted))
        # Before it is done: what is noted meanwhile stays, be it of the same job.
        # Pinned by test_families_are_tidied_that_end_while_another_one_is.
        del noted[key]
        try:
            await do(key)
        except Exception as error:
            if concerns_store(error):
                noted[key] = None
                raise
            refused.append(error)
    return refused


async def _sweep(store: Store, parent: JobKey, clock: Clock, publish: Publish) -> None:
    """Remove the children that were kept for a parent."""
    kept = Where(parent=parent, expired=True)
    while (deleted := await store.delete(kept, limit=PAGE)).removed:
        await publish(await remove_and_release.events_of(store, deleted, clock))


async def _decided(store: Store, record: JobRecord, clock: Clock, keep: Retention | None) -> Settlement:
    try:
        report, options = Report.for_run(record), JobOptions.decode(record.options)
    except ValueError as error:
        text = f"what is stored of the job cannot be read: {error}"
        failure = Failure(type="undecodable", message=text)
        return fail_undecodable(record, failure, clock.now(), keep=keep)
    if record.cancel_requested:
        return cancel_unrun(record, report, clock.now(), keep=keep)
    settlement = await parent_outcome(store, record, report, options, clock, keep=keep)
    if settlement is not None:
        return settlement
    later = record.run_at is not None
    kind = JobDelayed if later else JobWaiting
    return Settlement(
        outcome=Outcome.given_back(record),
        events=() if record.pending else (event_of(kind, record, clock.now()),),
    )
