"""The terms of a `Where` as SQL: what each of its fields says of a row, and by which index rows are known.

Nothing here is put together from values: those are parameters, always.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from conveyor.core.store import Where
from conveyor.store.sql import ANY_STATE, GROUPED, Branch, branches_of, given_terms, is_of_a_few

#: Whether a job has no retention, as the index of finished jobs knows it.
UNRETAINED: Final = "(expires_at is null and keep_count is null)::int"
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
STILL_EXPIRED: Final = "(expires_at <= %(now)s or keep_count is not null)"


@dataclass(frozen=True, slots=True)
class _Condition:
    """Which rows: those of any branch for which all of the terms hold."""

    branches: Sequence[Branch]
    terms: tuple[str, ...]
    parameters: dict[str, Any]

    def of(self, branch: Branch, *, apart: bool) -> tuple[str, ...]:
        """What is true of the rows of a branch, to be found by an index that stands apart or by any other."""
        if not apart:
            return (branch.sql(UNRETAINED), *self.terms)
        state = branch.sql(UNRETAINED) if branch == GROUPED else f"state = '{branch.state}'{_APART}"
        return (state, *(term + _APART if term == _IN_QUEUE else term for term in self.terms))


def condition_of(where: Where, now: datetime) -> _Condition:
    """What is true of the rows of a set at this time, with its parameters."""
    parameters: dict[str, Any] = {"now": now}
    terms: list[str] = []
    for (term, parameter), value in given_terms(where, _TERMS):
        terms.append(term)
        parameters |= parameter(value)
    if where.queue is not None and where.ids is not None:
        terms = [_BY_IDS, *(term for term in terms if term not in {_IN_QUEUE, _HAS_ID})]
    if where.states is not None and is_found_otherwise(where):
        terms.append(IN_STATES)
        parameters["states"] = sorted(where.states)
    by_end = where.unretained and not is_found_otherwise(where)
    if where.unretained:
        terms.append(_IN_UNRETAINED if by_end else _IS_UNRETAINED)
    if where.older_than is not None:
        terms.append(_HAS_ENDED_LONG_AGO if by_end else _IS_OLD)
        parameters["born"] = now - where.older_than
    if where.expired:
        few = is_of_a_few(where)
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
_IN_UNRETAINED: Final = f"finished_at is not null and {UNRETAINED} = 1"
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
IN_STATES: Final = "state || '' = any(%(states)s::text[])"
#: What may cease to be true of a row, and is looked at again when that is locked; so is its state.
MAY_CEASE: Final = frozenset(
    {_HOLDS_KEY, _HAS_REPORT, _IS_OLD, _IS_UNRETAINED, _HAS_ENDED_LONG_AGO, _IN_UNRETAINED}
)


def _branches(where: Where) -> Sequence[Branch]:
    return [ANY_STATE] if is_found_otherwise(where) else branches_of(where)


def is_found_otherwise(where: Where) -> bool:
    """Whether the set is of a few rows that an index of their own finds."""
    return is_of_a_few(where) or where.expired
