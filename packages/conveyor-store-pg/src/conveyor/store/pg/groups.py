"""Groups: how many of their jobs wait, are delayed and run, and which job of each sub-queue is next.

Kept by whoever moves jobs: first the groups' rows are written, in order, which locks them; then the first
jobs of the sub-queues are looked up by a statement of its own, which so sees all that was moved before. What
is true of a group holds therefore at every commit, however many move its jobs at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from conveyor.core.store import JobState, Rate
from conveyor.store.pg.rows import moment
from conveyor.store.pg.statements import Row, Session
from conveyor.store.sql import rate_name

_WAITING = JobState.WAITING.value


class Transition(NamedTuple):
    """A job of a group that changes its state; None before: it is new, None after: it is gone."""

    queue: str
    group: str
    name: str
    before: str | None
    after: str | None


class Throttle(NamedTuple):
    """A group to be passed over by claims of that rate until then."""

    rate: str
    until: datetime


@dataclass(slots=True)
class _Count:
    known: bool = False
    waiting: int = 0
    delayed: int = 0
    active: int = 0

    def add(self, state: str | None, one: int) -> None:
        match state:
            case JobState.WAITING:
                self.waiting += one
            case JobState.DELAYED:
                self.delayed += one
            case JobState.ACTIVE:
                self.active += one
            case _:
                pass


async def record_transitions(
    session: Session,
    transitions: Iterable[Transition],
    *,
    last_served: Mapping[tuple[str, str], int] | None = None,
    throttled: Mapping[tuple[str, str], Throttle] | None = None,
) -> None:
    """Count what has changed its state, note what was picked, and which groups to pass over for a while."""
    last_served, throttled = last_served or {}, throttled or {}
    counts: dict[tuple[str, str], _Count] = {key: _Count() for key in (*last_served, *throttled)}
    subqueues: dict[tuple[str, str, str], None] = {}
    for transition in transitions:
        count = counts.setdefault((transition.queue, transition.group), _Count())
        count.known |= transition.before is None
        count.add(transition.before, -1)
        count.add(transition.after, 1)
        if _WAITING in (transition.before, transition.after):
            subqueues[transition.queue, transition.group, transition.name] = None
    if not counts:
        return
    keys = list(counts)
    await session.run(
        "update_groups",
        queues=[queue for queue, _ in keys],
        groups=[group for _, group in keys],
        known=[counts[key].known or key in last_served for key in keys],
        waiting=[counts[key].waiting for key in keys],
        delayed=[counts[key].delayed for key in keys],
        active=[counts[key].active for key in keys],
        last_served=[last_served.get(key, 0) for key in keys],
        throttled_for=[throttled[key].rate if key in throttled else None for key in keys],
        throttled_until=[throttled[key].until if key in throttled else None for key in keys],
    )
    await copy_to_subqueues(session, keys)
    if subqueues:
        await session.run(
            "refresh_subqueues",
            queues=[queue for queue, _, _ in subqueues],
            groups=[group for _, group, _ in subqueues],
            names=[name for _, _, name in subqueues],
        )


async def end_pauses(session: Session, queue: str, now: datetime | None) -> None:
    """Resume the groups whose pauses are over."""
    now = await moment(session, now)
    await _copy_to_those(session, queue, await session.ask("end_group_pauses", queue=queue, now=now))


async def unthrottle(session: Session, queue: str, now: datetime | None, rate: Rate) -> None:
    """Let claims of this rate take again from groups that were throttled until now."""
    now = await moment(session, now)
    latest = now + rate.per
    found = await session.ask("unthrottle_groups", queue=queue, rate=rate_name(rate), now=now, latest=latest)
    await _copy_to_those(session, queue, found)


async def _copy_to_those(session: Session, queue: str, groups: Collection[Row]) -> None:
    if groups:
        await copy_to_subqueues(session, [(queue, group) for (group,) in groups])


async def copy_to_subqueues(session: Session, keys: Collection[tuple[str, str]]) -> None:
    """Copy to the sub-queues of groups what is true of their groups."""
    await session.run(
        "copy_groups_to_subqueues", queues=[queue for queue, _ in keys], groups=[group for _, group in keys]
    )
