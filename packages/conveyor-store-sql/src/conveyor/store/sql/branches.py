"""Where the jobs of a set are: the branches that indexes know, one for each state, and their orders.

The jobs that a `Where` means are the union of branches, so that each can use the partial index of its state.
A store asks each for its share, in the order that was asked for, and merges what it finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, TypeVar

from conveyor.core.store import JobRecord, JobState, Order, Where
from conveyor.store.sql.values import STATES

T = TypeVar("T")

#: The orders that go by when a job finished.
BY_END: Final = frozenset({Order.FINISHED, Order.EARLIEST})
#: The orders that are those of their columns, backwards.
BACKWARDS: Final = frozenset({Order.NEWEST, Order.FINISHED})


@dataclass(frozen=True, slots=True)
class Branch:
    """Jobs that one index knows; `state` None: jobs of any state, found otherwise.

    `grouped`: whether they have a group. `unretained`: whether they have no retention. None: either.
    """

    state: JobState | None
    grouped: bool | None = None
    unretained: bool | None = None

    @property
    def finished(self) -> bool:
        """Whether its jobs have finished."""
        return self.state is not None and self.state.terminal

    def sql(self, unretained: str) -> str:
        """What is true of its rows, as the indexes know it.

        The columns are `state`, `grp` and `finished_at`; `unretained` is what is 1 without a retention.
        """
        if self.state is None:
            return "true"
        terms = [f"state = '{self.state}'"]
        if self.grouped is not None:
            terms.append("grp is not null" if self.grouped else "grp is null")
        if self.finished:
            terms.append("finished_at is not null")
        if self.unretained is not None:
            terms.append(f"{unretained} = {int(self.unretained)}")
        return " and ".join(terms)


ANY_STATE: Final = Branch(None)
WAITING: Final = Branch(JobState.WAITING)
GROUPED: Final = Branch(JobState.WAITING, grouped=True)
UNGROUPED: Final = Branch(JobState.WAITING, grouped=False)
#: The order of claims is in two indexes, for waiting jobs without a group and with.
_EVERY: Final = (
    UNGROUPED,
    GROUPED,
    *(Branch(state) for state in JobState if state is not JobState.WAITING),
)


def branches_of(where: Where) -> Sequence[Branch]:
    """The branches in which jobs of a set may be."""
    states = JobState if where.states is None else where.states
    return [
        branch
        for branch in _EVERY
        if branch.state in states
        and (where.group is None or branch is not UNGROUPED)
        and (branch.finished or not where.unretained)
    ]


def merged_branches(branches: Iterable[Branch]) -> Sequence[Branch]:
    """The branches, with one for all waiting jobs."""
    return list(dict.fromkeys(WAITING if branch.state is JobState.WAITING else branch for branch in branches))


def ordered_apart(branches: Sequence[Branch], order: Order, where: Where) -> Sequence[Branch]:
    """The branches as the indexes of that order have them.

    By when they finished, an index has jobs without a retention apart from those with one.
    """
    if order is Order.CLAIM:
        return branches
    if order not in BY_END:
        return merged_branches(branches)
    retentions = (True,) if where.unretained else (True, False)
    return [
        part
        for branch in merged_branches(branches)
        for part in (
            [replace(branch, unretained=unretained) for unretained in retentions]
            if branch.finished
            else [branch]
        )
    ]


class Sorting(NamedTuple):
    """What to sort rows by, and what is true of those behind a job."""

    key: tuple[str, ...]
    behind: str


def sorting(
    sortings: Mapping[Order, Sorting],
    never: Mapping[Order, str],
    order: Order,
    branch: Branch,
    after: JobRecord | None,
) -> Sorting:
    """How the rows of a branch are sorted, so that its index has the order, and which are behind `after`.

    Of the orders by when a job finished the first column of `sortings` is that, or what stands for it where a
    job has not. `never` is that alone, for those that have not finished come last of all, as they were added.
    """
    key, behind = sortings[order]
    if order not in BY_END or branch.state is None:
        return sortings[order]
    if branch.finished:
        return Sorting(("finished_at", *key[1:]), behind.replace(key[0], "finished_at"))
    added = sortings[Order.NEWEST if order in BACKWARDS else Order.ADDED]
    finished = after is not None and after.finished_at is not None
    return Sorting((never[order], *added.key), "true" if finished else added.behind)


def given_terms(where: Where, terms: Mapping[str, T]) -> Iterator[tuple[T, Any]]:
    """For each field of a set that is given, its term and its value."""
    for name, term in terms.items():
        value = getattr(where, name)
        if value is not None:
            yield term, value


def is_of_a_queue(where: Where) -> bool:
    """Whether the set is all jobs of a queue, or all in some states."""
    return where.queue is not None and where == Where(queue=where.queue, states=where.states)


def is_of_a_few(where: Where) -> bool:
    """Whether the set is of a few jobs that an index of their own finds."""
    return where.ids is not None or where.parent is not None or where.unique_key is not None


def bounded_counts(
    found: Iterable[tuple[str | None, str, int]], most: int | None
) -> dict[tuple[str | None, JobState], int]:
    """Counts by key and state, added up, and none over `most`; states that there are not are left out."""
    counts: dict[tuple[str | None, JobState], int] = {}
    for key, state, jobs in found:
        if state in STATES:
            counts[key, STATES[state]] = counts.get((key, STATES[state]), 0) + jobs
    return counts if most is None else {key: min(jobs, most) for key, jobs in counts.items()}
