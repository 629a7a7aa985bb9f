"""Groups: their sizes, whose turn it is, and which are forgotten."""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from sqlite3 import Connection
from sqlite3 import Row as Columns

from conveyor.core.store import Claim, JobRecord, JobState, check_groups, group_growth
from conveyor.store.sql import FairShare, Picks, Position, Scope, SubQueue, rate_of, run_now, windows
from conveyor_store_plainsql.limits import Starts

#: Groups with nothing to come that were served before all that have waiting jobs.
IDLE = """
select group_name
  from conveyor_groups
 where queue = :queue
   and group_name not in (
     select group_name
       from conveyor_jobs
      where queue = :queue and group_name is not null and state in ('waiting', 'delayed', 'active')
   )
   and last_served < coalesce(
     (
       select min(case when j.group_name is null then q.ungrouped else coalesce(g.last_served, 0) end)
         from conveyor_jobs j
         join conveyor_queues q on q.queue = j.queue
         left join conveyor_groups g on g.queue = j.queue and g.group_name = j.group_name
        where j.queue = :queue and j.state = 'waiting'
     ),
     1 << 62
   )
"""
SIZE = """
select count(*) from conveyor_jobs where queue = ? and group_name = ? and state in ('waiting', 'delayed')
"""
SERVE = """
insert into conveyor_groups (queue, group_name, last_served) values (?, ?, ?)
    on conflict (queue, group_name) do update set last_served = excluded.last_served
"""


def refuse_full(db: Connection, created: Sequence[tuple[JobRecord, JobState]]) -> None:
    """Raise GroupFullError if one of these jobs, which are not written yet, is one too many in its group."""
    check_groups(created, {group: db.execute(SIZE, group).fetchone()[0] for group in group_growth(created)})


def know(db: Connection, groups: Collection[tuple[str, str]]) -> None:
    """Know these groups, and that their queues have groups."""
    db.executemany(
        "insert or ignore into conveyor_queues (queue) values (?)", {(queue,) for queue, _ in groups}
    )
    db.executemany("insert or ignore into conveyor_groups (queue, group_name) values (?, ?)", groups)


def picked(
    db: Connection, now: datetime, request: Claim, free: Iterable[Columns], count: int
) -> tuple[FairShare, Picks]:
    """Pick up to `count` of the jobs that are free, which come in the order of urgency."""
    found = db.execute(
        "select picks, ungrouped from conveyor_queues where queue = ?", (request.queue,)
    ).fetchone()
    picks = (
        Picks(0, 0, counted=False)
        if found is None
        else Picks(found["picks"], found["ungrouped"], counted=True)
    )
    share = FairShare(request, now, count=count, picks=picks)
    jobs = defaultdict[str | None, deque[Position]](deque)
    for job in free:
        lifo = request.newest_first or job["lifo"]
        jobs[job["group_name"]].append((job["sort_key"], -job["seq"] if lifo else job["seq"]))
    if (rate := rate_of(request.group_limit)) is not None:
        names = [group for group in jobs if group is not None]
        share.windows.update(run_now(windows(Starts(db), Scope(request.queue, "group"), names, rate, now)))
    active = _numbers(
        db,
        "select group_name, count(*) from conveyor_jobs where queue = ? and state = 'active' group by 1",
        request.queue,
    )
    served = _numbers(
        db, "select group_name, last_served from conveyor_groups where queue = ?", request.queue
    )
    for group, positions in jobs.items():
        subqueue = SubQueue(group, "", positions, positions[-1], ended=True)
        share.add(subqueue, active=active.get(group, 0), last_served=served.get(group, 0))
    share.pick()  # all jobs of all groups have been read, so it never asks for more
    return share, picks


def note(db: Connection, queue: str, picks: Picks, groups: Sequence[str | None]) -> None:
    """Note from which groups jobs were picked."""
    if picks.counted and groups:
        latest, ungrouped, served = picks.after(groups)
        db.execute(
            "update conveyor_queues set picks = ?, ungrouped = ? where queue = ?", (latest, ungrouped, queue)
        )
        db.executemany(SERVE, [(queue, group, number) for group, number in served.items()])


def forget_idle(db: Connection, queue: str) -> None:
    """Forget groups that need not be known, and the turns of a queue that knows no group any more."""
    idle = db.execute(IDLE, {"queue": queue}).fetchall()
    db.executemany(
        "delete from conveyor_groups where queue = ? and group_name = ?", [(queue, group) for [group] in idle]
    )
    db.execute(
        "delete from conveyor_queues where queue = :queue"
        " and not exists (select 1 from conveyor_groups where queue = :queue)",
        {"queue": queue},
    )


def _numbers(db: Connection, sql: str, queue: str) -> dict[str | None, int]:
    return dict(db.execute(sql, (queue,)).fetchall())
