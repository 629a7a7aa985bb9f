"""A queue's schedules, from outside: making, changing, reading and removing them.

A schedule is a job in the queue's reserved companion queue, under its key. To change one it is held for a
moment, as a worker holds it to fire it: a second change goes on from what the first has left.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.ids import new_job_id
from conveyor.core._jobs.lookup import read
from conveyor.core._jobs.payload import decode as decode_json
from conveyor.core._jobs.shielding import to_the_end
from conveyor.core._jobs.short_leases import hold
from conveyor.core._queue_names import schedules_of
from conveyor.core._schedules import due_runs
from conveyor.core._schedules.definition import encode
from conveyor.core._schedules.rows import UNREADABLE, held_at, opened, release, take_over, unreadable
from conveyor.core.errors import ScheduleNotFoundError, UnsupportedFeatureError
from conveyor.core.events import JobDelayed, JobWaiting
from conveyor.core.schedules import Schedule
from conveyor.core.store import TERMINAL, Feature, JobKey, JobRecord, Outcome, Where

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from conveyor.core._schedules.definition import ScheduleSpec, ScheduleState
    from conveyor.core.clock import Clock
    from conveyor.core.store import Inserted, Store

_log: Final = logging.getLogger("conveyor.schedules")

#: While another process holds it, it is looked at again so often, in real seconds.
_AGAIN: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
_PAGE: Final = 1_000


class Schedules:
    """The schedules of one queue."""

    def __init__(self, store: Store, queue: str, clock: Clock) -> None:
        self._store = store
        self._of = queue
        self._queue = schedules_of(queue)
        self._clock = clock

    async def put(self, spec: ScheduleSpec) -> Schedule:
        """Make a schedule, or change the one with this key; one that is as asked for is left alone.

        Raises UnsupportedFeatureError if the store does not offer what its jobs need.
        """
        _check_offered(self._store, spec)
        # What cannot be computed must not be stored: a worker would meet it for ever, and its user never.
        # Pinned by test_core_scheduling.py::test_a_schedule_that_cannot_be_computed_is_not_stored.
        due_runs.begin(spec, self._clock.now())
        return await to_the_end(self._put(spec))

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
        return await to_the_end(self._change(key, lambda _, state, __: due_runs.pause(state)))

    async def resume(self, key: str) -> Schedule:
        """Let it make jobs again, from now on.

        Raises ScheduleNotFoundError.
        """
        return await to_the_end(self._change(key, due_runs.resume))

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

    async def _put(self, spec: ScheduleSpec) -> Schedule:
        while True:
            record = await self._read(spec.key)
            if record is None or record.state.terminal:
                found = await self._make(spec)
            else:
                found = _unchanged(record, spec) or await self._replace(spec)
            if found is not None:
                return found

    async def _make(self, spec: ScheduleSpec) -> Schedule | None:
        record = JobRecord(queue=self._queue, id=spec.key, name=spec.job.name, report=encode(spec))
        [inserted] = await self._store.insert([record])
        if not inserted.created:
            await self._make_room(spec.key)
            return None
        await self._publish(JobWaiting, spec.key)
        return _schedule_of(spec, due_runs.begin(spec, inserted.created_at))

    async def _replace(self, spec: ScheduleSpec) -> Schedule | None:
        record = await self._hold(spec.key)
        if record is None:
            return None
        try:
            was, state = opened(record)
        except UNREADABLE:
            state = due_runs.begin(spec, held_at(record))
        else:
            state = due_runs.revise(was, state, spec, held_at(record))
        spawned = await self._release(record, spec, state)
        return None if spawned is None else _schedule_of(spec, state)

    async def _make_room(self, key: str) -> None:
        """Remove a row of this key that cannot be read."""
        record = await self._read(key)
        if record is not None and not record.state.terminal:
            return  # another process has made it in between
        held = await self._hold(key)
        if held is not None:
            await self._store.settle([Outcome.given_back(held)])
            return
        where = Where(queue=self._queue, ids=frozenset({key}), states=TERMINAL)
        if not (await self._store.delete(where, limit=1)).removed:
            await self._wait(_AGAIN[-1])

    async def _change(
        self, key: str, change: Callable[[ScheduleSpec, ScheduleState, datetime], ScheduleState]
    ) -> Schedule:
        while True:
            record, spec, state = await self._held(key)
            state = change(spec, state, held_at(record))
            if await self._release(record, spec, state) is not None:
                return _schedule_of(spec, state)

    async def _trigger(self, key: str) -> tuple[JobRecord, Inserted]:
        while True:
            record, spec, state = await self._held(key)
            fired = due_runs.trigger(spec, state, held_at(record), new_job_id())
            spawned = await self._release(record, spec, fired.state, fired.jobs)
            if spawned is None:
                continue
            [job], [found] = fired.jobs, spawned
            if found.created:
                event = JobWaiting(queue_name=job.queue, job_id=job.id, at=self._clock.now())
                await self._store.bus.publish([event])
            await take_over(self._store, spec, job, found)
            return job, found

    async def _held(self, key: str) -> tuple[JobRecord, ScheduleSpec, ScheduleState]:
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
        """Wait for the process that holds a schedule; if it has died, its lease runs out."""
        await asyncio.sleep(seconds)
        await self._store.advance({self._queue})

    async def _release(
        self, record: JobRecord, spec: ScheduleSpec, state: ScheduleState, jobs: tuple[JobRecord, ...] = ()
    ) -> Sequence[Inserted] | None:
        """Write a schedule that is held, and say what became of `jobs`; None if its lease was lost."""
        settled = await self._store.settle([release(record, spec, state, jobs)])
        if record.lease not in settled.applied:
            return None
        await self._publish(JobDelayed, record.id)
        return settled.spawned

    async def _read(self, key: str) -> JobRecord | None:
        return await read(self._store, JobKey(self._queue, key))

    async def _publish(self, kind: type[JobWaiting | JobDelayed], key: str) -> None:
        """Publish that a schedule has changed: the workers that fire it look."""
        await self._store.bus.publish([kind(queue_name=self._queue, job_id=key, at=self._clock.now())])


def _unchanged(record: JobRecord, spec: ScheduleSpec) -> Schedule | None:
    try:
        was, state = opened(record)
    except UNREADABLE:
        return None
    return _schedule_of(spec, state) if was == spec else None


def _shown(record: JobRecord) -> Schedule | None:
    try:
        return _schedule_of(*opened(record))
    except UNREADABLE as error:
        _log.warning("the schedule %r cannot be read: %s", record.id, error)
        return None


def _schedule_of(spec: ScheduleSpec, state: ScheduleState) -> Schedule:
    return Schedule(
        key=spec.key,
        name=spec.job.name,
        data=decode_json(spec.job.payload),
        every=spec.interval,
        cron=spec.expression,
        tz=spec.tz,
        start=spec.start,
        end=spec.end,
        limit=spec.limit,
        jitter=spec.jitter,
        misfire=spec.misfire,
        overlap=spec.overlap,
        next_run_at=None if state.paused else state.next,
        last_run_at=state.last,
        runs=state.runs,
        paused=state.paused,
    )


def _check_offered(store: Store, spec: ScheduleSpec) -> None:
    needed = {Feature.GROUPS: spec.job.group, Feature.UNIQUE_KEYS: spec.job.unique_key}
    for feature, needs in needed.items():
        if needs is not None and feature not in store.features:
            raise UnsupportedFeatureError(type(store).__name__, feature)
