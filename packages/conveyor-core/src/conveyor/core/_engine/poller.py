"""When to claim, how many, and what to start: the worker's main loop."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from conveyor.core._engine.batching import Batcher, fill_by_group, fill_by_name, not_runnable
from conveyor.core._engine.run import Run, Stop
from conveyor.core._engine.service import MIN_RETRY_DELAY, Wakeup, run_service
from conveyor.core._engine.settler import shown
from conveyor.core._jobs.ids import new_token
from conveyor.core._jobs.outcomes import (
    Settlement,
    cancel_unrun,
    fail_undecodable,
    fail_unreadable,
)
from conveyor.core._jobs.parents import parent_outcome
from conveyor.core._jobs.report import Failure, Report
from conveyor.core.events import JobStalled, JobWaiting
from conveyor.core.options import JobOptions
from conveyor.core.store import Claim, Outcome, Stalled

if TYPE_CHECKING:
    from collections.abc import Iterable

    from conveyor.core._engine.decisions import Judge
    from conveyor.core._engine.error_backoff import ErrorBackoff
    from conveyor.core._engine.executor import Executor
    from conveyor.core._engine.handlers import Payloads
    from conveyor.core._engine.heartbeat import Heartbeat
    from conveyor.core._engine.publisher import Announcer
    from conveyor.core._engine.settler import Settler
    from conveyor.core.batch import Batch
    from conveyor.core.clock import Clock
    from conveyor.core.store import Claimed, JobRecord, Pause, Store

_log: Final = logging.getLogger("conveyor.worker")

#: Seconds of work that is claimed ahead, and the most jobs that are.
_AHEAD: Final = 0.1
_MOST_AHEAD: Final = 500
#: With this many outcomes not written yet, nothing more is claimed.
_MOST_UNWRITTEN: Final = 2_000
#: Seconds in which what is held may end before a job which has stalled before is claimed.
_CLEAR: Final = 0.5
#: Seconds that such a job waits here for the others to end; another worker may be idle.
_SOON: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a worker claims, as its options say. Durations in seconds, for its own waiting."""

    claim: Claim
    max_stalled: int
    stalled_interval: float
    poll_interval: float
    #: Jobs claimed ahead: a fixed number, or None for as many as the handlers' speed suggests.
    prefetch: int | None
    batch: Batch | None = None


