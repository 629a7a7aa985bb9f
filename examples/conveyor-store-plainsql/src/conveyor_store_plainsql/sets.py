"""Sets of jobs: find, count, change and remove them. What a `Where` means stands in one table of terms."""

# ruff: noqa: S608 - statements are put together from what stands in this file

import logging
from collections.abc import Collection, Sequence
from datetime import datetime
from sqlite3 import Connection
from typing import Any

from conveyor.core.store import Change, Deleted, JobKey, JobRecord, JobState, Order, Where
from conveyor.store import sql
from conveyor.store.sql import Row, UnitOfWork, run_now
from conveyor_store_plainsql.jobs import Jobs
from conveyor_store_plainsql.rows import record, row, stored

log = logging.getLogger(__name__)

#: What each field of a `Where` says of a row.
TERMS = {
    "queue": "queue = :queue",
    "ids": "id in ({ids})",
    "states": "state in ({states})",
    "names": "name in ({names})",
    "group": "group_name = :group",
    "parent": "(parent_queue, parent_id) = (:parent_queue, :parent_id)",
    "unique_key": "holds_key = 1 and unique_key = :unique_key",
    "report": "report = :report",
    "older_than": "coalesce(finished_at, created_at) <= :born",
}
UNRETAINED = "finished_at is not null and expires_at is null and keep_count is null"
EXPIRED = """(expires_at <= :now or seq in (
  select seq
    from (
      select seq,
             keep_count,
             holds_key = 1 and unique_until > :now as held,
             row_number() over (partition by queue, state order by finished_at desc, seq desc) - 1 as later
        from conveyor_jobs
       where keep_count is not null and finished_at is not null
    ) kept
   where later >= keep_count and held is not true
))"""
#: For each order: what to sort by, and what is behind a job. Who has not finished comes last.
TIE_BREAK = "case when lifo then -seq else seq end"
NEVER = 1 << 62
ORDERS = {
    Order.ADDED: ("seq", "seq > :seq"),
    Order.NEWEST: ("seq desc", "seq < :seq"),
    Order.FINISHED: (
        "coalesce(finished_at, -1) desc, seq desc",
        "(coalesce(finished_at, -1), seq) < (coalesce(:finished_at, -1), :seq)",
    ),
    Order.EARLIEST: (
        f"coalesce(finished_at, {NEVER}), seq",
        f"(coalesce(finished_at, {NEVER}), seq) > (coalesce(:finished_at, {NEVER}), :seq)",
    ),
    Order.CLAIM: (f"sort_key, {TIE_BREAK}", f"(sort_key, {TIE_BREAK}) > (:sort_key, :tie_break)"),
}


def find(
    db: Connection, now: datetime, where: Where, *, limit: int, after: JobRecord | None, order: Order
) -> list[JobRecord]:
    """The jobs of a set, in order, a page at a time."""
    terms, values = _condition(where, now)
    by, behind = ORDERS[order]
    if after is not None:
        terms.append(behind)
        values |= {"seq": after.seq, "sort_key": after.sort_key, "finished_at": stored(after.finished_at)}
        values["tie_break"] = -after.seq if after.lifo else after.seq
    found: list[JobRecord] = []
    for columns in db.execute(f"select * from conveyor_jobs where {_all(terms)} order by {by}", values):
        if len(found) == limit:
            break
        try:
            found.append(record(columns))
        except (ValueError, TypeError, OverflowError) as error:
            log.warning("job %r cannot be read, and is left out: %s", columns["id"], error)
    return found


def count(
    db: Connection, now: datetime, where: Where, *, by_group: bool, most: int | None
) -> dict[tuple[str | None, JobState], int]:
    """How many jobs a set has, by queue and state."""
    terms, values = _condition(where, now)
    of = "group_name" if by_group else "queue"
    found = db.execute(
        f"select {of}, state, count(*) from conveyor_jobs where {_all(terms)} group by 1, 2", values
    )
    return {(of, JobState(state)): jobs if most is None else min(jobs, most) for of, state, jobs in found}


def update(db: Connection, now: datetime, where: Where, change: Change) -> frozenset[JobKey]:
    """Apply a change to every job of a set."""
    return run_now(sql.update(UnitOfWork(Jobs(db), now), _rows(db, now, where), change))


def delete(db: Connection, now: datetime, where: Where, limit: int = -1) -> Deleted:
    """Remove jobs of a set, the longest there first."""
    return run_now(sql.delete(UnitOfWork(Jobs(db), now), _rows(db, now, where, limit)))


def forget(db: Connection, now: datetime, queue: str) -> Sequence[JobKey]:
    """Remove every trace of a queue, and return the parents elsewhere that wait for no child any more."""
    released = delete(db, now, Where(queue=queue)).released
    for table in ("tombstones", "pauses", "starts", "windows", "groups", "queues"):
        db.execute(f"delete from conveyor_{table} where queue = ?", (queue,))
    return released


def _rows(db: Connection, now: datetime, where: Where, limit: int = -1) -> list[Row]:
    """The jobs of a set, in the order they were added. A server would lock them: `for update`."""
    terms, values = _condition(where, now)
    found = db.execute(
        f"select * from conveyor_jobs where {_all(terms)} order by seq limit :limit",
        {**values, "limit": limit},
    )
    return [row(columns) for columns in found]


def _condition(where: Where, now: datetime) -> tuple[list[str], dict[str, Any]]:
    """The terms that all hold for the rows of a set, and the values of their parameters."""
    values: dict[str, Any] = {"now": stored(now), "queue": where.queue, "unique_key": where.unique_key}
    values |= {"group": where.group, "report": where.report}
    if where.parent is not None:
        values["parent_queue"], values["parent_id"] = where.parent
    if where.older_than is not None:
        values["born"] = stored(now - where.older_than)
    lists = {name: _listed(name, getattr(where, name), values) for name in ("ids", "states", "names")}
    terms = [term.format(**lists) for name, term in TERMS.items() if getattr(where, name) is not None]
    return terms + [UNRETAINED] * where.unretained + [EXPIRED] * where.expired, values


def _listed(name: str, asked: Collection[str] | None, values: dict[str, Any]) -> str:
    """A parameter for each value that is asked for."""
    found = {f"{name}_{n}": value for n, value in enumerate(sorted(asked or ()))}
    values |= found
    return ", ".join(f":{parameter}" for parameter in found)


def _all(terms: Sequence[str]) -> str:
    return " and ".join(terms) or "true"
