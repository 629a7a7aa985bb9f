"""A parent's fate from its children's, and what follows in a family from the end of one of its jobs.

A child that fails may be the end of its parent's waiting. What becomes of the parent is decided by whoever
claims it next: by the ordinary claim of a worker, before it runs the job, and by who wrote the child's
outcome at once, by its id. Both read the children first, so that a crash between the two steps loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from conveyor.core._engine.decisions import NOBODY, Judge
from conveyor.core._engine.run_log import log_runs
from conveyor.core._engine.settler import Verdict, events_of
from conveyor.core._jobs import remove
from conveyor.core._jobs.dependencies import FAILED, UNFINISHED
from conveyor.core._jobs.descendants import PAGE, by_queue, cancel_descendants
from conveyor.core._jobs.leases import MOMENT, claim_of
from conveyor.core._jobs.refusals import concerns_store, settle_in_parts, write_in_parts
from conveyor.core._jobs.report import Failure, Report
from conveyor.core.events import JobDelayed, JobWaiting
from conveyor.core.options import JobOptions
from conveyor.core.store import Change, JobKey, JobState, Outcome, Release, Retention, Where

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from conveyor.core._engine.error_backoff import Outage
    from conveyor.core._engine.publisher import Announcer
    from conveyor.core._jobs.descendants import Tell
    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.store import JobRecord, Settled, Store

_log: Final = logging.getLogger("conveyor.flow")

#: Removed in the step that ends it.
REMOVED: Final = Retention(age=timedelta(0))
#: What the error of a job is called that failed because a child of its own did.
CHILD_FAILED: Final = "child-failed"
#: A parent that was released although a child of its own goes on is looked at again after this.
_AGAIN: Final = timedelta(seconds=1)


async def fate(
    store: Store, record: JobRecord, report: Report, options: JobOptions, clock: Clock, *, judge: Judge
) -> Verdict | None:
    """What becomes of a parent just claimed, by its children; None if it may run."""
    counts = await store.count(Where(parent=record.key))
    failed = sum(number for (_, state), number in counts.items() if state in FAILED)
    if failed and options.fail_parent_on_child_failure == "remove":
        return await _removed(store, record)
    if failed and options.fail_parent_on_child_failure == "fail":
        report.error = await _reason(store, record)
        return judge.gone(record, report, options, report.error, clock.now())
    if any(state in UNFINISHED for _, state in counts):
        # Rare: a child that had failed was retried at this very moment, or failed without its policy being
        # legible, or the job was retried by hand before its children had ended.
        # Pinned by test_a_parent_released_too_early_does_not_run_before_its_children_have_ended.
        outcome = Outcome.snoozed(record, report.encode(), delay=_AGAIN)
        if record.pending:
            outcome = Outcome.given_back(record)
        event = JobDelayed(queue_name=record.queue, job_id=record.id, at=clock.now())
        return Verdict(outcome=outcome, events=() if record.pending else (event,))
    return None


async def _removed(store: Store, record: JobRecord) -> Verdict:
    if record.holds_key and record.unique_for is not None:
        # A job that holds its key outlives its retention.
        where = Where(queue=record.queue, ids=frozenset({record.id}), unique_key=record.unique_key)
        await store.update(where, Change(release_key=True))
    return Verdict(
        outcome=Outcome.cancelled(record, record.report, retention=REMOVED),
        parent=record.parent,
        has_children=True,
    )


async def _reason(store: Store, record: JobRecord) -> Failure:
    """Why a parent fails: the first child that did, or what was the reason of that."""
    found = await store.find(Where(parent=record.key, states=FAILED), limit=1)
    if not found:
        return Failure(type=CHILD_FAILED, message="a child failed; its row cannot be read")
    child = found[0]
    what = f"job {child.id!r} ({child.name}) of queue {child.queue!r}"
    if child.state is JobState.CANCELLED:
        return Failure(type=CHILD_FAILED, message=f"child failed: {what} was cancelled")
    error = failure_of(child)
    if error.type == CHILD_FAILED:
        return error
    return Failure(type=CHILD_FAILED, message=f"child failed: {what}: {error.message}")


def failure_of(record: JobRecord) -> Failure:
    """Why a job failed or was cancelled."""
    if record.state is JobState.CANCELLED:
        return Failure(type="cancelled", message="cancelled")
    try:
        error = Report.of(record).error
    except (ValueError, TypeError, LookupError):
        error = None
    return error or Failure(type="unknown", message="unknown")


async def follow_up(
    store: Store, verdicts: Sequence[Verdict], settled: Settled, clock: Clock, tell: Tell
) -> None:
    """Do what follows in their families from these jobs' ends, up to the roots.

    Raises what was refused of that, once all the rest is done.
    """
    consequences = Consequences()
    consequences.note(verdicts, settled)
    refused: list[Exception] = []
    while consequences:
        refused += await consequences.draw(store, clock, tell)
    for error in refused:
        raise error


@dataclass(slots=True)
class Consequences:
    """What is still to be done for the families of jobs that have ended; doing it twice does no harm."""

    #: Parents that have completed, or are gone: children kept for them may go.
    over: dict[JobKey, None]
    #: Parents that were cancelled, whose children are to be.
    cancelled: dict[JobKey, None]
    #: Parents whose fate may be decided now.
    undecided: dict[JobKey, None]
    #: Decisions about parents that are held for them.
    unwritten: list[Verdict]

    #: Decides about them.
    judge: Judge

    def __init__(self, judge: Judge = NOBODY) -> None:
        self.over, self.cancelled, self.undecided, self.unwritten = {}, {}, {}, []
        self.judge = judge

    def __bool__(self) -> bool:
        return bool(self.over or self.cancelled or self.undecided or self.unwritten)

    def note(self, verdicts: Sequence[Verdict], settled: Settled) -> None:
        """Take in what was settled."""
        strays = False
        explained = set[JobKey | None]()
        for verdict in verdicts:
            outcome = verdict.outcome
            if outcome.lease not in settled.applied or not outcome.state.terminal:
                continue
            explained.add(verdict.parent)
            if outcome.release is Release.ALL and verdict.parent is not None:
                self.undecided[verdict.parent] = None
            elif outcome.release is Release.ALL:
                strays = True
            if verdict.has_children:
                # One that has failed and is kept may be reopened, and read its children then.
                if outcome.state is JobState.COMPLETED or outcome.retention == REMOVED:
                    self.over[outcome.lease.key] = None
                if outcome.state is JobState.CANCELLED and outcome.retention != REMOVED:
                    self.cancelled[outcome.lease.key] = None
        if strays:
            # The parent of a job whose row cannot be read is known by being released.
            self.undecided.update(dict.fromkeys(key for key in settled.released if key not in explained))

    async def draw(
        self, store: Store, clock: Clock, tell: Tell, *, lease: timedelta = MOMENT
    ) -> list[Exception]:
        """Do one round of it, holding parents for `lease` at most, and return what was refused for good.

        Raises what concerns the store; what is done by then is not done again.
        """
        refused = await _each(self.cancelled, lambda key: cancel_descendants(store, key, clock, tell))
        refused += await _each(self.over, lambda key: _sweep(store, key, clock, tell))
        refused += await self._write(store, clock, tell)
        for queue, ids in by_queue(list(self.undecided)[:PAGE]).items():
            refused += await self._decide(store, queue, ids, clock, lease)
            refused += await self._write(store, clock, tell)
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
                claimed = await store.claim(claim_of(queue, part, lease=lease))
            except BaseException:
                self.undecided |= keys
                raise
            self.unwritten += [self.judge.unreadable(row, clock.now()) for row in claimed.undecodable]
            found = await asyncio.gather(
                *(_decided(store, record, clock, self.judge) for record in claimed.jobs),
                return_exceptions=True,
            )
            for record, verdict in zip(claimed.jobs, found, strict=True):
                if isinstance(verdict, Verdict):
                    self.unwritten.append(verdict)
                    continue
                self.unwritten.append(Verdict(outcome=Outcome.given_back(record)))
                if not isinstance(verdict, Exception):
                    raise verdict
                if concerns_store(verdict):
                    self.undecided[record.key] = None  # it goes back, and is looked at again
                    troubles.append(verdict)
                else:
                    refused.append(verdict)

        async def leave(job_id: str, error: Exception) -> None:
            self.undecided.pop(JobKey(queue, job_id), None)
            refused.append(error)

        await write_in_parts(ids, claim, leave)
        for trouble in troubles:
            raise trouble
        return refused

    async def _write(self, store: Store, clock: Clock, tell: Tell) -> list[Exception]:
        verdicts = self.unwritten
        if not verdicts:
            return []
        settled, refused = await settle_in_parts(store, [verdict.outcome for verdict in verdicts])
        self.unwritten = []
        leases = {verdict.outcome.lease for verdict in verdicts}
        # The hold of the others lapsed meanwhile: who has them now decides, or nobody does yet.
        self.undecided |= dict.fromkeys(lease.key for lease in leases - settled.applied - refused.keys())
        self.note(verdicts, settled)
        log_runs((v for v in verdicts if v.outcome.lease in settled.applied), None)
        await tell(events_of(verdicts, settled, clock.now()))
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


async def _sweep(store: Store, parent: JobKey, clock: Clock, tell: Tell) -> None:
    """Remove the children that were kept for a parent."""
    kept = Where(parent=parent, expired=True)
    while (deleted := await store.delete(kept, limit=PAGE)).removed:
        await tell(await remove.events_of(store, deleted, clock))


async def _decided(store: Store, record: JobRecord, clock: Clock, judge: Judge) -> Verdict:
    try:
        report, options = Report.for_run(record), JobOptions.decode(record.options)
    except (ValueError, TypeError, LookupError) as error:
        text = f"what is stored of the job cannot be read: {error}"
        return judge.unrunnable(record, Failure(type="undecodable", message=text), clock.now())
    if record.cancel_requested:
        return judge.cancelled_unrun(record, report, clock.now())
    verdict = await fate(store, record, report, options, clock, judge=judge)
    if verdict is not None:
        return verdict
    later = record.run_at is not None
    kind = JobDelayed if later else JobWaiting
    return Verdict(
        outcome=Outcome.given_back(record),
        events=() if record.pending else (kind(queue_name=record.queue, job_id=record.id, at=clock.now()),),
    )


class Parents:
    """Draws the consequences of what a worker settles, beside its other work."""

    def __init__(
        self,
        *,
        store: Store,
        lease: timedelta,
        judge: Judge,
        announcer: Announcer,
        outage: Outage,
        clock: Clock,
        loop_ends: Callable[[], bool],
    ) -> None:
        self._store = store
        self._lease = lease
        self._announcer = announcer
        self._outage = outage
        self._clock = clock
        self._loop_ends = loop_ends
        self._consequences = Consequences(judge)
        self._task: asyncio.Task[None] | None = None
        self._abandoned = False

    @property
    def busy(self) -> bool:
        """Whether something is still to be done."""
        return self._task is not None and not self._task.done()

    def note(self, verdicts: Sequence[Verdict], settled: Settled) -> None:
        """Draw the consequences of these soon; after `abandon`, never: who claims the parents will."""
        self._consequences.note(verdicts, settled)
        if self._consequences and not self.busy and not self._abandoned and not self._loop_ends():
            self._task = asyncio.get_running_loop().create_task(self._draw())

    async def flush(self) -> None:
        """Return when everything noted so far is done."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Stop trying."""
        self._abandoned = True
        if self._task is not None:
            self._task.cancel()

    async def _draw(self) -> None:
        while self._consequences and not self._abandoned:
            try:
                refused = await self._consequences.draw(
                    self._store, self._clock, self._tell, lease=self._lease
                )
            except Exception as error:  # noqa: BLE001 - a bug must not hold up the worker: logged, and left to others
                if concerns_store(error):
                    await self._outage.wait(error)
                    continue
                _log.exception("parents were not looked at; who claims them will")
                self._consequences.unwritten = []  # their holds lapse; what is kept would fail again at once
            else:
                self._outage.over()
                for one in refused:
                    _log.error("a parent was not looked at; who claims it will", exc_info=one)

    async def _tell(self, events: list[Event]) -> None:
        self._announcer.tell(events)
