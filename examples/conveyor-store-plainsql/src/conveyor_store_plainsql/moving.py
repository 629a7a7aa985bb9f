"""How jobs move: insert, claim, renew, settle and advance, each within one transaction."""

# ruff: noqa: S608 - statements are put together from what stands in this file

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from sqlite3 import Connection
from sqlite3 import Row as Columns
from typing import Any

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
    Pause,
    Renewed,
    Settled,
    Stalled,
    Undecodable,
    new_row,
    plan_insert,
    transitions,
)
from conveyor.store import sql
from conveyor.store.sql import (
    FOREVER,
    REMEMBERED,
    UNREADABLE,
    Row,
    Scope,
    Taken,
    UnitOfWork,
    capacity,
    note_starts,
    register_windows,
    run_now,
    time_until_more,
)
from conveyor_store_plainsql import groups, pausing
from conveyor_store_plainsql.jobs import Jobs, by_key, flat, marks
from conveyor_store_plainsql.limits import Starts, forget_starts
from conveyor_store_plainsql.rows import all_stored, instant, record, row, stored

#: Jobs in line, and when time alone lets a claim have them: they are due, and no pause of theirs is left.
IN_LINE = """
select j.seq, j.sort_key, j.lifo, j.name, j.group_name, j.state, j.stalled,
       max(coalesce(j.run_at, :now), coalesce(n.until, :now), coalesce(g.until, :now)) as free_at
  from conveyor_jobs j
  left join conveyor_pauses n on n.queue = j.queue and n.kind = 'name' and n.target = j.name
  left join conveyor_pauses g on g.queue = j.queue and g.kind = 'group' and g.target = j.group_name
 where j.queue = :queue
   and j.state in ('waiting', 'delayed')
   and (n.queue is null or n.until is not null)
   and (g.queue is null or g.until is not null)
"""
OLDEST_FIRST = "sort_key, case when lifo then -seq else seq end"
WAITING = ("waiting", "delayed", "waiting-children")
LEASE = """
update conveyor_jobs
   set state = 'active',
       token = :token,
       lease_until = :until,
       locked_by = :worker,
       started = :started and stalled = 0,
       attempt = attempt + 1,
       processed_at = :now
 where seq = :seq
"""
RENEW = """
update conveyor_jobs
   set lease_until = :until,
       report = coalesce(:report, report),
       payload = coalesce(:payload, payload),
       started = started or :started
 where seq = :seq
"""


# ------------------------------------------------------------------ adding


def insert(
    db: Connection,
    now: datetime,
    jobs: Sequence[JobRecord],
    *,
    new_only: bool = False,
    group_limits: bool = True,
) -> Sequence[Inserted]:
    """Add jobs, and tell which job stands for each."""
    plan = plan_insert(jobs, _existing(db, jobs), now, new_only=new_only)
    parents = by_key(db, plan.parents) if plan.parents else []
    waiting = {
        JobKey(each["queue"], each["id"]) for each in parents if each["state"] == JobState.WAITING_CHILDREN
    }
    if group_limits:
        groups.refuse_full(db, [(job, initial.state) for job, initial in plan.created])
    groups.know(db, {(job.queue, job.group) for job, _ in plan.created if job.group is not None})
    for job, initial in plan.created:
        columns = all_stored(new_row(job, initial, now, released=job.parent in plan.parents - waiting))
        names, places = ", ".join(columns), ", ".join(f":{name}" for name in columns)
        db.execute(f"insert into conveyor_jobs ({names}) values ({places})", columns)
    children = Counter(job.parent for job, _ in plan.created if job.parent in waiting)
    db.executemany(
        "update conveyor_jobs set pending = pending + ? where queue = ? and id = ?",
        [(count, *parent) for parent, count in children.items() if parent is not None],
    )
    return plan.answers


def _existing(db: Connection, jobs: Sequence[JobRecord]) -> dict[int, Inserted]:
    """For each job of a call, by its place: the one with its id, else the holder of its key."""
    ids = {(each["queue"], each["id"]): each for each in by_key(db, [job.key for job in jobs])}
    holders = {(each["queue"], each["unique_key"]): each for each in _holders(db, jobs)}
    found = [ids.get(job.key) or holders.get((job.queue, job.unique_key)) for job in jobs]
    return {
        n: Inserted(
            key=JobKey(each["queue"], each["id"]),
            created=False,
            state=row(each).state,
            created_at=instant(each["created_at"]),
        )
        for n, each in enumerate(found)
        if each is not None
    }


