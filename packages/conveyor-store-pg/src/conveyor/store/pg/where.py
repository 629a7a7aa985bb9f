"""Sets of jobs as SQL: here and in `terms.py` it is put together, only from what stands in these files.

The rows that a `Where` means are the union of branches, one for each state, so that each can use the
partial index of its state. Values are parameters, always.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from conveyor.core.store import JobRecord, JobState, Order, Where
from conveyor.store.pg.statements import Row, Session, text_of
from conveyor.store.pg.terms import (
    ALL_WAITING,
    FINISHED,
    GROUPED,
    IN_STATES,
    MAY_CEASE,
    STILL_EXPIRED,
    UNGROUPED,
    UNRETAINED,
    Branch,
    condition_of,
    is_found_otherwise,
    is_of_a_queue,
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
    # Of all queues, that is the primary key; else no plan may take it, for it reads all others on its way.
    added = "seq" if where.queue is None and not is_found_otherwise(where) else "seq + 0"
    parameters = condition.parameters | {"limit": limit}
    if after is not None:
        parameters |= {
            "after_seq": after.seq,
            "after_sort_key": after.sort_key,
            "after_tie_break": -after.seq if after.lifo else after.seq,
            "after_finished": after.finished_at,
        }
    branches = _ordered_apart(condition.branches, order, where)
    if not branches:
        return None
    orders = [_ordered(order, branch, added, after) for branch in branches]
    if where.group is not None:
        orders = [
            (key, backwards, _unknown(behind) if _is_by_group(where, branch) else behind)
            for branch, (key, backwards, behind) in zip(branches, orders, strict=True)
        ]
    selects = [
        _select(
            _all(
                *condition.of(branch, apart=_is_apart(where, branch, order)),
                *((behind,) if after is not None else ()),
            ),
            key,
            backwards=backwards,
        )
        for branch, (key, backwards, behind) in zip(branches, orders, strict=True)
    ]
    key, backwards, _ = orders[0]
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
            of=("null" if UNGROUPED in branch.sql else "grp") if by_group else "queue",
            state="state" if branch.state is None else f"'{branch.state}'",
            conditions=_all(
                *condition.of(branch, apart=some or branch.state not in {None, JobState.WAITING}),
            ),
        )
        for branch in (_merged(condition.branches) if some else condition.branches)
    ]
    found: dict[tuple[str | None, JobState], int] = {}
    if selects:
        for key, state, jobs in await _asked(
            session, "\nunion all\n".join(selects), condition.parameters | {"most": most}
        ):
            if state in _STATES:
                found[key, _STATES[state]] = found.get((key, _STATES[state]), 0) + jobs
    return found if most is None else {key: min(jobs, most) for key, jobs in found.items()}


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
_STATES: Final = {state.value: state for state in JobState}
#: For the orders that go by when a job finished: what stands for that of one that has not. A constant, so
#: that an index may have the order.
_NEVER: Final = {Order.FINISHED: "'-infinity'::timestamptz", Order.EARLIEST: "'infinity'::timestamptz"}
_AFTER: Final = "%(after_finished)s::timestamptz"
#: In tie_break of what says when a job was added.
_ADDED: Final = "{added}"
#: For each order: what to sort by, whether backwards, and what is behind a job.
_ORDERS: Final[dict[Order, tuple[tuple[str, ...], bool, str]]] = {
    Order.ADDED: ((_ADDED,), False, f"{_ADDED} > %(after_seq)s"),
    Order.NEWEST: ((_ADDED,), True, f"{_ADDED} < %(after_seq)s"),
    Order.FINISHED: (
        ("coalesce(finished_at, '-infinity')", "seq"),
        True,
        f"(coalesce(finished_at, '-infinity'), seq) < (coalesce({_AFTER}, '-infinity'), %(after_seq)s)",
    ),
    Order.EARLIEST: (
        ("coalesce(finished_at, 'infinity')", "seq"),
        False,
        f"(coalesce(finished_at, 'infinity'), seq) > (coalesce({_AFTER}, 'infinity'), %(after_seq)s)",
    ),
    Order.CLAIM: (
        ("sort_key", "tie_break"),
        False,
        "(sort_key, tie_break) > (%(after_sort_key)s::float8, %(after_tie_break)s::bigint)",
    ),
}


def _all(*terms: str) -> str:
    return "\n       and ".join(terms)


def _order(columns: Iterable[str], *, backwards: bool) -> str:
    return ", ".join(f"{column} desc" if backwards else column for column in columns)


def _ordered_apart(branches: Sequence[Branch], order: Order, where: Where) -> Sequence[Branch]:
    """The branches as the indexes of that order have them."""
    if order is Order.CLAIM:
        return branches
    merged = _merged(branches)
    if order not in _NEVER:
        return merged
    return [part for branch in merged for part in _finished_apart(branch, where)]


def _merged(branches: Iterable[Branch]) -> Sequence[Branch]:
    """The branches, with one for all waiting jobs, with and without a group."""
    return list(
        dict.fromkeys(ALL_WAITING if branch.state is JobState.WAITING else branch for branch in branches)
    )


def _finished_apart(branch: Branch, where: Where) -> Iterable[Branch]:
    """The finished jobs of a branch, those without and those with a retention; any other branch as it is."""
    if FINISHED not in branch.sql:
        return (branch,)
    return tuple(
        Branch(branch.state, f"{branch.sql} and {UNRETAINED} = {value}")
        for value in ((1,) if where.unretained else (1, 0))
    )


def _ordered(
    order: Order, branch: Branch, added: str, after: JobRecord | None
) -> tuple[tuple[str, ...], bool, str]:
    """What to sort the rows of a branch by, whether backwards, and what is behind a job."""
    key, backwards, behind = _ORDERS[order]
    if order in _NEVER and FINISHED in branch.sql:
        key, behind = (("finished_at", "seq"), behind.replace(key[0], "finished_at"))
    elif order in _NEVER and branch.state is not None:
        # Those that have not finished come last of all.
        as_added = _ORDERS[Order.NEWEST if order is Order.FINISHED else Order.ADDED][2]
        behind = "true" if after is not None and after.finished_at is not None else as_added
        key = (_NEVER[order], _ADDED)
    return tuple(part.replace(_ADDED, added) for part in key), backwards, behind.replace(_ADDED, added)


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
    if order in _NEVER:
        return FINISHED not in branch.sql
    return order is not Order.CLAIM or branch is GROUPED or branch.state is not JobState.WAITING


def _select(conditions: str, key: tuple[str, ...], *, backwards: bool) -> str:
    columns = ", ".join((*(f"{column} as key_{n}" for n, column in enumerate(key)), "seq"))
    return _SELECT.format(columns=columns, conditions=conditions, order=_order(key, backwards=backwards))
