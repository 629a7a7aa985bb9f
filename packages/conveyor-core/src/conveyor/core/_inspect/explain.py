"""Finding out why a job is not running. Nothing is changed, and the cost is bounded.

Read are the job, what is paused, the registered workers, counts of active jobs, the first of its children and
of the jobs ahead of it. Limits are those that workers say they keep to: the job can start if one of them has
room, so the most generous counts.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from conveyor.core import explanation
from conveyor.core._inspect.worker_registry import find_workers, store_time
from conveyor.core._jobs.dead_letters import dead_letter
from conveyor.core._jobs.lookup import read
from conveyor.core._jobs.parent_outcome import CHILD_FAILED, failure_of
from conveyor.core._jobs.report import Report
from conveyor.core.errors import JobNotFoundError
from conveyor.core.explanation import Explanation, Reason
from conveyor.core.job_options import JobOptions
from conveyor.core.store import TERMINAL, JobState, Order, Where

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from conveyor.core._inspect.worker_registry import WorkerInfo
    from conveyor.core.limits import RateLimit
    from conveyor.core.store import JobKey, JobRecord, Store

#: The most jobs ahead that are counted, and how many are read at a time.
MOST_AHEAD: Final = 1_000
_PAGE: Final = 100
#: The most children that are named.
MOST_CHILDREN: Final = 10
#: The most active jobs that are looked at for who holds them.
_MOST_HELD: Final = 1_000
#: The most starts that are looked for.
_MOST_STARTS: Final = 1_000


async def explain(store: Store, key: JobKey) -> Explanation:
    """Say why a job is not running.

    Raises JobNotFoundError if there is no such job.
    """
    record = await read(store, key)
    if record is None:
        raise JobNotFoundError(key.queue, key.id)
    match record.state:
        case JobState.ACTIVE:
            reasons = _active(record)
        case JobState.COMPLETED | JobState.FAILED | JobState.CANCELLED:
            reasons = _finished(record)
        case _:
            reasons = await _aside(store, record)
    if (origin := dead_letter(record)) is not None:
        reasons.append(explanation.IsDeadLetter(queue_name=origin.queue_name, job_id=origin.job_id))
    return Explanation(
        queue_name=record.queue,
        job_id=record.id,
        job_name=record.name,
        state=record.state,
        reasons=tuple(sorted(reasons, key=lambda reason: not reason.blocks)),
    )


def _active(record: JobRecord) -> list[Reason]:
    reasons: list[Reason] = [
        explanation.Running(
            worker=record.locked_by, since=record.processed_at, lease_until=record.lease_until
        )
    ]
    if record.cancel_requested:
        reasons.append(explanation.CancellationPending())
    return reasons


def _finished(record: JobRecord) -> list[Reason]:
    why, options = None, JobOptions()
    # What cannot be read says nothing.
    with contextlib.suppress(ValueError):
        error = Report.of(record).error
        why = None if error is None or record.state is not JobState.FAILED else error.message
        options = JobOptions.decode(record.options)
    reasons: list[Reason] = [explanation.Finished(state=record.state, at=record.finished_at, why=why)]
    if record.state is JobState.FAILED and options.dead_letter is not None:
        reasons.append(explanation.InDeadLetters(queue_name=options.dead_letter))
    return reasons


async def _aside(store: Store, record: JobRecord) -> list[Reason]:
    """Of a job that waits: for its time, for other jobs, or for a worker."""
    reasons: list[Reason] = []
    if record.cancel_requested:
        reasons.append(explanation.CancellationPending())
    if record.state is JobState.DELAYED:
        reasons.append(explanation.Delayed(until=record.run_at))
    if record.state is JobState.WAITING_CHILDREN:
        reasons.append(await _children(store, record))
    reasons += [
        explanation.Paused(job_name=what.name, group=what.group, until=until)
        for what, until in (await store.paused(record.queue)).items()
        if what.name in (None, record.name) and what.group in (None, record.group)
    ]
    workers = await find_workers(store, record.queue)
    able = [worker for worker in workers if worker.handles(record.name)]
    if not able:
        reasons.append(explanation.NoWorker(job_name=record.name if workers else None, others=len(workers)))
    else:
        reasons += await _room(store, record, able)
    if record.state is JobState.WAITING:
        reasons += await _in_line(store, record)
    return reasons


async def _children(store: Store, record: JobRecord) -> Reason:
    living = frozenset(JobState) - TERMINAL
    found = await store.find(Where(parent=record.key, states=living), limit=MOST_CHILDREN)
    return explanation.WaitsForChildren(
        pending=record.pending, children=tuple((child.key, child.state) for child in found)
    )


async def _room(store: Store, record: JobRecord, able: Sequence[WorkerInfo]) -> list[Reason]:
    """What these workers say about room for the job."""
    reasons: list[Reason] = []
    if all(worker.paused for worker in able):
        reasons.append(explanation.WorkersPaused(workers=tuple(worker.name for worker in able)))
    # What one that is paused has room for is of no use to the job, unless all are.
    able = [worker for worker in able if not worker.paused] or able
    held = Where(queue=record.queue, states=frozenset({JobState.ACTIVE}))
    active = sum((await store.count(held)).values())
    room = sum(worker.room for worker in able)
    if active >= room and (theirs := await _held_by(store, held, able, active)) >= room:
        reasons.append(explanation.WorkersBusy(active=theirs, room=room))
    limit = _most([worker.max_global_concurrency for worker in able])
    if limit is not None and active >= limit:
        reasons.append(explanation.AtLimit(group=None, active=active, limit=limit))
    reasons += await _rate(store, record, None, [worker.limiter for worker in able])
    if record.group is not None:
        limits = [worker.group for worker in able]
        limit = _most([None if one is None else one.concurrency for one in limits])
        if limit is not None:
            grouped = Where(queue=record.queue, group=record.group, states=frozenset({JobState.ACTIVE}))
            active = sum((await store.count(grouped)).values())
            if active >= limit:
                reasons.append(explanation.AtLimit(group=record.group, active=active, limit=limit))
        rates = [None if one is None else one.limiter for one in limits]
        reasons += await _rate(store, record, record.group, rates)
    return reasons


async def _held_by(store: Store, held: Where, workers: Sequence[WorkerInfo], active: int) -> int:
    """How many of the active jobs these workers hold: others are of other workers, or of dead ones."""
    if active > _MOST_HELD:
        return active  # nearly all, as far as can be said at this price
    names = {worker.name for worker in workers}
    found = await store.find(held, limit=_MOST_HELD)
    return sum(job.locked_by in names for job in found)


def _most(limits: Sequence[int | None]) -> int | None:
    """The most generous of the workers' limits; None if one of them has none."""
    known = [limit for limit in limits if limit is not None]
    return max(known) if len(known) == len(limits) else None