class Poller:
    """Claims jobs and starts them."""

    def __init__(
        self,
        *,
        store: Store,
        rules: Rules,
        payloads: Payloads,
        executor: Executor,
        settler: Settler,
        heartbeat: Heartbeat,
        announcer: Announcer,
        judge: Judge,
        clock: Clock,
        backoff: ErrorBackoff,
    ) -> None:
        self._store = store
        self._rules = rules
        self._payloads = payloads
        self._executor = executor
        self._settler = settler
        self._heartbeat = heartbeat
        self._announcer = announcer
        self._judge = judge
        self._clock = clock
        self._backoff = backoff
        self._ready: deque[Run] = deque()
        limited = rules.claim.limit is not None or rules.claim.group_limit is not None
        self._batcher = Batcher.of(rules.batch, limited_by_group=limited)
        self._fill_at = 0.0
        #: The latest job here that had stalled before: it waits for its turn alone, has it, or has ended.
        self._isolated: Run | None = None
        #: Until when nothing is claimed, because the next job has stalled before; None: it has not.
        self._clear_until: float | None = None
        #: No claim is made before, whatever is received.
        self._not_before = 0.0
        self._wakeup = Wakeup()
        #: Whether ready jobs wait: for a full batch, or for others to end.
        self._lingers = True
        self._claim_at = 0.0
        self._advance_at = 0.0
        self._advanced_at = 0.0
        #: Whether it was woken since the latest claim, the latest advance, began.
        self._woken = self._due_sooner = False
        #: The pauses that were received since the latest claim began: it may not have seen them.
        self._paused_since: set[Pause] = set()
        #: The jobs whose cancellation was received since then; None once what that claim brought is held.
        self._cancelled_since: set[str] | None = None
        self.paused = False

    @property
    def ready(self) -> int:
        """How many jobs are claimed and not started; one whose lease was lost goes when a slot is free."""
        return sum(run.stop is not Stop.LEASE_LOST for run in self._ready)

    def wake(self) -> None:
        """There may be jobs: claim now, if there is room."""
        self._claim_at = self._fill_at = 0.0
        self._woken = True
        self._wakeup.set()

    def stop_lingering(self) -> None:
        """Start ready jobs without lingering for a full batch."""
        self._lingers = False
        self._batcher.linger = 0.0

    def wake_for_time(self) -> None:
        """A job may be due soon: look when."""
        self._advance_at = 0.0
        self._due_sooner = True
        self._wakeup.set()

    def freed(self) -> None:
        """A slot came back, or an outcome was written."""
        self._wakeup.set()

    def written(self) -> None:
        """Claim or start the job that waits until nothing else is held, if this was the last of it."""
        if self._alone or self._clear_until is not None:
            self._wakeup.set()

    def stop(self) -> None:
        """Claim no more; `loop` ends."""
        self._wakeup.stop()

    async def loop(self) -> None:
        """Claim and start jobs until `stop`. The store's troubles are waited out."""
        await run_service(self.tick, self._wakeup, self._backoff)

    async def tick(self) -> float:
        """Let time pass if it is time for that, start what is ready, claim what there is room for.

        Returns the seconds until there is something to do, unless it is woken before.
        """
        now = self._clock.monotonic()
        if now >= self._advance_at:
            await self._advance()
        self._start()
        self._return_hoarded()
        self._return_isolated()
        wanted = self._wanted()
        if wanted > 0 and self._clock.monotonic() >= self._claim_at:
            await self._claim(wanted)
            await self._fill_batches()
            self._start()
            wanted = self._wanted()
        elif self._clock.monotonic() >= self._fill_at:
            await self._fill_batches()
            self._start()
        now = self._clock.monotonic()
        until_claim = self._claim_at - now if wanted > 0 else self._rules.poll_interval
        times = [until_claim, self._until_look(now), self._advance_at - now]
        if self._clear_until is not None and now < self._clear_until:
            times.append(self._clear_until - now)
        return max(0.0, min(times))

    def _until_look(self, now: float) -> float:
        if not self._ready or self._rules.batch is None:
            return _AHEAD if self._ready else self._rules.poll_interval
        until_due = self._batcher.wait(self._ready, now)
        if until_due <= 0:  # they wait for a slot, and it is woken when one is free
            return self._rules.poll_interval
        until_fill = self._fill_at - now if self._batcher.unfilled(self._ready) else math.inf
        return min(until_due, max(0.0, until_fill), self._rules.poll_interval)

    def give_back(self, runs: Iterable[Run] | None = None, *, quietly: bool = False) -> None:
        """Return what has not started (or these of it) to the store, as if never claimed.

        With `quietly` nobody is woken for it.
        """
        given = set(self._ready if runs is None else runs)
        leaving = [run for run in self._ready if run in given]
        self._ready = deque(run for run in self._ready if run not in given)
        for run in leaving:
            run.ended = True
            event = JobWaiting(queue_name=run.record.queue, job_id=run.record.id, at=self._clock.now())
            events = () if quietly else (event,)
            self._settler.put(Settlement(outcome=Outcome.given_back(run.record), events=events))

    def pause_received(self, what: Pause) -> None:
        """What is paused and has not started goes back, and so does what a claim on its way brings of it."""
        self._paused_since.add(what)
        self.give_back(run for run in self._ready if _covers(what, run))

    def cancel_received(self, job_id: str) -> None:
        """A job that is not held is to be cancelled: a claim on its way may bring it."""
        if self._cancelled_since is not None:
            self._cancelled_since.add(job_id)

    # -------------------------------------------------------------- claiming

    def _wanted(self) -> int:
        """How many jobs to claim now."""
        if self.paused or self._wakeup.stopping or self._alone or self._settler.backlog >= _MOST_UNWRITTEN:
            return 0
        if self._clock.monotonic() < self._not_before or self._clears:
            return 0
        ahead = self._ahead()
        free = self._executor.free
        # Refilled when half is used up, so that claims come in batches.
        if ahead and free - len(self._ready) <= 0 and len(self._ready) > ahead // 2:
            return 0
        return max(0, self._batcher.capacity(free, self._ready) + ahead)

    def _ahead(self) -> int:
        if self._rules.prefetch is not None:
            return self._rules.prefetch
        if self._executor.typical is None:
            return 0
        # A slot whose handler has been running for longer than that will not need another job soon.
        slots = self._executor.concurrency - self._executor.busy_for(_AHEAD)
        return min(_MOST_AHEAD, int(_AHEAD * slots / max(self._executor.typical, 1e-6)))

    async def _claim(self, wanted: int) -> None:
        alone = self._holds_nothing or self._clear_until is not None
        stalled = Stalled.ALONE if alone else Stalled.LEFT
        request = replace(self._rules.claim, count=wanted, token=new_token(), stalled=stalled)
        self._clear_until = None
        self._woken = False
        self._paused_since, self._cancelled_since = set(), set()
        claimed = await self._store.claim(request)
        got = len(claimed.jobs) + len(claimed.undecodable)
        now = self._clock.monotonic()
        if claimed.cut_short:
            self._claim_at = now
            if not any(record.stalled for record in claimed.jobs):
                self._clear_until = now + _CLEAR
        elif got < wanted:
            wait = None if claimed.wait is None else claimed.wait.total_seconds()
            # What was received while the claim was on its way, it may not have seen: then it is made again.
            self._claim_at = now if self._woken else now + self._rules.poll_interval
            if wait is not None and wait < self._rules.poll_interval:
                self._claim_at = min(self._claim_at, now + wait)
                self._advance_at = min(self._advance_at, now + wait)
        elif now - self._advanced_at >= self._rules.poll_interval:
            # A claim that is always full never says when something is due.
            self._advance_at = now
        self._refuse(claimed)
        await self._take(claimed)

    async def _fill_batches(self) -> None:
        """Fill up the batches that are ready and not full, as far as there are jobs for them."""
        unfilled = [] if self._rules.batch is None or self._alone else self._batcher.unfilled(self._ready)
        claim = self._rules.claim
        find = fill_by_name if self._batcher.by == "name" else fill_by_group
        if unfilled:  # said before it is done: what wakes this meanwhile is not forgotten
            self._fill_at = self._clock.monotonic() + self._rules.poll_interval
        for head, count in unfilled:
            if head.ended or self.paused or self._wakeup.stopping or self._alone:
                continue
            self._paused_since, self._cancelled_since = set(), set()
            claimed = await find(self._store, claim, head.record, count)
            if claimed is not None:
                self._refuse(claimed)
                await self._take(claimed, by_ids=self._batcher.by == "group")

    def _refuse(self, claimed: Claimed) -> None:
        for row in claimed.undecodable:
            self._settler.put(fail_unreadable(row, self._clock.now(), keep=self._judge.keep))

    async def _take(self, claimed: Claimed, *, by_ids: bool = False) -> None:
        now = self._clock.monotonic()
        runs = [run for record in claimed.jobs if (run := self._opened(record)) is not None]
        for run in runs:
            run.claimed_at = now
        self._heartbeat.hold(runs)
        cancelled, self._cancelled_since = self._cancelled_since or (), None
        for run in runs:
            if run.record.id in cancelled:
                run.halt(Stop.CANCELLED)
        # Held and ready before anything is waited for: what is received meanwhile concerns them, too. Nothing
        # starts, since only the task that waits here starts jobs. Pinned by interleavings/every_call.py.
        self._ready.extend(runs)
        if by_ids:
            self.give_back(await not_runnable(self._store, runs, claimed.now), quietly=True)
        await self._end_unfit(runs)
        if self.paused or self._wakeup.stopping:
            # Told so while the claim was on its way.
            self.give_back()
            return
        self.give_back(run for run in runs if any(_covers(what, run) for what in self._paused_since))
        if runs:
            self._isolate()

    def _isolate(self) -> None:
        """Claim nothing behind a ready job that has stalled before; what is there already goes back.

        A job that has cost a worker its life runs when nothing else is held, so that no other is charged for
        it. It is claimed by itself, save by the ids of its group. Pinned by stalls.py.
        """
        ready = list(self._ready)
        at = next((n for n, run in enumerate(ready) if run.record.stalled), None)
        if at is not None:
            self._isolated = ready[at]
            self.give_back(ready[at + 1 :])

    async def _end_unfit(self, runs: list[Run]) -> None:
        """Settle the parents whose children decide that they do not run."""
        parents = [run for run in runs if run.settings.children or run.report.children]
        if not parents:
            return
        fates = await asyncio.gather(
            *(
                parent_outcome(
                    self._store, run.record, run.report, run.settings, self._clock, keep=self._judge.keep
                )
                for run in parents
            ),
            return_exceptions=True,
        )
        for run, found in zip(parents, fates, strict=True):
            verdict = found if not isinstance(found, BaseException) else self._not_told(run, found)
            if verdict is not None and not run.ended:  # what went back meanwhile is looked at again
                run.ended = True
                self._settler.put(verdict)
        self._ready = deque(run for run in self._ready if not run.ended)

    def _not_told(self, run: Run, error: BaseException) -> Settlement:
        """It cannot be told now whether a parent may run: it goes back, and is looked at again."""
        self._backoff.failed(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        self._claim_at = self._clock.monotonic() + MIN_RETRY_DELAY
        return Settlement(outcome=Outcome.given_back(run.record))

    def _return_hoarded(self) -> None:
        """Give back what was claimed ahead of handlers that turn out to take long: others may be idle."""
        if self._rules.prefetch is not None or not self._ready:
            return
        keep = self._executor.free + self._ahead()
        if len(self._ready) > 2 * keep:
            self.give_back(list(self._ready)[keep:])

    def _return_isolated(self) -> None:
        """Give back a job that has waited for its turn alone for too long: another worker may be idle.

        Not where claims are counted as starts: each try would use one up.
        """
        run, now = self._isolated, self._clock.monotonic()
        counted = any(
            limit and limit.rate for limit in (self._rules.claim.limit, self._rules.claim.group_limit)
        )
        if run is None or run not in self._ready or counted or not self._lingers:
            return
        if now - run.claimed_at > _SOON:
            self.give_back([run])
            self._not_before = now + self._rules.poll_interval

    def _opened(self, record: JobRecord) -> Run | None:
        """The run of a claimed job; None if it is settled without one."""
        now, keep = self._clock.now(), self._judge.keep
        names = self._rules.claim.names
        if names is not None and record.name not in names:
            # Not one that was asked for: another worker has a handler for it.
            self._claim_at = self._clock.monotonic() + MIN_RETRY_DELAY
            event = JobWaiting(queue_name=record.queue, job_id=record.id, at=now)
            self._settler.put(Settlement(outcome=Outcome.given_back(record), events=(event,)))
            return None
        try:
            report = Report.for_run(record)
            options = JobOptions.decode(record.options)
            if record.cancel_requested:
                self._settler.put(cancel_unrun(record, report, now, keep=keep))
                return None
            if record.stalled > self._rules.max_stalled:
                self._settler.put(self._judge.stalled(record, report, options, now))
                return None
            data = self._payloads.of(record.name).decode(record.payload)
        except Exception as error:  # noqa: BLE001 - a validator of the user's may raise anything: it fails this job alone
            text = f"what is stored of the job cannot be read: {Failure.of(error).message}"
            failure = Failure(type="undecodable", message=text)
            self._settler.put(fail_undecodable(record, failure, now, keep=keep))
            return None
        return Run(
            record=record,
            report=report,
            settings=options,
            data=data,
            heartbeat=self._heartbeat,
            loop=asyncio.get_running_loop(),
        )

    # -------------------------------------------------------------- starting

    @property
    def _holds_nothing(self) -> bool:
        return not self._heartbeat.held and not self._settler.backlog

    @property
    def _clears(self) -> bool:
        """Whether nothing is claimed for a moment, for the next job has stalled before, and others are held.

        It is claimed when they have ended: one of them may be the first of its kind to kill the process, and
        what only waits here is lost with it, too. If those that run take long it is claimed all the same, or
        every worker would wait for it. Pinned by stalls.py.
        """
        until = self._clear_until
        if until is None or self._holds_nothing:
            return False
        return self.ready > 0 or self._clock.monotonic() < until

    @property
    def _alone(self) -> bool:
        """Whether a job that has stalled before waits for its turn alone, or has it."""
        return self._isolated is not None and not self._isolated.ended

    def _start(self) -> None:
        while self._ready and self._executor.free > 0 and not self._wakeup.stopping:
            if self._must_wait(self._ready[0]):
                return
            together = self._batcher.take(self._ready, self._clock.monotonic())
            if not together:
                return
            lost = [run for run in together if run.stop is Stop.LEASE_LOST]
            self._heartbeat.drop(run.record.lease for run in lost)
            for run in lost:
                run.ended = True
            if len(lost) < len(together):
                self._executor.start([run for run in together if run.stop is not Stop.LEASE_LOST])

    def _must_wait(self, run: Run) -> bool:
        """Whether it has stalled before, and anything else is held, or given back and not written."""
        if not run.record.stalled or run.stop is not None:
            return False
        return self._settler.backlog > 0 or self._heartbeat.held != [run]

    # ---------------------------------------------------------- time passing

    async def _advance(self) -> None:
        self._due_sooner = False
        advanced = await self._store.advance({self._rules.claim.queue})
        now = self._clock.monotonic()
        self._advanced_at = now
        wait = self._rules.stalled_interval
        if advanced.wait is not None:
            wait = min(wait, max(advanced.wait.total_seconds(), 0.0))
        if not self._due_sooner:
            self._advance_at = now + wait
        if advanced.due or advanced.stalled or advanced.unstarted:
            self._claim_at = 0.0
            at = self._clock.now()
            self._announcer.tell(
                [
                    *(JobStalled(queue_name=key.queue, job_id=key.id, at=at) for key in advanced.stalled),
                    *(
                        JobWaiting(queue_name=key.queue, job_id=key.id, at=at)
                        for key in (*advanced.stalled, *advanced.unstarted, *advanced.due)
                    ),
                ]
            )
        if advanced.stalled:
            _log.warning(
                "%d job(s) had stalled: the lease ran out, and they were taken back: %s",
                len(advanced.stalled),
                shown(key.id for key in advanced.stalled),
            )


def _covers(what: Pause, run: Run) -> bool:
    return what.name in (None, run.record.name) and what.group in (None, run.record.group)