def _holders(db: Connection, jobs: Sequence[JobRecord]) -> list[Any]:
    keys = [(job.queue, job.unique_key) for job in jobs if job.unique_key is not None]
    if not keys:
        return []
    return db.execute(
        "select * from conveyor_jobs"
        f" where holds_key = 1 and (queue, unique_key) in (values {marks(keys, 2)})",
        flat(keys),
    ).fetchall()


def lapse_keys(db: Connection, now: datetime) -> None:
    """Have the jobs whose `unique_for` is over hold their keys no more."""
    db.execute(
        "update conveyor_jobs set holds_key = 0 where holds_key = 1 and unique_until <= ?", (stored(now),)
    )


# ------------------------------------------------------------------ leases


def claim(db: Connection, now: datetime, request: Claim) -> Claimed:
    """Lease jobs, most urgent first."""
    starts = Starts(db)
    run_now(register_windows(starts, request, now))
    left = run_now(capacity(starts, request, request.count, now))
    paused_until = _paused_until(db, now, request.queue)
    free, others = _line(db, now, request)
    share, picks = groups.picked(db, now, request, free, left.starts if paused_until is None else 0)
    kept, cut_short = _before_stalled(request, share.picked, {job["seq"] for job in free if job["stalled"]})
    of_groups = [group for _, group in kept]
    groups.note(db, request.queue, picks, of_groups)
    run_now(note_starts(starts, request, of_groups, now))
    taken = _leased(db, now, request, [seq for seq, _ in kept])
    if len(kept) == request.count or cut_short:
        return taken.claimed(cut_short=cut_short)
    limited = len(kept) >= left.starts

    async def look(_rate: str) -> tuple[bool, datetime | None]:
        later = [instant(job["free_at"]) for job in others]
        if limited or paused_until is not None:
            return len(free) > len(kept), min(later, default=None)
        return False, min([*later, *share.full.values()], default=None)  # who is at a limit is not waited for

    wait = time_until_more(starts, request, now, look, paused_until=paused_until, limited=limited)
    return taken.claimed(run_now(wait))


def _paused_until(db: Connection, now: datetime, queue: str) -> datetime | None:
    """Until when the queue is paused; None: it is not."""
    ends = pausing.paused(db, now, queue)
    return (ends[Pause()] or FOREVER) if Pause() in ends else None


def _before_stalled(
    request: Claim, picked: Sequence[tuple[int, str | None]], stalled: Collection[int]
) -> tuple[Sequence[tuple[int, str | None]], bool]:
    """As many picks as may be returned together; and whether one that has stalled before cuts them short."""
    first = next((n for n, (seq, _) in enumerate(picked) if seq in stalled), None)
    if first is None or request.stalled is Stalled.ALIKE:
        return picked, False
    return picked[: max(first, 1 if request.stalled is Stalled.ALONE else 0)], True


def _line(db: Connection, now: datetime, request: Claim) -> tuple[list[Columns], list[Columns]]:
    """The jobs in line that a claim is for, most urgent first: those that are free now, and the others."""
    order = "sort_key, -seq" if request.newest_first else OLDEST_FIRST
    values = {"queue": request.queue, "now": stored(now)}
    free, others = list[Columns](), list[Columns]()
    for job in db.execute(f"{IN_LINE} order by {order}", values):
        if request.names is None or job["name"] in request.names:
            is_free = job["state"] == "waiting" and job["free_at"] <= stored(now)
            (free if is_free else others).append(job)
    return free, others


def take(db: Connection, now: datetime, ids: Collection[str], request: Claim) -> Claimed:
    """Lease those of these jobs that wait for anything."""
    there = by_key(db, [JobKey(request.queue, id) for id in set(ids)])
    found = sorted(there, key=lambda job: (job["sort_key"], -job["seq"] if job["lifo"] else job["seq"]))
    return _leased(db, now, request, [job["seq"] for job in found if job["state"] in WAITING]).claimed()


