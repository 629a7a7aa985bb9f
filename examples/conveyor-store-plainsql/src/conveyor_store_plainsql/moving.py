"""How jobs move: insert, claim, renew, settle and advance, each within one transaction."""

# ruff: noqa: S608 - statements are put together from what stands in this file

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
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
    Renewed,
    Settled,
    Stalled,
    Undecodable,
    new_row,
    planned,
    transitions,
)
from conveyor.store import sql
from conveyor.store.sql import REMEMBERED, Row, UnitOfWork, run_now
from conveyor_store_plainsql.jobs import Jobs, by_key, flat, marks
from conveyor_store_plainsql.rows import all_stored, instant, record, row, stored

#: Jobs in line, and when time alone lets a claim have them: they are due, and no pause is left.
IN_LINE = """
select j.seq, j.name, j.state, j.stalled,
       max(coalesce(j.run_at, :now), coalesce(q.until, :now), coalesce(n.until, :now)) as free_at
  from conveyor_jobs j
  left join conveyor_pauses q on q.queue = j.queue and q.name = ''
  left join conveyor_pauses n on n.queue = j.queue and n.name = 'n' || j.name
 where j.queue = :queue
   and j.state in ('waiting', 'delayed')
   and (q.queue is null or q.until is not null)
   and (n.queue is null or n.until is not null)
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
    db: Connection, now: datetime, jobs: Sequence[JobRecord], *, new_only: bool = False
) -> Sequence[Inserted]:
    """Add jobs, and tell which job stands for each."""
    plan = planned(jobs, _standing(db, jobs), now, new_only=new_only)
    parents = by_key(db, plan.parents) if plan.parents else []
    waiting = {
        JobKey(each["queue"], each["id"]) for each in parents if each["state"] == JobState.WAITING_CHILDREN
    }
    for job, begins in plan.created:
        columns = all_stored(new_row(job, begins, now, released=job.parent in plan.parents - waiting))
        names, places = ", ".join(columns), ", ".join(f":{name}" for name in columns)
        db.execute(f"insert into conveyor_jobs ({names}) values ({places})", columns)
    children = Counter(job.parent for job, _ in plan.created if job.parent in waiting)
    db.executemany(
        "update conveyor_jobs set pending = pending + ? where queue = ? and id = ?",
        [(count, *parent) for parent, count in children.items() if parent is not None],
    )
    return plan.answers


def _standing(db: Connection, jobs: Sequence[JobRecord]) -> dict[int, Inserted]:
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
    capacity = _capacity(db, request)
    order = "sort_key, -seq" if request.newest_first else OLDEST_FIRST
    line = db.execute(f"{IN_LINE} order by {order}", {"queue": request.queue, "now": stored(now)}).fetchall()
    line = [job for job in line if request.names is None or job["name"] in request.names]
    chosen = [job for job in line if job["free_at"] <= stored(now) and job["state"] == "waiting"][:capacity]
    cut_short = False
    if request.stalled is not Stalled.ALIKE:
        first = next((n for n, job in enumerate(chosen) if job["stalled"]), capacity)
        cut_short = first < len(chosen)
        chosen = chosen[: max(first, 1 if request.stalled is Stalled.ALONE else 0)]
    claimed = _leased(db, now, request, [job["seq"] for job in chosen])
    if len(chosen) == capacity or cut_short:
        return replace(claimed, cut_short=cut_short)
    later = [job["free_at"] for job in line if job not in chosen]
    return replace(claimed, wait=(instant(min(later)) - now) if later else None)


def _capacity(db: Connection, request: Claim) -> int:
    """How many jobs a claim may have at most. A server would lock the queue first, in a row of its own."""
    if request.limit is None or request.limit.active is None:
        return request.count
    active: int = db.execute(
        "select count(*) from conveyor_jobs where queue = ? and state = 'active'", (request.queue,)
    ).fetchone()[0]
    return max(0, min(request.count, request.limit.active - active))


def take(db: Connection, now: datetime, ids: Collection[str], request: Claim) -> Claimed:
    """Lease those of these jobs that wait for anything."""
    there = by_key(db, [JobKey(request.queue, id) for id in set(ids)])
    found = sorted(there, key=lambda job: (job["sort_key"], -job["seq"] if job["lifo"] else job["seq"]))
    return _leased(db, now, request, [job["seq"] for job in found if job["state"] in WAITING])


def _leased(db: Connection, now: datetime, request: Claim, seqs: Sequence[int]) -> Claimed:
    lease = {"token": request.token, "until": now + request.lease, "worker": request.worker}
    values = all_stored({**lease, "started": request.started, "now": now})
    db.executemany(LEASE, [{**values, "seq": seq} for seq in seqs])
    jobs, undecodable = list[JobRecord](), list[Undecodable]()
    for seq in seqs:
        columns = db.execute("select * from conveyor_jobs where seq = ?", (seq,)).fetchone()
        try:
            jobs.append(record(columns))
        except (ValueError, TypeError, OverflowError) as error:
            held = Lease(request.queue, columns["id"], request.token)
            undecodable.append(Undecodable(lease=held, attempt=columns["attempt"], reason=str(error)))
    return Claimed(jobs=jobs, now=now, undecodable=undecodable)


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
        return insert(db, now, records)

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
