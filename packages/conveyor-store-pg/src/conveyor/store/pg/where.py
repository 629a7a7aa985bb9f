"""Sets of jobs as SQL: the only place where SQL is put together, and only from what stands in this file.

The rows that a `Where` means are the union of branches, one for each state, so that each can use the
partial index of its state. Values are parameters, always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from conveyor.core.store import JobRecord, JobState, Order, Where
from conveyor.store.pg.statements import Row, Session, text_of

#: No limit.
EVERY: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Branch:
    """Rows that one index knows; `state` None: rows of any state, found otherwise."""

    state: JobState | None
    sql: str = "true"


#: Whether a job has no retention, as the index of finished jobs knows it.
_UNRETAINED: Final = "(expires_at is null and keep_count is null)::int"
_FINISHED: Final = " and finished_at is not null"
_UNGROUPED: Final = " and grp is null"
_GROUPED: Final = Branch(JobState.WAITING, "state = 'waiting' and grp is not null")
#: Every state as its indexes know it.
_BRANCHES: Final = (
    Branch(JobState.WAITING, "state = 'waiting'" + _UNGROUPED),
    _GROUPED,
    Branch(JobState.WAITING_CHILDREN, "state = 'waiting-children'"),
    Branch(JobState.DELAYED, "state = 'delayed'"),
    Branch(JobState.ACTIVE, "state = 'active'"),
    Branch(JobState.COMPLETED, "state = 'completed'" + _FINISHED),
    Branch(JobState.FAILED, "state = 'failed'" + _FINISHED),
    Branch(JobState.CANCELLED, "state = 'cancelled'" + _FINISHED),
)
_ALL_WAITING: Final = Branch(JobState.WAITING, "state = 'waiting'")
#: How a statement asks for conveyor_jobs_added or conveyor_jobs_waiting_grouped, which no other comes by.
_APART: Final = ' collate "POSIX"'

_KEPT_BY_COUNT: Final = """select seq
    from (
      select
        seq,
        keep_count,
        holds_key and unique_until > %(now)s as held,
        row_number() over (partition by queue, state order by finished_at desc, seq desc) - 1 as later
        from {schema}.conveyor_jobs
       where keep_count is not null
         and finished_at is not null
         and {queue}
    ) kept
   where later >= keep_count
     and held is not true"""
#: All of a queue.
_EXPIRED: Final = """seq = any(array(
  select seq
    from {schema}.conveyor_jobs
   where expires_at <= %(now)s
     and {queue}
  union all
  {by_count}
))""".replace("{by_count}", _KEPT_BY_COUNT)
#: The same of a few rows that an index finds; those kept by count are looked for if one of them is.
_EXPIRED_HERE: Final = """(expires_at <= %(now)s or keep_count is not null and seq in (
  {by_count}
))""".replace("{by_count}", _KEPT_BY_COUNT)
_QUEUES_OF_CHILDREN: Final = """queue = any(array(
  select distinct queue
    from {schema}.conveyor_jobs
   where parent_queue = %(parent_queue)s
     and parent_id = %(parent_id)s
))"""
#: What is looked at again of that when a job has been locked.
_STILL_EXPIRED: Final = "(expires_at <= %(now)s or keep_count is not null)"


@dataclass(frozen=True, slots=True)
class _Condition:
    """Which rows: those of any branch for which all of the terms hold."""

    branches: tuple[Branch, ...]
    terms: tuple[str, ...]
    parameters: dict[str, Any]

    def of(self, branch: Branch, *, apart: bool) -> tuple[str, ...]:
        """What is true of the rows of a branch, to be found by an index that stands apart or by any other."""
        if not apart:
            return (branch.sql, *self.terms)
        state = branch.sql if branch is _GROUPED else f"state = '{branch.state}'{_APART}"
        return (state, *(term + _APART if term == _IN_QUEUE else term for term in self.terms))


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
    """The rows of `rows.sql` of the jobs of a set, in order, behind a job; by one statement."""
    found = _chosen(where, now, limit=limit, order=order, after=after)
    if found is None:
        return []
    chosen, parameters = found
    return await _asked(session, text_of("rows").replace("{seqs}", chosen), parameters)


def _chosen(
    where: Where, now: datetime, *, limit: int, order: Order, after: JobRecord | None
) -> tuple[str, dict[str, Any]] | None:
    """What selects the numbers of the jobs of a set, with its parameters; None: there can be none."""
    condition = _condition(where, now)
    # Of all queues, that is the primary key; else no plan may take it, for it reads all others on its way.
    added = "seq" if where.queue is None and not _is_found_otherwise(where) else "seq + 0"
    parameters = condition.parameters | {"limit": limit}
    if after is not None:
        parameters |= {
            "after_seq": after.seq,
            "after_rank": after.rank,
            "after_place": -after.seq if after.lifo else after.seq,
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
    """The rows of `entries.sql` of these jobs, locked; without those that have left the set since."""
    if not found:
        return []
    condition = _condition(where, now)
    terms = [term for term in condition.terms if term in _MAY_CEASE]
    if where.states is not None:
        terms.append(_IN_STATES)
        condition.parameters["states"] = sorted(where.states)
    if where.expired:
        terms.append(_STILL_EXPIRED)
    sql = text_of("entries_of_set").replace("{terms}", _all("true", *terms))
    return await _asked(session, sql, condition.parameters | {"seqs": list(found)})


async def counts(
    session: Session, where: Where, now: datetime, *, by_group: bool, most: int | None = None
) -> dict[tuple[str | None, JobState], int]:
    """How many jobs the set has, by queue (or group) and state; no number is over `most`."""
    condition = _condition(where, now)
    some = most is not None and _is_of_a_queue(where) and not by_group
    template = _COUNT_SOME if some else _COUNT
    selects = [
        template.format(
            of=("null" if _UNGROUPED in branch.sql else "grp") if by_group else "queue",
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
#: In place of what says when a job was added.
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
        ("rank", "place"),
        False,
        "(rank, place) > (%(after_rank)s::float8, %(after_place)s::bigint)",
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
        dict.fromkeys(_ALL_WAITING if branch.state is JobState.WAITING else branch for branch in branches)
    )


def _finished_apart(branch: Branch, where: Where) -> Iterable[Branch]:
    """The finished jobs of a branch, those without and those with a retention; any other branch as it is."""
    if _FINISHED not in branch.sql:
        return (branch,)
    return tuple(
        Branch(branch.state, f"{branch.sql} and {_UNRETAINED} = {value}")
        for value in ((1,) if where.unretained else (1, 0))
    )


def _ordered(
    order: Order, branch: Branch, added: str, after: JobRecord | None
) -> tuple[tuple[str, ...], bool, str]:
    """What to sort the rows of a branch by, whether backwards, and what is behind a job."""
    key, backwards, behind = _ORDERS[order]
    if order in _NEVER and _FINISHED in branch.sql:
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
    return behind.replace("(rank, ", "(rank + 0, ").replace("seq + 0 ", "seq - 0 ")


def _is_apart(where: Where, branch: Branch, order: Order) -> bool:
    """Whether the jobs of a branch are found in that order by an index that stands apart."""
    if branch.state is None or _is_by_group(where, branch):
        return False
    if order in _NEVER:
        return _FINISHED not in branch.sql
    return order is not Order.CLAIM or branch is _GROUPED or branch.state is not JobState.WAITING


def _select(conditions: str, key: tuple[str, ...], *, backwards: bool) -> str:
    columns = ", ".join((*(f"{column} as key_{n}" for n, column in enumerate(key)), "seq"))
    return _SELECT.format(columns=columns, conditions=conditions, order=_order(key, backwards=backwards))


def _condition(where: Where, now: datetime) -> _Condition:
    parameters: dict[str, Any] = {"now": now}
    terms: list[str] = []
    for name, (term, value) in _TERMS.items():
        asked = getattr(where, name)
        if asked is not None:
            terms.append(term)
            parameters |= value(asked)
    if where.queue is not None and where.ids is not None:
        terms = [_BY_IDS, *(term for term in terms if term not in {_IN_QUEUE, _HAS_ID})]
    if where.states is not None and _is_found_otherwise(where):
        terms.append(_IN_STATES)
        parameters["states"] = sorted(where.states)
    by_end = where.unretained and not _is_found_otherwise(where)
    if where.unretained:
        terms.append(_IN_UNRETAINED if by_end else _IS_UNRETAINED)
    if where.older_than is not None:
        terms.append(_HAS_ENDED_LONG_AGO if by_end else _IS_OLD)
        parameters["born"] = now - where.older_than
    if where.expired:
        few = where.ids is not None or where.parent is not None or where.unique_key is not None
        if not few and where.queue is not None:
            terms.remove(_IN_QUEUE)  # it says so itself, and the jobs are found by their numbers alone
        expired = _EXPIRED_HERE if few else _EXPIRED
        terms.append(expired.replace("{queue}", _queues(where)))
    return _Condition(_branches(where), tuple(terms), parameters)


def _queues(where: Where) -> str:
    """Of which queues the jobs of a set may be."""
    if where.queue is not None:
        return _IN_QUEUE
    return "true" if where.parent is None else _QUEUES_OF_CHILDREN


_HOLDS_KEY: Final = (
    "unique_key = %(unique_key)s and holds_key and (unique_until is null or unique_until > %(now)s)"
)
_HAS_REPORT: Final = "report::text = %(report)s"
_IS_OLD: Final = "coalesce(finished_at, created_at) <= %(born)s"
_IS_UNRETAINED: Final = "finished_at is not null and expires_at is null and keep_count is null"
#: The same as the index of finished jobs knows it. What is found by something else must not be found so:
#: a plan that was made while the table was small may go by that index for good.
_HAS_ENDED_LONG_AGO: Final = "finished_at <= %(born)s"
_IN_UNRETAINED: Final = f"finished_at is not null and {_UNRETAINED} = 1"
_HAS_ID: Final = "id = any(%(ids)s::text[])"
#: Both of these, one by one: a plan that takes the queue for small reads all of it for a few hundred ids.
_BY_IDS: Final = """seq = any(array(
  select j.seq
    from unnest(%(ids)s::text[]) e (id)
   cross join lateral (
     select seq
       from {schema}.conveyor_jobs
      where queue = %(queue)s
        and id = e.id
     offset 0
   ) j
))"""
_IN_QUEUE: Final = "queue = %(queue)s"
#: What each field of a `Where` says of a row, and how its value is passed.
_TERMS: Final[dict[str, tuple[str, Callable[[Any], dict[str, Any]]]]] = {
    "queue": (_IN_QUEUE, lambda queue: {"queue": queue}),
    "ids": (_HAS_ID, lambda ids: {"ids": sorted(ids)}),
    "names": ("name = any(%(names)s::text[])", lambda names: {"names": sorted(names)}),
    "group": ("grp = %(group)s", lambda group: {"group": group}),
    "parent": (
        "parent_queue = %(parent_queue)s and parent_id = %(parent_id)s",
        lambda parent: {"parent_queue": parent.queue, "parent_id": parent.id},
    ),
    "unique_key": (
        _HOLDS_KEY,
        lambda key: {"unique_key": key},
    ),
    "report": (_HAS_REPORT, lambda report: {"report": report}),
}
#: Of rows that are found by something else: as no index knows it, so that none of a state is preferred.
_IN_STATES: Final = "state || '' = any(%(states)s::text[])"
#: What may cease to be true of a row, and is looked at again when that is locked; so is its state.
_MAY_CEASE: Final = frozenset(
    {_HOLDS_KEY, _HAS_REPORT, _IS_OLD, _IS_UNRETAINED, _HAS_ENDED_LONG_AGO, _IN_UNRETAINED}
)


def _branches(where: Where) -> tuple[Branch, ...]:
    if _is_found_otherwise(where):
        return (Branch(None),)
    states = JobState if where.states is None else where.states
    return tuple(
        branch
        for branch in _BRANCHES
        if branch.state in states
        and (where.group is None or _UNGROUPED not in branch.sql)
        and (_FINISHED in branch.sql or not where.unretained)
    )


def _is_of_a_queue(where: Where) -> bool:
    """Whether the set is all jobs of a queue, or all in some states."""
    return where.queue is not None and where == Where(queue=where.queue, states=where.states)


def _is_found_otherwise(where: Where) -> bool:
    """Whether the set is of a few rows that an index of their own finds."""
    return where.ids is not None or where.parent is not None or where.unique_key is not None or where.expired
