"""Sets of jobs as SQL: here and in `terms.py` it is put together, only from what stands in these files.

In which branches the rows of a `Where` are, and how each is sorted, `conveyor.store.sql` says. Values are
parameters, always.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from conveyor.core.store import JobRecord, JobState, Order, Where
from conveyor.store.pg.statements import Row, Session, text_of
from conveyor.store.pg.terms import (
    IN_STATES,
    MAY_CEASE,
    STILL_EXPIRED,
    condition_of,
    is_found_otherwise,
)
from conveyor.store.sql import (
    BACKWARDS,
    BY_END,
    GROUPED,
    UNGROUPED,
    Branch,
    Sorting,
    bounded_counts,
    is_of_a_queue,
    merged_branches,
    ordered_apart,
    sorting,
)

#: No limit.
EVERY: Final = (1 << 63) - 1


async def seqs(session: Session, where: Where, now: datetime, *, limit: int = EVERY) -> list[int]:
    """The numbers of the jobs of a set, in the order they were added."""
    found = _chosen(where, now, limit=limit, order=Order.ADDED, after=None)
    return [row[0] for row in await _asked(session, *found)] if found else []


async def rows(
    session: Session,
    where: Where,
    now: datetime,
    *,
    limit: int,
    order: Order,
    after: JobRecord | None,
) -> list[Row]:
    """The rows of `read_records.sql` of the jobs of a set, in order, behind a job; by one statement."""
    found = _chosen(where, now, limit=limit, order=order, after=after)
    if found is None:
        return []
    chosen, parameters = found
    return await _asked(session, text_of("read_records").replace("{seqs}", chosen), parameters)


def _chosen(
    where: Where, now: datetime, *, limit: int, order: Order, after: JobRecord | None
) -> tuple[str, dict[str, Any]] | None:
    """What selects the numbers of the jobs of a set, with its parameters; None: there can be none."""
    condition = condition_of(where, now)
    added = _ADDED[where.queue is not None or is_found_otherwise(where)]
    parameters = condition.parameters | {"limit": limit}
    if after is not None:
        parameters |= {
            "after_seq": after.seq,
            "after_sort_key": after.sort_key,
            "after_tie_break": -after.seq if after.lifo else after.seq,
            "after_finished": after.finished_at,
        }
    branches = ordered_apart(condition.branches, order, where)
    if not branches:
        return None
    orders = [sorting(_ORDERS[added], _NEVER, order, branch, after) for branch in branches]
    if where.group is not None:
        orders = [
            Sorting(key, _unknown(behind) if _is_by_group(where, branch) else behind)
            for branch, (key, behind) in zip(branches, orders, strict=True)
        ]
    backwards = order in BACKWARDS
    selects = [
        _select(
            _all(
                *condition.of(branch, apart=_is_apart(where, branch, order)),
                *((behind,) if after is not None else ()),
            ),
            key,
            backwards=backwards,
        )
        for branch, (key, behind) in zip(branches, orders, strict=True)
    ]
    key, _ = orders[0]
    merged = _MERGED.format(
        selects="\n  union all\n".join(selects),
        order=_order([f"key_{n}" for n in range(len(key))], backwards=backwards),
    )
    return merged, parameters


async def locked(session: Session, where: Where, now: datetime, found: Sequence[int]) -> list[Row]:
    """The rows of `read_rows.sql` of these jobs, locked; without those that have left the set since."""
    if not found:
        return []
    condition = condition_of(where, now)
    terms = [term for term in condition.terms if term in MAY_CEASE]
    if where.states is not None:
        terms.append(IN_STATES)
        condition.parameters["states"] = sorted(where.states)
    if where.expired:
        terms.append(STILL_EXPIRED)
    sql = text_of("read_rows_of_set").replace("{terms}", _all("true", *terms))
    return await _asked(session, sql, condition.parameters | {"seqs": list(found)})


async def counts(
    session: Session, where: Where, now: datetime, *, by_group: bool, most: int | None = None
) -> dict[tuple[str | None, JobState], int]:
    """How many jobs the set has, by queue (or group) and state; no number is over `most`."""
    condition = condition_of(where, now)
    some = most is not None and is_of_a_queue(where) and not by_group
    template = _COUNT_SOME if some else _COUNT
    selects = [
        template.format(
            of=("null" if branch == UNGROUPED else "grp") if by_group else "queue",
            state="state" if branch.state is None else f"'{branch.state}'",
            conditions=_all(
                *condition.of(branch, apart=some or branch.state not in {None, JobState.WAITING}),
            ),
        )
        for branch in (merged_branches(condition.branches) if some else condition.branches)
    ]
    if not selects:
        return {}
    sql = "\nunion all\n".join(selects)
    return bounded_counts(await _asked(session, sql, condition.parameters | {"most": most}), most)


async def _asked(session: Session, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
    return await session.query(session.statements.composed(sql), parameters)


_SELECT: Final = """  (
    select {columns}
      from {{schema}}.conveyor_jobs
     where {conditions}
     order by {order}
     limit %(limit)s
  )"""
_MERGED: Final = """select seq
  from (
{selects}
  ) found
 order by {order}
 limit %(limit)s"""
_COUNT: Final = """select {of}::text as key, {state} as state, count(*) as jobs
  from {{schema}}.conveyor_jobs
 where {conditions}
 group by 1, 2"""
#: The same of one queue, no further than that.
_COUNT_SOME: Final = """select {of}::text as key, {state} as state, count(*) as jobs
  from (
    select queue
      from {{schema}}.conveyor_jobs
     where {conditions}
     order by seq + 0
     limit %(most)s
  ) looked_at
 group by 1, 2"""
#: For the orders that go by when a job finished: what stands for that of one that has not. A constant, so
#: that an index may have the order.
_NEVER: Final = {Order.FINISHED: "'-infinity'::timestamptz", Order.EARLIEST: "'infinity'::timestamptz"}
_AFTER: Final = "%(after_finished)s::timestamptz"
#: What says when a job was added: of all queues the primary key; else no plan may take that, for it reads all
#: others on its way.
_ADDED: Final = ("seq", "seq + 0")
_ORDERS: Final = {
    added: {
        Order.ADDED: Sorting((added,), f"{added} > %(after_seq)s"),
        Order.NEWEST: Sorting((added,), f"{added} < %(after_seq)s"),
        Order.FINISHED: Sorting(
            ("coalesce(finished_at, '-infinity')", "seq"),
            f"(coalesce(finished_at, '-infinity'), seq) < (coalesce({_AFTER}, '-infinity'), %(after_seq)s)",
        ),
        Order.EARLIEST: Sorting(
            ("coalesce(finished_at, 'infinity')", "seq"),
            f"(coalesce(finished_at, 'infinity'), seq) > (coalesce({_AFTER}, 'infinity'), %(after_seq)s)",
        ),
        Order.CLAIM: Sorting(
            ("sort_key", "tie_break"),
            "(sort_key, tie_break) > (%(after_sort_key)s::float8, %(after_tie_break)s::bigint)",
        ),
    }
    for added in _ADDED
}


def _all(*terms: str) -> str:
    return "\n       and ".join(terms)


def _order(columns: Iterable[str], *, backwards: bool) -> str:
    return ", ".join(f"{column} desc" if backwards else column for column in columns)


def _is_by_group(where: Where, branch: Branch) -> bool:
    """Whether the jobs of a branch are found by their group, and then sorted."""
    return branch.state is JobState.WAITING and where.group is not None


def _unknown(behind: str) -> str:
    """What is behind a job, as no index knows it.

    Else a plan takes the index of an order for it, and reads what is behind the job of all other groups.
    """
    return behind.replace("(sort_key, ", "(sort_key + 0, ").replace("seq + 0 ", "seq - 0 ")


def _is_apart(where: Where, branch: Branch, order: Order) -> bool:
    """Whether the jobs of a branch are found in that order by an index that stands apart."""
    if branch.state is None or _is_by_group(where, branch):
        return False
    if order in BY_END:
        return not branch.finished
    return order is not Order.CLAIM or branch == GROUPED or branch.state is not JobState.WAITING


def _select(conditions: str, key: tuple[str, ...], *, backwards: bool) -> str:
    columns = ", ".join((*(f"{column} as key_{n}" for n, column in enumerate(key)), "seq"))
    return _SELECT.format(columns=columns, conditions=conditions, order=_order(key, backwards=backwards))
