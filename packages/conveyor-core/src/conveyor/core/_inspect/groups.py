"""The groups of a queue, as a user sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from conveyor.core.store import TERMINAL, JobState, Pause, Where

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from conveyor.core.store import Store

UNFINISHED: Final = frozenset(JobState) - TERMINAL


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInfo:
    """A group of jobs: how many are in each state, and whether it is paused.

    `paused_until` is when its pause ends by itself; None if it is not paused, or until it is resumed.
    """

    id: str
    counts: Mapping[JobState, int]
    paused: bool
    paused_until: datetime | None

    @property
    def waiting(self) -> int:
        """Jobs that wait for their turn."""
        return self.counts.get(JobState.WAITING, 0)

    @property
    def delayed(self) -> int:
        """Jobs that run later."""
        return self.counts.get(JobState.DELAYED, 0)

    @property
    def active(self) -> int:
        """Jobs that a worker holds."""
        return self.counts.get(JobState.ACTIVE, 0)

    @property
    def unfinished(self) -> int:
        """Jobs that have not finished, whatever they wait for."""
        return sum(count for state, count in self.counts.items() if not state.terminal)


async def groups_of(
    store: Store, queue: str, *, finished: bool, limit: int, after: str | None
) -> list[GroupInfo]:
    """The groups of a queue that are not idle, by id, from behind `after` on."""
    states = frozenset(JobState) if finished else UNFINISHED
    counts = await store.count(Where(queue=queue, states=states), by_group=True)
    found: dict[str, dict[JobState, int]] = {}
    for (group, state), count in counts.items():
        if group is not None:
            found.setdefault(group, {})[state] = count
    paused = {what.group: until for what, until in (await store.paused(queue)).items() if what.group}
    ids = sorted(group for group in found.keys() | paused.keys() if after is None or group > after)
    return [_info(group, found.get(group, {}), states, paused) for group in ids[:limit]]


async def group_of(store: Store, queue: str, group: str) -> GroupInfo:
    """One group of a queue, its finished jobs included; one without jobs has none in any state."""
    counts = await store.count(Where(queue=queue, group=group))
    found = {state: count for (_, state), count in counts.items()}
    pause, paused = Pause(group=group), await store.paused(queue)
    return _info(group, found, frozenset(JobState), {group: paused[pause]} if pause in paused else {})


def _info(
    group: str,
    counts: Mapping[JobState, int],
    states: Iterable[JobState],
    paused: Mapping[str, datetime | None],
) -> GroupInfo:
    wanted = frozenset(states)
    return GroupInfo(
        id=group,
        counts={state: counts.get(state, 0) for state in JobState if state in wanted},
        paused=group in paused,
        paused_until=paused.get(group),
    )