async def _rate(
    store: Store, record: JobRecord, group: str | None, rates: Sequence[RateLimit | None]
) -> list[Reason]:
    """Whether a window is full, for every worker that has one; the one that opens first is given."""
    known = {rate for rate in rates if rate is not None}
    if len([rate for rate in rates if rate is not None]) < len(rates):
        return []
    now = await store_time(store)
    most = min(_MOST_STARTS, max(rate.max for rate in known))
    starts = await _starts(store, record.queue, group, most)
    full: list[explanation.RateExceeded] = []
    for rate in known:
        within = [start for start in starts if start + rate.per > now]
        if len(within) < rate.max:
            return [explanation.WithinRate(group=group, starts=len(within), max=rate.max, per=rate.per)]
        opens = within[len(within) - rate.max] + rate.per
        full.append(
            explanation.RateExceeded(group=group, starts=len(within), max=rate.max, per=rate.per, until=opens)
        )
    return [min(full, key=lambda reason: reason.until)]


async def _starts(store: Store, queue: str, group: str | None, most: int) -> list[datetime]:
    """When jobs that are still there were started last, in order: no more than there were."""

    async def found(states: frozenset[JobState], order: Order) -> Sequence[JobRecord]:
        where = Where(queue=queue, group=group, states=states)
        return await store.find(where, limit=most, order=order)

    active = await found(frozenset({JobState.ACTIVE}), Order.NEWEST)
    ended = await found(frozenset({JobState.COMPLETED, JobState.FAILED}), Order.FINISHED)
    return sorted(
        job.processed_at
        for job in (*active, *ended)
        # What is held by no worker was claimed by its id, which is no start; so was one that failed unrun.
        if job.processed_at is not None and (job.locked_by or job.state.terminal) and not _failed_unrun(job)
    )


def _failed_unrun(record: JobRecord) -> bool:
    return record.state is JobState.FAILED and failure_of(record).type == CHILD_FAILED


async def _in_line(store: Store, record: JobRecord) -> list[Reason]:
    waiting = Where(queue=record.queue, states=frozenset({JobState.WAITING}))
    ahead, last = 0, None
    while ahead < MOST_AHEAD:
        page = await store.find(waiting, limit=_PAGE, after=last, order=Order.CLAIM)
        for job in page:
            if job.id == record.id:
                return [explanation.InLine(ahead=ahead, exact=True)]
            ahead += 1
        if len(page) < _PAGE:
            return []  # it has been taken meanwhile
        last = page[-1]
    return [explanation.InLine(ahead=ahead, exact=False)]