def _leased(db: Connection, now: datetime, request: Claim, seqs: Sequence[int]) -> Taken:
    lease = {"token": request.token, "until": now + request.lease, "worker": request.worker}
    values = all_stored({**lease, "started": request.started, "now": now})
    db.executemany(LEASE, [{**values, "seq": seq} for seq in seqs])
    taken = Taken(now, request.token)
    for seq in seqs:
        columns = db.execute("select * from conveyor_jobs where seq = ?", (seq,)).fetchone()
        try:
            taken.jobs.append(record(columns))
        except UNREADABLE as error:
            held = Lease(request.queue, columns["id"], request.token)
            taken.undecodable.append(Undecodable(lease=held, attempt=columns["attempt"], reason=str(error)))
    return taken


def renew(db: Connection, now: datetime, beats: Sequence[Beat], lease: timedelta) -> Renewed:
    """Let leases last on, and write what the beats carry."""
    rows = {(each["queue"], each["id"]): each for each in by_key(db, [beat.lease.key for beat in beats])}
    held = [beat for beat in beats if _is_held(rows.get(beat.lease.key), beat.lease)]
    values = [
        {
            "seq": rows[beat.lease.key]["seq"],
            "until": stored(now + lease),
            "report": beat.report,
            "payload": beat.payload,
            "started": beat.started,
        }
        for beat in held
    ]
    db.executemany(RENEW, values)
    leases = frozenset(beat.lease for beat in held)
    return Renewed(
        held=leases,
        lost=frozenset(beat.lease for beat in beats) - leases,
        cancelled=frozenset(lease for lease in leases if rows[lease.key]["cancel_requested"]),
    )


def _is_held(columns: Columns | None, lease: Lease) -> bool:
    return columns is not None and columns["state"] == "active" and columns["token"] == lease.token


# ------------------------------------------------------------------ outcomes, and the passing of time


def settle(db: Connection, now: datetime, outcomes: Sequence[Outcome]) -> Settled:
    """Apply the outcomes whose leases are held, in order."""

    async def spawn(records: Sequence[JobRecord]) -> Sequence[Inserted]:
        return insert(db, now, records, group_limits=False)

    return run_now(sql.settle(UnitOfWork(Jobs(db), now), outcomes, spawn))


def advance(db: Connection, now: datetime, queues: Collection[str], limit: int) -> Advanced:
    """Make due jobs waiting, take back the leases that ran out, and forget."""
    due = _timed(db, now, queues, "delayed", limit)
    lapsed = _timed(db, now, queues, "active", limit)
    work = UnitOfWork(Jobs(db), now)
    work.keep([*due, *lapsed])
    stalled = [job.key for job in lapsed if job.started]
    unstarted = [job.key for job in lapsed if not job.started]
    for job in due:
        work.put(job, transitions.waiting(now))
    for job in lapsed:
        work.put(job, transitions.lapsed(job, now))
    run_now(work.done())
    db.execute("delete from conveyor_tombstones where at <= ?", (stored(now - REMEMBERED),))
    db.execute("delete from conveyor_pauses where until <= ?", (stored(now),))
    for queue in queues:
        groups.forget_idle(db, queue)
        forget_starts(db, Scope(queue, "queue"), now)
        forget_starts(db, Scope(queue, "group"), now)
    return Advanced(
        now=now,
        due=[job.key for job in due],
        stalled=stalled,
        unstarted=unstarted,
        wait=timedelta(0) if limit in {len(due), len(lapsed)} else _until_next(db, now, queues),
    )


def _timed(db: Connection, now: datetime, queues: Collection[str], state: str, limit: int) -> list[Row]:
    """The jobs of a state whose time has come, most overdue first."""
    at = {"delayed": "run_at", "active": "lease_until"}[state]
    found = db.execute(
        f"select * from conveyor_jobs where state = '{state}' and {at} <= ? and queue in"
        f" ({', '.join('?' * len(queues))}) order by {at}, seq limit ?",
        (stored(now), *queues, limit),
    )
    return [row(columns) for columns in found]


def _until_next(db: Connection, now: datetime, queues: Collection[str]) -> timedelta | None:
    at: int | None = db.execute(
        "select min(case state when 'delayed' then run_at when 'active' then lease_until end)"
        f" from conveyor_jobs where queue in ({', '.join('?' * len(queues))})",
        tuple(queues),
    ).fetchone()[0]
    return None if at is None else max(instant(at) - now, timedelta(0))
