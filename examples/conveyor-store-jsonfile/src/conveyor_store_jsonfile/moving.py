"""How jobs move: insert, claim, renew, settle and advance, as plain functions on the data."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta

from conveyor.core.store import (
    Advanced,
    Beat,
    Claim,
    Claimed,
    Inserted,
    JobKey,
    JobRecord,
    JobState,
    Lease,
    Outcome,
    Renewed,
    Settled,
    Stalled,
    new_row,
    plan_insert,
    transitions,
)
from conveyor_store_jsonfile.data import REMEMBERED, Applied, Data

IN_LINE = (JobState.WAITING, JobState.DELAYED)


def insert(
    data: Data, jobs: Sequence[JobRecord], now: datetime, *, new_only: bool = False
) -> Sequence[Inserted]:
    """Add jobs, and tell which job stands for each."""
    stored = {n: found for n, job in enumerate(jobs) if (found := _existing(data, job, now)) is not None}
    plan = plan_insert(jobs, stored, now, new_only=new_only)
    for job, initial in plan.created:
        data.put(JobRecord(**new_row(job, initial, now), seq=data.next_seq))
        data.next_seq += 1
    return plan.answers


def claim(data: Data, request: Claim, now: datetime) -> Claimed:
    """Lease jobs, most urgent first."""
    jobs = [job for job in data.jobs.values() if job.queue == request.queue]
    line = [job for job in jobs if job.state in IN_LINE]
    free = [job for job in line if job.state is JobState.WAITING and _free_at(data, job, request, now) == now]
    room = request.count
    if request.limit is not None and request.limit.active is not None:
        active = sum(job.state is JobState.ACTIVE for job in jobs)
        room = min(room, max(0, request.limit.active - active))
    chosen, cut_short = _by_urgency(free, newest_first=request.newest_first)[:room], False
    if request.stalled is not Stalled.ALIKE:
        first = next((n for n, job in enumerate(chosen) if job.stalled), room)
        cut_short = first < len(chosen)
        chosen = chosen[: max(first, 1 if request.stalled is Stalled.ALONE else 0)]
    wait = None
    if len(chosen) < room and not cut_short:  # so all that were free are taken: look at the others
        times = [_free_at(data, job, request, now) for job in line if job not in free]
        wait = min((at - now for at in times if at is not None), default=None)
    leased = [_leased(data, job, request, now) for job in chosen]
    return Claimed(jobs=leased, now=now, wait=wait, cut_short=cut_short)


def take(data: Data, ids: Collection[str], request: Claim, now: datetime) -> Claimed:
    """Lease these jobs, if they are in line."""
    found = [data.jobs.get(JobKey(request.queue, id)) for id in set(ids)]
    free = [job for job in found if job is not None and job.state in IN_LINE]
    return Claimed(jobs=[_leased(data, job, request, now) for job in _by_urgency(free)], now=now)


def renew(data: Data, beats: Sequence[Beat], lease: timedelta, now: datetime) -> Renewed:
    """Let leases last on, and write what the beats carry."""
    held, lost, cancelled = set[Lease](), set[Lease](), set[Lease]()
    for beat in beats:
        job = _held(data, beat.lease)
        if job is None:
            lost.add(beat.lease)
            continue
        held.add(beat.lease)
        if job.cancel_requested:
            cancelled.add(beat.lease)
        report = job.report if beat.report is None else beat.report
        payload = job.payload if beat.payload is None else beat.payload
        started = job.started or beat.started
        data.put(job, report=report, payload=payload, started=started, lease_until=now + lease)
    return Renewed(held=frozenset(held), lost=frozenset(lost), cancelled=frozenset(cancelled))


def settle(data: Data, outcomes: Sequence[Outcome], now: datetime) -> Settled:
    """Apply the outcomes whose leases are held, in order."""
    applied, spawned, removed = set[Lease](), list[Inserted](), list[JobKey]()
    for outcome in outcomes:
        lease = outcome.lease
        job = _held(data, lease)
        if job is not None:
            applied.add(lease)
            data.applied[job.key] = Applied(lease.token, outcome.state, now)
            job = data.put(job, **transitions.settled(job, outcome, now))
            if outcome.retention is not None and transitions.due_for_removal(job, now):
                data.remove(job, now)
                removed.append(job.key)
            spawned += insert(data, outcome.spawn, now)
        else:
            known = (data.applied.get(lease.key), data.gone.get(lease))
            if any(one is not None and one[:2] == (lease.token, outcome.state) for one in known):
                applied.add(lease)
    return Settled(applied=frozenset(applied), spawned=tuple(spawned), removed=tuple(removed))


def advance(data: Data, queues: Collection[str], limit: int, now: datetime) -> Advanced:
    """Make due jobs waiting, take back the leases that ran out, and forget."""
    due = [job for at, _, job in _timed(data, queues, JobState.DELAYED) if at <= now][:limit]
    lapsed = [job for at, _, job in _timed(data, queues, JobState.ACTIVE) if at <= now][:limit]
    for job in due:
        data.put(job, **transitions.waiting(now))
    for job in lapsed:
        data.put(job, **transitions.lapsed(job, now))
    data.gone = {lease: known for lease, known in data.gone.items() if known.at >= now - REMEMBERED}
    data.pauses = {what: until for what, until in data.pauses.items() if until is None or until > now}
    to_come = [*_timed(data, queues, JobState.DELAYED), *_timed(data, queues, JobState.ACTIVE)]
    pause = min((max(at - now, timedelta(0)) for at, _, _ in to_come), default=None)
    if max(len(due), len(lapsed)) >= limit:
        pause = timedelta(0)
    return Advanced(
        now=now,
        due=[job.key for job in due],
        stalled=[job.key for job in lapsed if job.started],
        unstarted=[job.key for job in lapsed if not job.started],
        wait=pause,
    )


def _existing(data: Data, job: JobRecord, now: datetime) -> Inserted | None:
    """The job that stands for this one: the one with its id, or the holder of its key."""
    found = data.jobs.get(job.key)
    if found is None and job.unique_key is not None:
        found = data.holder(job.queue, job.unique_key)
    if found is None:
        return None
    return Inserted(key=found.key, created=False, state=found.state, created_at=found.created_at or now)


def _by_urgency(jobs: list[JobRecord], *, newest_first: bool = False) -> list[JobRecord]:
    return sorted(jobs, key=lambda job: (job.sort_key, -job.seq if newest_first or job.lifo else job.seq))


def _leased(data: Data, job: JobRecord, request: Claim, now: datetime) -> JobRecord:
    fields = transitions.leased(
        job,
        token=request.token,
        lease=request.lease,
        worker=request.worker,
        started=request.started,
        now=now,
    )
    return data.put(job, **fields)


def _free_at(data: Data, job: JobRecord, request: Claim, now: datetime) -> datetime | None:
    """When a job in line may be given to such a claim, if time alone brings that about."""
    ends = [data.pauses[what] for what in ((job.queue, None), (job.queue, job.name)) if what in data.pauses]
    if None in ends or (request.names is not None and job.name not in request.names):
        return None
    return max(now, job.run_at or now, *(end for end in ends if end is not None))


def _held(data: Data, lease: Lease) -> JobRecord | None:
    """The job that is active under this lease."""
    job = data.jobs.get(lease.key)
    return job if job is not None and job.state is JobState.ACTIVE and job.token == lease.token else None


def _timed(data: Data, queues: Collection[str], state: JobState) -> Iterator[tuple[datetime, int, JobRecord]]:
    """The delayed or the active jobs of these queues, by when they are due or their leases run out."""
    jobs = [job for job in data.jobs.values() if job.queue in queues and job.state is state]
    times = [(job.run_at if state is JobState.DELAYED else job.lease_until, job.seq, job) for job in jobs]
    return iter(sorted((at, seq, job) for at, seq, job in times if at is not None))
