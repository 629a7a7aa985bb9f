"""A queue's schedules, from outside: making, changing, reading and removing them.

A schedule is a job in the queue's reserved companion queue, under its key. To change one it is held for a
moment, as a worker holds it to fire it: whoever comes second goes on from what the first has left.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from conveyor.core._jobs.ids import new_job_id
from conveyor.core._jobs.leases import hold
from conveyor.core._jobs.lookup import read
from conveyor.core._jobs.payload import decode as decode_json
from conveyor.core._jobs.shielding import to_the_end
from conveyor.core._queue_names import schedules_of
from conveyor.core._schedules import decisions
from conveyor.core._schedules.definition import Misfire, Overlap, Plan, Standing, encode
from conveyor.core._schedules.rows import UNREADABLE, held_at, let_go, opened, take_over, unreadable
from conveyor.core.errors import ScheduleNotFoundError, UnsupportedFeatureError
from conveyor.core.events import JobDelayed, JobWaiting
from conveyor.core.store import TERMINAL, Feature, JobKey, JobRecord, Outcome, Where

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from conveyor.core.clock import Clock
    from conveyor.core.store import Inserted, Store

T = TypeVar("T")
_log: Final = logging.getLogger("conveyor.schedules")

#: While somebody else holds it, it is looked at again so often, in real seconds: the other is at work.
_AGAIN: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule as it was when it was read.

    `every` is the interval of one made by `every()`; `cron` and `tz` are of one made by `cron()`. `name` and
    `data` (as JSON has it) are those of its jobs. `next_run_at` is None while it is paused, and when its
    `end` or its `limit` is reached. `last_run_at` is what its latest job was planned for, and `runs` how many
    it has made, those of `trigger_schedule` not counted.
    """

    key: str
    name: str
    data: Any
    every: timedelta | None
    cron: str | None
    tz: str
    start: datetime | None
    end: datetime | None
    limit: int | None
    jitter: timedelta | None
    misfire: Misfire
    overlap: Overlap
    next_run_at: datetime | None
    last_run_at: datetime | None
    runs: int
    paused: bool


