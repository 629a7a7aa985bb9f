"""When to claim, how many, and what to start: the worker's main loop."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from conveyor.core._engine import advance_events, run_opener
from conveyor.core._engine.batching import Batcher, fill_by_group, fill_by_name, not_runnable
from conveyor.core._engine.run import Run, Stop
from conveyor.core._engine.service_loop import MIN_RETRY_DELAY, Wakeup, run_service
from conveyor.core._jobs.ids import new_token
from conveyor.core.store import Stalled

if TYPE_CHECKING:
    from collections.abc import Iterable

    from conveyor.core._engine.error_backoff import ErrorBackoff
    from conveyor.core._engine.executor import Executor
    from conveyor.core._engine.heartbeat import Heartbeat
    from conveyor.core._engine.run_opener import RunOpener
    from conveyor.core._engine.settler import Settler
    from conveyor.core._engine.worker_context import WorkerContext
    from conveyor.core._engine.worker_options import Rules
    from conveyor.core._jobs.settlements import Settlement
    from conveyor.core.store import Claimed, JobRecord, Pause

#: Seconds of work that is claimed ahead, and the most jobs that are.
_AHEAD: Final = 0.1
_MOST_AHEAD: Final = 500
#: With this many outcomes not written yet, nothing more is claimed.
_MOST_UNWRITTEN: Final = 2_000
#: Seconds in which what is held may end before a job which has stalled before is claimed.
_CLEAR: Final = 0.5
#: Seconds that such a job waits here for the others to end; another worker may be idle.
_SOON: Final = 2.0


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Poller:
    """Claims jobs and starts them."""

    context: WorkerContext
    rules: Rules
    opener: RunOpener
    executor: Executor
    settler: Settler
    heartbeat: Heartbeat
    backoff: ErrorBackoff
    #: Whether the worker itself is paused.
    paused: bool = field(init=False, default=False)
    _wakeup: Wakeup = field(init=False, default_factory=Wakeup)
    _ready: deque[Run] = field(init=False, default_factory=deque)
    _batcher: Batcher = field(init=False)
    _fill_at: float = field(init=False, default=0.0)
    #: Whether ready jobs wait: for a full batch, or for others to end.
    _lingers: bool = field(init=False, default=True)
    #: The latest job here that had stalled before: it waits for its turn alone, has it, or has ended.
    _isolated: Run | None = field(init=False, default=None)
    #: Until when nothing is claimed, because the next job has stalled before; None: it has not.
    _clear_until: float | None = field(init=False, default=None)
    #: No claim is made before, whatever is received.
    _not_before: float = field(init=False, default=0.0)
    _claim_at: float = field(init=False, default=0.0)
    _advance_at: float = field(init=False, default=0.0)
    _advanced_at: float = field(init=False, default=0.0)
    #: Whether it was woken since the latest claim, the latest advance, began.
    _woken: bool = field(init=False, default=False)
    _due_sooner: bool = field(init=False, default=False)
    #: The pauses that were received since the latest claim began: it may not have seen them.
    _paused_since: set[Pause] = field(init=False, default_factory=set)
    #: The jobs whose cancellation was received since then; None once what that claim brought is held.
    _cancelled_since: set[str] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._batcher = Batcher.of(self.rules.batch, limited=self.rules.limited)

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
        await run_service(self.tick, self._wakeup, self.backoff)

    async def tick(self) -> float:
        """Let time pass if it is time for that, start what is ready, claim what there is room for.

        Returns the seconds until there is something to do, unless it is woken before.
        """
        now = self.context.clock.monotonic()
        if now >= self._advance_at:
            await self._advance()
        self._start()
        self._return_hoarded()
        self._return_isolated()
        wanted = self._wanted()
        if wanted > 0 and self.context.clock.monotonic() >= self._claim_at:
            await self._claim(wanted)
            await self._fill_batches()
            self._start()
            wanted = self._wanted()
        elif self.context.clock.monotonic() >= self._fill_at:
            await self._fill_batches()
            self._start()
        now = self.context.clock.monotonic()
        until_claim = self._claim_at - now if wanted > 0 else self.rules.poll_interval
        times = [until_claim, self._until_look(now), self._advance_at - now]
        if self._clear_until is not None and now < self._clear_until:
            times.append(self._clear_until - now)
        return max(0.0, min(times))

    def _until_look(self, now: float) -> float:
        if not self._ready or self.rules.batch is None:
            return _AHEAD if self._ready else self.rules.poll_interval
        until_due = self._batcher.wait(self._ready, now)
        if until_due <= 0:  # they wait for a slot, and it is woken when one is free
            return self.rules.poll_interval
        until_fill = self._fill_at - now if self._batcher.unfilled(self._ready) else math.inf
        return min(until_due, max(0.0, until_fill), self.rules.poll_interval)

    def give_back(self, runs: Iterable[Run] | None = None, *, quietly: bool = False) -> None:
        """Return what has not started (or these of it) to the store, as if never claimed.

        With `quietly` no worker is woken for it.
        """
        given = set(self._ready if runs is None else runs)
        leaving = [run for run in self._ready if run in given]
        self._ready = deque(run for run in self._ready if run not in given)
        for run in leaving:
            run.ended = True
            self.settler.put(run_opener.give_back(run.record, self.context.clock.now(), quietly=quietly))

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
        if self.paused or self._wakeup.stopping or self._alone or self.settler.backlog >= _MOST_UNWRITTEN:
            return 0
        if self.context.clock.monotonic() < self._not_before or self._clears:
            return 0
        ahead = self._ahead()
        free = self.executor.free
        # Refilled when half is used up, so that claims come in batches.
        if ahead and free - len(self._ready) <= 0 and len(self._ready) > ahead // 2:
            return 0
        return max(0, self._batcher.capacity(free, self._ready) + ahead)

    def _ahead(self) -> int:
        if self.rules.prefetch is not None:
            return self.rules.prefetch
        if self.executor.typical is None:
            return 0
        # A slot whose handler has been running for longer than that will not need another job soon.
        slots = self.executor.concurrency - self.executor.busy_for(_AHEAD)
        return min(_MOST_AHEAD, int(_AHEAD * slots / max(self.executor.typical, 1e-6)))

    async def _claim(self, wanted: int) -> None:
        alone = self._holds_nothing or self._clear_until is not None
        stalled = Stalled.ALONE if alone else Stalled.LEFT
        request = replace(self.rules.claim, count=wanted, token=new_token(), stalled=stalled)
        self._clear_until = None
        self._woken = False
        self._paused_since, self._cancelled_since = set(), set()
        claimed = await self.context.store.claim(request)
        got = len(claimed.jobs) + len(claimed.undecodable)
        now = self.context.clock.monotonic()
        if claimed.cut_short:
            self._claim_at = now
            if not any(record.stalled for record in claimed.jobs):
                self._clear_until = now + _CLEAR
        elif got < wanted:
            wait = None if claimed.wait is None else claimed.wait.total_seconds()
            # What was received while the claim was on its way, it may not have seen: then it is made again.
            self._claim_at = now if self._woken else now + self.rules.poll_interval
            if wait is not None and wait < self.rules.poll_interval:
                self._claim_at = min(self._claim_at, now + wait)
                self._advance_at = min(self._advance_at, now + wait)
        elif now - self._advanced_at >= self.rules.poll_interval:
            # A claim that is always full never says when something is due.
            self._advance_at = now
        self._refuse(claimed)
        await self._take(claimed)

    async def _fill_batches(self) -> None:
        """Fill up the batches that are ready and not full, as far as there are jobs for them."""
        unfilled = [] if self.rules.batch is None or self._alone else self._batcher.unfilled(self._ready)
        claim = self.rules.claim
        find = fill_by_name if self._batcher.by == "name" else fill_by_group
        if unfilled:  # said before it is done: what wakes this meanwhile is not forgotten
            self._fill_at = self.context.clock.monotonic() + self.rules.poll_interval
        for head, count in unfilled:
            if head.ended or self.paused or self._wakeup.stopping or self._alone:
                continue
            self._paused_since, self._cancelled_since = set(), set()
            claimed = await find(self.context.store, claim, head.record, count)
            if claimed is not None:
                self._refuse(claimed)
                await self._take(claimed, by_ids=self._batcher.by == "group")

    def _refuse(self, claimed: Claimed) -> None:
        for row in claimed.undecodable:
            self.settler.put(self.opener.fail_unreadable(row))

    async def _take(self, claimed: Claimed, *, by_ids: bool = False) -> None:
        now = self.context.clock.monotonic()
        runs = [run for record in claimed.jobs if (run := self._opened(record)) is not None]
        for run in runs:
            run.claimed_at = now
        self.heartbeat.hold(runs)
        cancelled, self._cancelled_since = self._cancelled_since or (), None
        for run in runs:
            if run.record.id in cancelled:
                run.halt(Stop.CANCELLED)
        # Held and ready before anything is waited for: what is received meanwhile concerns them, too. Nothing
        # starts, since only the task that waits here starts jobs. Pinned by interleavings/every_call.py.
        self._ready.extend(runs)
        if by_ids:
            self.give_back(await not_runnable(self.context.store, runs, claimed.now), quietly=True)
        await self._end_unfit(runs)
        if self.paused or self._wakeup.stopping:
            # That came while the claim was on its way.
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
        outcomes = await self.opener.parent_outcomes(runs)
        for run, found in outcomes:
            settlement = self._not_known(run, found) if isinstance(found, BaseException) else found
            if settlement is not None and not run.ended:  # what went back meanwhile is looked at again
                run.ended = True
                self.settler.put(settlement)
        if outcomes:
            self._ready = deque(run for run in self._ready if not run.ended)

    def _not_known(self, run: Run, error: BaseException) -> Settlement:
        """It cannot be known now whether a parent may run: it goes back, and is looked at again."""
        self.backoff.failed(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        self._claim_at = self.context.clock.monotonic() + MIN_RETRY_DELAY
        return run_opener.give_back(run.record, self.context.clock.now(), quietly=True)

    def _return_hoarded(self) -> None:
        """Give back what was claimed ahead of handlers that turn out to take long: others may be idle."""
        if self.rules.prefetch is not None or not self._ready:
            return
        keep = self.executor.free + self._ahead()
        if len(self._ready) > 2 * keep:
            self.give_back(list(self._ready)[keep:])

    def _return_isolated(self) -> None:
        """Give back a job that has waited for its turn alone for too long: another worker may be idle.

        Not where claims are counted as starts: each try would use one up.
        """
        run, now = self._isolated, self.context.clock.monotonic()
        counted = any(one and one.rate for one in (self.rules.claim.limit, self.rules.claim.group_limit))
        if run is None or run not in self._ready or counted or not self._lingers:
            return
        if now - run.claimed_at > _SOON:
            self.give_back([run])
            self._not_before = now + self.rules.poll_interval

    def _opened(self, record: JobRecord) -> Run | None:
        """The run of a claimed job; None if it is settled without one."""
        if self.rules.claim.names is not None and record.name not in self.rules.claim.names:
            # Not one that was asked for: another worker has a handler for it.
            self._claim_at = self.context.clock.monotonic() + MIN_RETRY_DELAY
            self.settler.put(run_opener.give_back(record, self.context.clock.now()))
            return None
        opened = self.opener.open(record)
        if isinstance(opened, Run):
            return opened
        self.settler.put(opened)
        return None

    # -------------------------------------------------------------- starting

    @property
    def _holds_nothing(self) -> bool:
        return not self.heartbeat.held and not self.settler.backlog

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
        return self.ready > 0 or self.context.clock.monotonic() < until

    @property
    def _alone(self) -> bool:
        """Whether a job that has stalled before waits for its turn alone, or has it."""
        return self._isolated is not None and not self._isolated.ended

    def _start(self) -> None:
        while self._ready and self.executor.free > 0 and not self._wakeup.stopping:
            if self._must_wait(self._ready[0]):
                return
            together = self._batcher.take(self._ready, self.context.clock.monotonic())
            if not together:
                return
            lost = [run for run in together if run.stop is Stop.LEASE_LOST]
            self.heartbeat.drop(run.record.lease for run in lost)
            for run in lost:
                run.ended = True
            if len(lost) < len(together):
                self.executor.start([run for run in together if run.stop is not Stop.LEASE_LOST])

    def _must_wait(self, run: Run) -> bool:
        """Whether it has stalled before, and anything else is held, or given back and not written."""
        if not run.record.stalled or run.stop is not None:
            return False
        return self.settler.backlog > 0 or self.heartbeat.held != [run]

    # ---------------------------------------------------------- time passing

    async def _advance(self) -> None:
        self._due_sooner = False
        advanced = await self.context.store.advance({self.rules.claim.queue})
        now = self.context.clock.monotonic()
        self._advanced_at = now
        wait = self.rules.stalled_interval
        if advanced.wait is not None:
            wait = min(wait, max(advanced.wait.total_seconds(), 0.0))
        if not self._due_sooner:
            self._advance_at = now + wait
        if advance_events.publish_advanced(self.context, advanced):
            self._claim_at = 0.0


def _covers(what: Pause, run: Run) -> bool:
    return what.name in (None, run.record.name) and what.group in (None, run.record.group)
