"""Sets of jobs as SQL: the only place where SQL is put together, and only from what stands in this file.

In which branches the rows of a `Where` are, and how each is sorted, `conveyor.store.sql` says. Values are
parameters, always.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from sqlite3 import Connection
from typing import Any, Final

from conveyor.core.store import JobRecord, JobState, Order, Where
from conveyor.store.sql import (
    ANY_STATE,
    BACKWARDS,
    GROUPED,
    UNGROUPED,
    Branch,
    Sorting,
    bounded_counts,
    branches_of,
    given_terms,
    is_of_a_few,
    is_of_a_queue,
    ordered_apart,
    sorting,
)
from conveyor.store.sqlite.rows import encoded_sort_key, tie_break_of, written
from conveyor.store.sqlite.statements import execute, statement, text

#: Whether a job has no retention, as the index of finished jobs knows it.
_UNRETAINED: Final = "(expires_at is null and keep_count is null)"
#: Where the claimable jobs of each kind of sub-queue are; for the `{subqueue}` of a statement.
_SUBQUEUES: Final = {
    "ungrouped": "queue = :queue and state = 'waiting' and grp is null",
    "named": "queue = :queue and name = :name and state = 'waiting' and grp is null",
    "grouped": "queue = :queue and grp = :group and name = :name and state = 'waiting'",
}

_KEPT_BY_COUNT: Final = """select seq
    from (
      select
        seq,
        keep_count,
        holds_key = 1 and unique_until > :now as held,
        row_number() over (partition by queue, state order by finished_at desc, seq desc) - 1 as later
        from conveyor_jobs
       where keep_count is not null
         and finished_at is not null
         and {queue}
    )
   where later >= keep_count
     and held is not true"""
#: All of a queue.
_EXPIRED: Final = """seq in (
  select seq
    from conveyor_jobs
   where expires_at <= :now
     and {queue}
  union all
  {by_count}
)""".replace("{by_count}", _KEPT_BY_COUNT)
#: The same of a few rows that an index finds; those kept by count are looked for if one of them is.
_EXPIRED_HERE: Final = """(expires_at <= :now or keep_count is not null and seq in (
  {by_count}
))""".replace("{by_count}", _KEPT_BY_COUNT)
_QUEUES_OF_CHILDREN: Final = """queue in (
  select queue
    from conveyor_jobs
   where parent_queue = :parent ->> 0
     and parent_id = :parent ->> 1
)"""


@cache
def in_subqueue(name: str, kind: str) -> str:
    """The statement in that file, for that kind of sub-queue."""
    return statement(name).replace("{subqueue}", _SUBQUEUES[kind])


@dataclass(frozen=True, slots=True)
class _Condition:
    """Which rows: those of any branch for which all of the terms hold."""

    branches: Sequence[Branch]
    terms: tuple[str, ...]
    parameters: dict[str, Any]


def seqs(
    db: Connection,
    where: Where,
    now: datetime,
    *,
    limit: int,
    order: Order = Order.ADDED,
    after: JobRecord | None = None,
) -> list[int]:
    """The numbers of the jobs of a set, in order, behind a job."""
    condition = _condition(where, now)
    parameters = condition.parameters | {"limit": limit}
    if after is not None:
        parameters |= {
            "after_seq": after.seq,
            "after_sort_key": encoded_sort_key(after.sort_key),
            "after_tie_break": tie_break_of(after.seq, lifo=after.lifo),
            "after_finished": _finished_at(after, order),
        }
    found: list[tuple[Any, ...]] = []
    subqueues = _is_of_subqueues(where)
    for branch in condition.branches if subqueues else ordered_apart(condition.branches, order, where):
        key, behind = sorting(_ORDERS, _NEVER, order, branch, after)
        sql = _select(
            _all(branch.sql(_UNRETAINED), *condition.terms, *((behind,) if after is not None else ())),
            key,
            backwards=order in BACKWARDS,
            index=_index(where, branch),
        )
        found += (tuple(row) for row in json.loads(execute(db, sql, parameters).fetchone()[0]))
    found.sort(reverse=order in BACKWARDS)
    return [row[-1] for row in found[:limit]]


def counts(
    db: Connection, where: Where, now: datetime, *, by_group: bool, most: int | None = None
) -> dict[tuple[str | None, JobState], int]:
    """How many jobs the set has, by queue (or group) and state; no number is over `most`."""
    condition = _condition(where, now)
    parameters = condition.parameters | {"most": most}
    template = _COUNT if most is None or not is_of_a_queue(where) or by_group else _COUNT_SOME
    found: list[tuple[str | None, str, int]] = []
    for branch in condition.branches:
        # What the branch says is not asked of each row, so that its index is enough.
        of = ("null" if branch == UNGROUPED else "grp") if by_group else "queue"
        state = "state" if branch.state is None else f"'{branch.state}'"
        sql = template.format(
            of=of,
            state=state,
            conditions=_all(branch.sql(_UNRETAINED), *condition.terms),
            group=f"{of}, state" if branch.state is None else of,
        )
        found += json.loads(execute(db, sql, parameters).fetchone()[0])
    return bounded_counts(found, most)


_SELECT: Final = """select json_group_array(json_array({names}, seq))
  from (
    select {columns}, seq
      from conveyor_jobs{by}
     where {conditions}
     order by {order}
     limit :limit
  )"""
_COUNT: Final = """select json_group_array(json_array(key, state, jobs))
  from (
    select {of} as key, {state} as state, count(*) as jobs
      from conveyor_jobs
     where {conditions}
     group by {group}
  )"""
#: The same of one queue, no further than that.
_COUNT_SOME: Final = """select json_group_array(json_array(key, state, jobs))
  from (
    select {of} as key, {state} as state, count(*) as jobs
      from (
        select queue
          from conveyor_jobs
         where {conditions}
         limit :most
      )
     group by {group}
  )"""
#: For the orders that go by when a job finished: what stands for that of one that has not.
_NEVER: Final = {Order.FINISHED: "''", Order.EARLIEST: "'~'"}
#: For each order: what to sort by, and what is behind a job.
_ORDERS: Final = {
    Order.ADDED: Sorting(("seq",), "seq > :after_seq"),
    Order.NEWEST: Sorting(("seq",), "seq < :after_seq"),
    Order.FINISHED: Sorting(
        ("coalesce(finished_at, '')", "seq"),
        "(coalesce(finished_at, ''), seq) < (:after_finished, :after_seq)",
    ),
    Order.EARLIEST: Sorting(
        ("coalesce(finished_at, '~')", "seq"),
        "(coalesce(finished_at, '~'), seq) > (:after_finished, :after_seq)",
    ),
    Order.CLAIM: Sorting(
        ("sort_key", "tie_break"), "(sort_key, tie_break) > (:after_sort_key, :after_tie_break)"
    ),
}


def _finished_at(job: JobRecord, order: Order) -> str:
    return _NEVER.get(order, "").strip("'") if job.finished_at is None else written(job.finished_at)


def _all(*terms: str) -> str:
    return "\n       and ".join(terms)


def _select(conditions: str, key: tuple[str, ...], *, backwards: bool, index: str | None) -> str:
    sorted_by = (column for column in key if column not in _NEVER.values())
    order = ", ".join(f"{column} desc" if backwards else column for column in sorted_by)
    columns = ", ".join(f"{column} as key_{n}" for n, column in enumerate(key))
    names = ", ".join(f"key_{n}" for n in range(len(key)))
    by = "" if index is None else f" indexed by {index}"
    return _SELECT.format(names=names, columns=columns, by=by, conditions=conditions, order=order)


def _condition(where: Where, now: datetime) -> _Condition:
    parameters: dict[str, Any] = {"now": written(now)}
    terms: list[str] = []
    for (term, parameter), value in given_terms(where, _TERMS):
        terms.append(term)
        parameters |= parameter(value)
    if where.states is not None and _is_found_otherwise(where):
        # The plus keeps SQLite from going by the state instead, which may be that of a great many.
        terms.append("+state in (select value from json_each(:states))")
        parameters["states"] = text(sorted(where.states))
    if where.unretained:
        terms.append(f"finished_at is not null and {_UNRETAINED} = 1")
    if where.older_than is not None:
        # Of finished jobs alone, as their index knows it.
        since = "finished_at" if where.unretained else "coalesce(finished_at, created_at)"
        terms.append(f"{since} <= :born")
        parameters["born"] = written(now - where.older_than)
    if where.expired and is_of_a_few(where):
        terms.append(_EXPIRED_HERE.replace("{queue}", _queues(where)))
    elif where.expired:
        # Another plus, so that it goes by the numbers that this finds, and not by the queue.
        terms = [term.replace("queue = :queue", "+queue = :queue") for term in terms]
        terms.append(_EXPIRED.replace("{queue}", _queues(where)))
    return _Condition(_branches(where), tuple(terms), parameters)


def _queues(where: Where) -> str:
    """Of which queues the jobs of a set may be."""
    if where.queue is not None:
        return "queue = :queue"
    return "true" if where.parent is None else _QUEUES_OF_CHILDREN


#: What each field of a `Where` says of a row, and how its value is passed.
_TERMS: Final[dict[str, tuple[str, Callable[[Any], dict[str, Any]]]]] = {
    "queue": ("queue = :queue", lambda queue: {"queue": queue}),
    "ids": ("id in (select value from json_each(:ids))", lambda ids: {"ids": text(sorted(ids))}),
    "names": ("name in (select value from json_each(:names))", lambda names: {"names": text(sorted(names))}),
    "group": ("grp = :group", lambda group: {"group": group}),
    "parent": (
        "parent_queue = :parent ->> 0 and parent_id = :parent ->> 1",
        lambda parent: {"parent": text(parent)},
    ),
    "unique_key": (
        "unique_key = :unique_key and holds_key = 1 and (unique_until is null or unique_until > :now)",
        lambda key: {"unique_key": key},
    ),
    "report": ("report = :report", lambda report: {"report": report}),
}


def _branches(where: Where) -> Sequence[Branch]:
    if _is_of_subqueues(where):
        return [GROUPED]
    return [ANY_STATE] if _is_found_otherwise(where) else branches_of(where)


def _index(where: Where, branch: Branch) -> str | None:
    """The index to go by, where SQLite would choose another."""
    if _is_of_subqueues(where):
        return "conveyor_jobs_waiting_subqueue"
    return "conveyor_jobs_finished" if branch.unretained is not None and where.queue is not None else None


def _is_found_otherwise(where: Where) -> bool:
    """Whether the set is not found by its states: an index of its own has it, or it is of all jobs."""
    everything = where.queue is None and where.states is None
    grouped = where.group is not None and not _is_of_subqueues(where)
    return everything or grouped or where.expired or is_of_a_few(where)


def _is_of_subqueues(where: Where) -> bool:
    """Whether the set is of a group's waiting jobs, which have an index without the finished ones."""
    found = (
        where.queue is not None and where.group is not None and where.states == frozenset({JobState.WAITING})
    )
    return found and not where.expired and not is_of_a_few(where)
