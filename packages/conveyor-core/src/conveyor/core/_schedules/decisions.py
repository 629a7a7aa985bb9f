"""What becomes of a schedule as time passes: pure decisions. Who looks, and when, is not decided here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json, to_json

from conveyor.core._jobs.payload import fingerprint
from conveyor.core._schedules.definition import Plan, RunAll, Standing
from conveyor.core.options import LONGEST_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from conveyor.core.store import JobRecord

#: When a worker looks at a schedule that has no run to come.
NEVER: Final = datetime(2200, 1, 1, tzinfo=UTC)
#: So many unfinished jobs of a schedule are known by their ids; more are of no use to anybody.
_KNOWN: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """Where a schedule stands now, and the jobs that it makes."""

    standing: Standing
    jobs: tuple[JobRecord, ...] = ()


def begin(plan: Plan, at: datetime) -> Standing:
    """Where a schedule stands that was added at an instant."""
    return _onward(plan, Standing(since=at, next=None), at)


def revise(old: Plan, standing: Standing, new: Plan, now: datetime) -> Standing:
    """Where a schedule stands once it has another plan; its runs so far count on.

    Other times begin now. With the same times it keeps its anchor and its next run.
    """
    if not new.same_times(old):
        return _onward(new, replace(standing, since=now), now)
    if standing.next is None:
        return _onward(new, standing, now)
    return replace(standing, next=_allowed(new, standing.runs, standing.next))


def pause(standing: Standing) -> Standing:
    """Where it stands while it is paused."""
    return replace(standing, paused=True)


def resume(plan: Plan, standing: Standing, now: datetime) -> Standing:
    """Where it stands when it goes on: what came to pass in between is not made up for."""
    return _onward(plan, replace(standing, paused=False), now) if standing.paused else standing


def look_at(standing: Standing) -> datetime:
    """When a worker is to look at it next."""
    return NEVER if standing.paused or standing.next is None else standing.next


def trigger(plan: Plan, standing: Standing, now: datetime, id: str) -> Fired:
    """Run it now, whatever else: its times and its limit are not touched."""
    made = (*standing.made, id)[-_KNOWN:]
    job = occurrence(replace(plan, job=replace(plan.job, delay=None)), now, id=id)
    return Fired(standing=replace(standing, last=now, made=made), jobs=(job,))


def fire(
    plan: Plan,
    standing: Standing,
    now: datetime,
    *,
    unfinished: Collection[str],
    random: Callable[[], float],
) -> Fired:
    """Make the jobs of the runs that are due, if any. `unfinished` are those of `made` that are."""
    if standing.paused or standing.next is None or standing.next > now:
        return Fired(standing=standing)
    made = tuple(id for id in standing.made if id in unfinished)
    planned = [] if plan.overlap == "skip" and made else _planned(plan, standing, standing.next, now)
    jobs = tuple(
        occurrence(plan, at, late=timedelta(0) if plan.jitter is None else plan.jitter * random())
        for at in planned
    )
    after = replace(
        standing,
        last=planned[-1] if planned else standing.last,
        runs=standing.runs + len(planned),
        made=(*made, *(job.id for job in jobs))[-_KNOWN:],
    )
    return Fired(standing=_onward(plan, after, now), jobs=jobs)


def occurrence(
    plan: Plan, planned: datetime, *, id: str | None = None, late: timedelta = timedelta(0)
) -> JobRecord:
    """The job of one run. Without an `id`, its id says which run it is: made again, it is there already."""
    stamp = {"key": plan.key, "for": planned.isoformat()}
    options: dict[str, Any] = from_json(plan.job.options)
    return replace(
        plan.job,
        id=id or _id(plan.key, planned),
        options=to_json({**options, "schedule": stamp}).decode(),
        delay=(plan.job.delay or timedelta(0)) + late or None,
    )


def _id(key: str, planned: datetime) -> str:
    at = planned.isoformat().replace("+00:00", "Z")
    name = f"schedule:{key}:{at}"
    return name if len(name) <= LONGEST_NAME else f"schedule:{fingerprint(key)}:{at}"


def _planned(plan: Plan, standing: Standing, first: datetime, now: datetime) -> list[datetime]:
    """The runs to make, of those due from `first` on. One that a later one has overtaken is missed."""
    timing = plan.timing(standing.since)
    until = now if plan.end is None else min(now, plan.end - timedelta.resolution)
    left = 1 if plan.limit is None else plan.limit - standing.runs
    match plan.misfire:
        case RunAll(most=most) if plan.overlap == "allow":
            return timing.latest(first, until, most if plan.limit is None else min(most, left))
        case "skip":
            return [
                at
                for at in timing.latest(first, until, 1)
                if (following := timing.next_after(at)) is None or following > now
            ]
        case _:
            return timing.latest(first, until, 1)


def _onward(plan: Plan, standing: Standing, now: datetime) -> Standing:
    """Where it stands with its next run after now."""
    # A schedule that is to start runs at its start at the earliest; `every` counts from there.
    earliest = now if plan.start is None else max(now, plan.start - timedelta.resolution)
    return replace(
        standing, next=_allowed(plan, standing.runs, plan.timing(standing.since).next_after(earliest))
    )


def _allowed(plan: Plan, runs: int, at: datetime | None) -> datetime | None:
    """That time, unless the schedule has come to its end or its limit by then."""
    if at is None or at >= NEVER:
        return None
    if plan.end is not None and at >= plan.end:
        return None
    return None if plan.limit is not None and runs >= plan.limit else at