class Schedules:
    """The schedules of one queue."""

    def __init__(self, store: Store, queue: str, clock: Clock) -> None:
        self._store = store
        self._of = queue
        self._queue = schedules_of(queue)
        self._clock = clock

    async def put(self, plan: Plan) -> Schedule:
        """Make a schedule, or give the one with this key this plan; one that has it is left alone.

        Raises UnsupportedFeatureError if the store does not offer what its jobs need.
        """
        _check_offered(self._store, plan)
        # What cannot be computed must not be stored: a worker would meet it for ever, and its user never.
        # Pinned by test_core_scheduling.py::test_a_schedule_that_cannot_be_computed_is_not_stored.
        decisions.begin(plan, self._clock.now())
        return await to_the_end(self._put(plan))

    async def get(self, key: str) -> Schedule | None:
        """The schedule with this key as it is now, or None; one that cannot be read is none."""
        record = await self._read(key)
        return None if record is None else _shown(record)

    async def all(self) -> list[Schedule]:
        """Every schedule as it is now, in the order they were made; one that cannot be read is left out."""
        records: list[JobRecord] = []
        where = Where(queue=self._queue)
        while page := await self._store.find(where, limit=_PAGE, after=records[-1] if records else None):
            records += page
        return [found for record in records if (found := _shown(record)) is not None]

    async def pause(self, key: str) -> Schedule:
        """Let it make no jobs.

        Raises ScheduleNotFoundError.
        """
        return await to_the_end(self._change(key, lambda _, standing, __: decisions.pause(standing)))

    async def resume(self, key: str) -> Schedule:
        """Let it make jobs again, from now on.

        Raises ScheduleNotFoundError.
        """
        return await to_the_end(self._change(key, decisions.resume))

    async def trigger(self, key: str) -> tuple[JobRecord, Inserted]:
        """Make a job of it now, and say what became of that.

        Raises ScheduleNotFoundError.
        """
        return await to_the_end(self._trigger(key))

    async def remove(self, key: str) -> bool:
        """Remove a schedule, and say whether it was there. The jobs it has made stay."""
        where = Where(queue=self._queue, ids=frozenset({key}))
        return bool((await self._store.delete(where, limit=1)).removed)

    async def forget(self) -> None:
        """Remove them all, with every trace."""
        await self._store.forget(self._queue)

    # ------------------------------------------------------------ changing

    async def _put(self, plan: Plan) -> Schedule:
        while True:
            record = await self._read(plan.key)
            if record is None or record.state.terminal:
                found = await self._make(plan)
            else:
                found = _unchanged(record, plan) or await self._replace(plan)
            if found is not None:
                return found

    async def _make(self, plan: Plan) -> Schedule | None:
        record = JobRecord(queue=self._queue, id=plan.key, name=plan.job.name, report=encode(plan))
        [inserted] = await self._store.insert([record])
        if not inserted.created:
            await self._make_room(plan.key)
            return None
        await self._tell(JobWaiting, plan.key)
        return _seen(plan, decisions.begin(plan, inserted.created_at))

    async def _replace(self, plan: Plan) -> Schedule | None:
        record = await self._hold(plan.key)
        if record is None:
            return None
        try:
            was, standing = opened(record)
        except UNREADABLE:
            standing = decisions.begin(plan, held_at(record))
        else:
            standing = decisions.revise(was, standing, plan, held_at(record))
        spawned = await self._let_go(record, plan, standing)
        return None if spawned is None else _seen(plan, standing)

    async def _make_room(self, key: str) -> None:
        """Remove a row of this key that nobody can read."""
        record = await self._read(key)
        if record is not None and not record.state.terminal:
            return  # somebody has made it in between
        held = await self._hold(key)
        if held is not None:
            await self._store.settle([Outcome.given_back(held)])
            return
        where = Where(queue=self._queue, ids=frozenset({key}), states=TERMINAL)
        if not (await self._store.delete(where, limit=1)).removed:
            await self._wait(_AGAIN[-1])

    async def _change(self, key: str, change: Callable[[Plan, Standing, datetime], Standing]) -> Schedule:
        while True:
            record, plan, standing = await self._held(key)
            standing = change(plan, standing, held_at(record))
            if await self._let_go(record, plan, standing) is not None:
                return _seen(plan, standing)

    async def _trigger(self, key: str) -> tuple[JobRecord, Inserted]:
        while True:
            record, plan, standing = await self._held(key)
            fired = decisions.trigger(plan, standing, held_at(record), new_job_id())
            spawned = await self._let_go(record, plan, fired.standing, fired.jobs)
            if spawned is None:
                continue
            [job], [found] = fired.jobs, spawned
            if found.created:
                event = JobWaiting(queue_name=job.queue, job_id=job.id, at=self._clock.now())
                await self._store.bus.publish([event])
            await take_over(self._store, plan, job, found)
            return job, found

    async def _held(self, key: str) -> tuple[JobRecord, Plan, Standing]:
        record = await self._hold(key)
        if record is None:
            raise ScheduleNotFoundError(self._of, key)
        try:
            return record, *opened(record)
        except UNREADABLE as error:
            await self._store.settle([Outcome.given_back(record)])
            raise ScheduleNotFoundError(self._of, key) from error

    async def _hold(self, key: str) -> JobRecord | None:
        """Hold a schedule; None if there is none, or none that the store can read."""
        waits = iter(_AGAIN)
        while True:
            claimed = await hold(self._store, self._queue, [key])
            if claimed.jobs:
                return claimed.jobs[0]
            if claimed.undecodable:
                await self._store.settle([unreadable(row) for row in claimed.undecodable])
                return None
            found = await self._read(key)
            if found is None or found.state.terminal:
                return None
            await self._wait(next(waits, _AGAIN[-1]))

    async def _wait(self, seconds: float) -> None:
        """Wait for who holds a schedule; if they have died, their lease runs out."""
        await asyncio.sleep(seconds)
        await self._store.advance({self._queue})

    async def _let_go(
        self, record: JobRecord, plan: Plan, standing: Standing, jobs: tuple[JobRecord, ...] = ()
    ) -> Sequence[Inserted] | None:
        """Write a held schedule, and say what became of `jobs`; None if it was removed, or taken back."""
        settled = await self._store.settle([let_go(record, plan, standing, jobs)])
        if record.lease not in settled.applied:
            return None
        await self._tell(JobDelayed, record.id)
        return settled.spawned

    async def _read(self, key: str) -> JobRecord | None:
        return await read(self._store, JobKey(self._queue, key))

    async def _tell(self, kind: type[JobWaiting | JobDelayed], key: str) -> None:
        """Wake the workers that fire it."""
        await self._store.bus.publish([kind(queue_name=self._queue, job_id=key, at=self._clock.now())])


def _unchanged(record: JobRecord, plan: Plan) -> Schedule | None:
    try:
        was, standing = opened(record)
    except UNREADABLE:
        return None
    return _seen(plan, standing) if was == plan else None


def _shown(record: JobRecord) -> Schedule | None:
    try:
        return _seen(*opened(record))
    except UNREADABLE as error:
        _log.warning("the schedule %r cannot be read: %s", record.id, error)
        return None


def _seen(plan: Plan, standing: Standing) -> Schedule:
    return Schedule(
        key=plan.key,
        name=plan.job.name,
        data=decode_json(plan.job.payload),
        every=plan.interval,
        cron=plan.expression,
        tz=plan.tz,
        start=plan.start,
        end=plan.end,
        limit=plan.limit,
        jitter=plan.jitter,
        misfire=plan.misfire,
        overlap=plan.overlap,
        next_run_at=None if standing.paused else standing.next,
        last_run_at=standing.last,
        runs=standing.runs,
        paused=standing.paused,
    )


def _check_offered(store: Store, plan: Plan) -> None:
    needed = {Feature.GROUPS: plan.job.group, Feature.UNIQUE_KEYS: plan.job.unique_key}
    for feature, needs in needed.items():
        if needs is not None and feature not in store.features:
            raise UnsupportedFeatureError(type(store).__name__, feature)
