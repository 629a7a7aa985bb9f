"""What becomes of a schedule as time passes: pure decisions. Who looks, and when, is not decided here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from pydantic_core import from_json, to_json

from conveyor.core._jobs.payload import fingerprint
from conveyor.core._schedules.definition import ScheduleSpec, ScheduleState
from conveyor.core.job_options import LONGEST_NAME
from conveyor.core.schedules import RunAll

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from conveyor.core.store import JobRecord

#: When a worker looks at a schedule that has no run to come.
NEVER: Final = datetime(2200, 1, 1, tzinfo=UTC)
#: So many unfinished jobs of a schedule are known by their ids; more are of no use.
_KNOWN: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """The state of a schedule after its runs, and the jobs that it makes."""

    state: ScheduleState
    jobs: tuple[JobRecord, ...] = ()


def begin(spec: ScheduleSpec, at: datetime) -> ScheduleState:
    """The state of a schedule that was added at an instant."""
    return _onward(spec, ScheduleState(since=at, next=None), at)


def revise(old: ScheduleSpec, state: ScheduleState, new: ScheduleSpec, now: datetime) -> ScheduleState:
    """The state of a schedule once something else is asked for; its runs so far count on.

    Other times begin now. With the same times it keeps its anchor and its next run.
    """
    if not new.same_times(old):
        return _onward(new, replace(state, since=now), now)
    if state.next is None:
        return _onward(new, state, now)
    return replace(state, next=_allowed(new, state.runs, state.next))


def pause(state: ScheduleState) -> ScheduleState:
    """The state while it is paused."""
    return replace(state, paused=True)


def resume(spec: ScheduleSpec, state: ScheduleState, now: datetime) -> ScheduleState:
    """The state when it goes on: what came to pass in between is not made up for."""
    return _onward(spec, replace(state, paused=False), now) if state.paused else state


def look_at(state: ScheduleState) -> datetime:
    """When a worker is to look at it next."""
    return NEVER if state.paused or state.next is None else state.next


def trigger(spec: ScheduleSpec, state: ScheduleState, now: datetime, id: str) -> Fired:
    """Run it now, whatever else: its times and its limit are not touched."""
    made = (*state.made, id)[-_KNOWN:]
    job = occurrence(replace(spec, job=replace(spec.job, delay=None)), now, id=id)
    return Fired(state=replace(state, last=now, made=made), jobs=(job,))


def fire(
    spec: ScheduleSpec,
    state: ScheduleState,
    now: datetime,
    *,
    unfinished: Collection[str],
    random: Callable[[], float],
) -> Fired:
    """Make the jobs of the runs that are due, if any. `unfinished` are those of `made` that are."""
    if state.paused or state.next is None or state.next > now:
        return Fired(state=state)
    made = tuple(id for id in state.made if id in unfinished)
    planned = [] if spec.overlap == "skip" and made else _planned(spec, state, state.next, now)
    jobs = tuple(
        occurrence(spec, at, late=timedelta(0) if spec.jitter is None else spec.jitter * random())
        for at in planned
    )
    after = replace(
        state,
        last=planned[-1] if planned else state.last,
        runs=state.runs + len(planned),
        made=(*made, *(job.id for job in jobs))[-_KNOWN:],
    )
    return Fired(state=_onward(spec, after, now), jobs=jobs)


def occurrence(
    spec: ScheduleSpec, planned: datetime, *, id: str | None = None, late: timedelta = timedelta(0)
) -> JobRecord:
    """The job of one run. Without an `id`, its id says which run it is: made again, it is there already."""
    # Not by way of JobOptions: what a later release has put there stays.
    options = from_json(spec.job.options) | {"schedule_key": spec.key, "scheduled_for": planned}
    return replace(
        spec.job,
        id=id or _id(spec.key, planned),
        options=to_json(options).decode(),
        delay=(spec.job.delay or timedelta(0)) + late or None,
    )


def _id(key: str, planned: datetime) -> str:
    at = planned.isoformat().replace("+00:00", "Z")
    name = f"schedule:{key}:{at}"
    return name if len(name) <= LONGEST_NAME else f"schedule:{fingerprint(key)}:{at}"


def _planned(spec: ScheduleSpec, state: ScheduleState, first: datetime, now: datetime) -> list[datetime]:
    """The runs to make, of those due from `first` on. One that a later one has overtaken is missed."""
    timing = spec.timing(state.since)
    until = now if spec.end is None else min(now, spec.end - timedelta.resolution)
    left = 1 if spec.limit is None else spec.limit - state.runs
    match spec.misfire:
        case RunAll(most=most) if spec.overlap == "allow":
            return timing.latest(first, until, most if spec.limit is None else min(most, left))
        case "skip":
            return [
                at
                for at in timing.latest(first, until, 1)
                if (following := timing.next_after(at)) is None or following > now
            ]
        case _:
            return timing.latest(first, until, 1)


def _onward(spec: ScheduleSpec, state: ScheduleState, now: datetime) -> ScheduleState:
    """The state with its next run after now."""
    # A schedule that is to start runs at its start at the earliest; `every` counts from there.
    earliest = now if spec.start is None else max(now, spec.start - timedelta.resolution)
    return replace(state, next=_allowed(spec, state.runs, spec.timing(state.since).next_after(earliest)))


def _allowed(spec: ScheduleSpec, runs: int, at: datetime | None) -> datetime | None:
    """That time, unless the schedule has come to its end or its limit by then."""
    if at is None or at >= NEVER:
        return None
    if spec.end is not None and at >= spec.end:
        return None
    return None if spec.limit is not None and runs >= spec.limit else at
