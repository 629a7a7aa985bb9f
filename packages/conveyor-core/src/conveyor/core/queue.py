"""Queue: adding jobs, and looking after them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, Self, Unpack

from typing_extensions import TypeVar

from conveyor.core._argument_checks import checked_clock, checked_pause, checked_store, one_of, several
from conveyor.core._enqueue import Enqueuer
from conveyor.core._inspect import explain, follow, groups, worker_registry
from conveyor.core._jobs import cancel, deduplication, redrive, remove_and_release
from conveyor.core._jobs.builder import RecordBuilder, checked_ageing, checked_defaults
from conveyor.core._jobs.dead_letters import checked_dead_letter
from conveyor.core._jobs.lookup import read
from conveyor.core._jobs.payload import MAX_BYTES, Payload
from conveyor.core._jobs.retry_by_hand import make_all_wait
from conveyor.core._queue_names import checked_queue_name
from conveyor.core._queue_schedules import QueueSchedules
from conveyor.core.durations import Duration, duration, instant
from conveyor.core.errors import InvalidOptionError
from conveyor.core.events import QueueDrained, QueuePaused, QueueResumed
from conveyor.core.job import Job
from conveyor.core.job_options import AddOptions, Keeping, checked_keep, checked_name, flag, whole
from conveyor.core.store import TERMINAL, Change, JobKey, JobState, Order, Pause, Where

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from types import TracebackType

    from conveyor.core._inspect.worker_registry import WorkerInfo
    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.explanation import Explanation
    from conveyor.core.store import JobRecord, Store

#: The type of the jobs' data, and that of their results.
T = TypeVar("T", default=Any)
R = TypeVar("R", default=Any)

_CLEANABLE = TERMINAL | {JobState.WAITING, JobState.DELAYED, JobState.WAITING_CHILDREN}


@dataclass(frozen=True, init=False)
class NewJob(Generic[T]):
    """A job to be added by `add_bulk`: what `add` takes, as a value."""

    name: str
    data: T | None = None
    options: AddOptions = field(default_factory=AddOptions)

    def __init__(self, name: str, data: T | None = None, **options: Unpack[AddOptions]) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "options", options)


class Queue(QueueSchedules[T, R], Generic[T, R]):
    """A named line of jobs in a store.

    Queues are cheap and hold no connection: make as many as you like. `payload` is the type of the
    jobs' data (a pydantic model, a dataclass, a TypedDict, …); without it any JSON is taken. `result` is the
    type that results are given back as.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        *,
        payload: type[T] | None = None,
        result: type[R] | None = None,
        default_job_options: AddOptions | None = None,
        ageing: Duration | None = None,
        dead_letter: str | None = None,
        keep: Keeping | None = None,
        max_payload_bytes: int = MAX_BYTES,
        clock: Clock | None = None,
    ) -> None:
        """Name a queue. Its jobs that fail for good are added to `dead_letter`, unless they say otherwise.

        Once finished, those that are added here are kept as `keep` says, unless they or their worker do.

        With `ageing`, a job that is added here gains one step of priority for every such time it waits.

        Raises InvalidOptionError for a name or a default that cannot be used. `clock` is for tests.
        """
        self.name = checked_queue_name(name, "name")
        self._store = checked_store(store)
        self._clock = checked_clock(clock)
        defaults = checked_defaults(default_job_options)
        if dead_letter is not None:
            defaults.setdefault("dead_letter", dead_letter)
            checked_dead_letter(checked_name(dead_letter, "dead_letter"), self.name)
        #: Makes the records of jobs that are to be added. Not for users.
        self.builder: Final[RecordBuilder[T]] = RecordBuilder(
            self.name,
            payload=Payload(payload),
            defaults=defaults,
            ageing=None if ageing is None else checked_ageing(ageing),
            keep=checked_keep(keep),
            max_bytes=whole(max_payload_bytes, "max_payload_bytes", least=1),
        )
        super().__init__(
            Enqueuer(store=store, builder=self.builder, result=Payload(result, "result"), clock=self._clock)
        )
        self._closed = asyncio.Event()

    def __repr__(self) -> str:
        """The queue's name."""
        return f"<Queue {self.name!r}>"

    async def __aenter__(self) -> Self:
        """Nothing to open: there for symmetry with `close`."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the queue."""
        await self.close()

    async def close(self) -> None:
        """End this queue's observers. Jobs, workers and the store are not affected."""
        self._closed.set()

    # -------------------------------------------------------------- adding

    async def add(self, name: str, data: T | None = None, **options: Unpack[AddOptions]) -> Job[T, R]:
        """Add a job, and return it once it is stored.

        Where a job with this `job_id` exists, or one holds the deduplication key, that job is
        returned with `deduplicated` true, and is not changed (save by the mode `"replace"`).

        Raises InvalidOptionError or PayloadError, having stored nothing; GroupFullError if the group is full.
        """
        [job] = await self._enqueuer.add([(name, data, options)])
        return job

    async def add_bulk(self, jobs: Iterable[NewJob[T]]) -> list[Job[T, R]]:
        """Add jobs in one step: all of them, or, if an error is raised, none. Returned in order."""
        given = several(jobs, "jobs", NewJob, "NewJob(name, data, …)")
        return await self._enqueuer.add([(job.name, job.data, job.options) for job in given])

    async def schedule(
        self,
        when: Duration | datetime,
        name: str,
        data: T | None = None,
        **options: Unpack[AddOptions],
    ) -> Job[T, R]:
        """Add a job that runs at a time (an aware datetime) or after a while ("in 10 minutes", seconds)."""
        timing: AddOptions = {"delay": None, "run_at": None}
        if isinstance(when, datetime):
            timing["run_at"] = instant(when, "when")
        elif isinstance(when, str):
            timing["delay"] = duration(when.strip().removeprefix("in "), "when")
        else:
            timing["delay"] = duration(when, "when")
        [job] = await self._enqueuer.add([(name, data, {**options, **timing})])
        return job

    async def now(self, name: str, data: T | None = None, **options: Unpack[AddOptions]) -> Job[T, R]:
        """Add a job without a delay, whatever the queue's default options say."""
        [job] = await self._enqueuer.add([(name, data, {**options, "delay": 0, "run_at": None})])
        return job

    # ------------------------------------------------------------- reading

    async def get_job(self, job_id: str) -> Job[T, R] | None:
        """The job as it is now, or None if there is none."""
        record = await read(self._store, self._key(job_id))
        return None if record is None else self._enqueuer.job_of(record)

    async def get_jobs(
        self,
        *states: JobState | str,
        limit: int = 100,
        after: Job[T, R] | None = None,
        order: Order | str = Order.ADDED,
    ) -> list[Job[T, R]]:
        """Jobs in these states (none named: in any), in order; the next page is behind `after`."""
        found = await self._store.find(
            Where(queue=self.name, states=_states(states)),
            limit=whole(limit, "limit", least=1),
            after=self._checked_after(after),
            order=one_of(order, "order", Order),
        )
        return [self._enqueuer.job_of(record) for record in found]

    async def get_job_counts(self, *, most: int | None = None) -> dict[JobState, int]:
        """How many jobs are in each state; every state is there.

        Exact, which may take longer the more jobs there are. With `most`, for screens: at most so many of
        each state are counted.
        """
        counts = await self._counts(None, most)
        return {state: counts.get((self.name, state), 0) for state in JobState}

    async def count(self, *states: JobState | str, most: int | None = None) -> int:
        """How many jobs are in these states (none named: in any); of each state, no more than `most`."""
        return sum((await self._counts(_states(states), most)).values())

    async def _counts(
        self, states: frozenset[JobState] | None, most: int | None
    ) -> Mapping[tuple[str | None, JobState], int]:
        most = None if most is None else whole(most, "most", least=1)
        return await self._store.count(Where(queue=self.name, states=states), most=most)

    async def get_workers(self) -> list[WorkerInfo]:
        """The workers that run for this queue, in any process, the longest there first.

        Each renews its registration three times per `lock_duration`; one that died is listed
        until that is over. One that has just started, or cannot reach the store, may be missing.
        """
        return await worker_registry.find_workers(self._store, self.name)

    async def explain(self, job_id: str) -> Explanation:
        """Say why a job is not running: as a value, and by `str()` as text. Nothing is changed.

        Limits are known from the registered workers; the jobs ahead of it are counted up to 1,000. Raises
        JobNotFoundError if there is no such job.
        """
        return await explain.explain(self._store, self._key(job_id))

    async def get_groups(
        self, *, finished: bool = False, limit: int = 1_000, after: str | None = None
    ) -> list[groups.GroupInfo]:
        """The groups that have unfinished jobs or are paused, by id; the next page is behind `after`.

        With `finished`, groups whose jobs have all finished are there, too, and the counts are of every
        state; else of the states of unfinished jobs.
        """
        return await groups.groups_of(
            self._store,
            self.name,
            finished=flag(finished, "finished"),
            limit=whole(limit, "limit", least=1),
            after=None if after is None else checked_name(after, "after"),
        )

    async def get_group(self, group: str) -> groups.GroupInfo:
        """One group, with its counts in every state; one that has no jobs has none in any state."""
        return await groups.group_of(self._store, self.name, checked_name(group, "group"))

    def events(self) -> AsyncIterator[Event]:
        """Every event of this queue, from every process, from the first step of the iteration on.

        One that cannot keep up gets a `Gap` for what it missed. Ends when the queue or the store is closed.
        """
        return follow.all_of(self._store, self.name, self._closed)

    def observe(self, job_id: str) -> AsyncIterator[Event]:
        """One job's events, until it has finished or been removed; at least its end is among them.

        Raises JobNotFoundError, from the first step of the iteration, if there is no such job.
        """
        return follow.follow(self._store, self._key(job_id), self._clock, self._closed)

    # ------------------------------------------------------------- pausing

    async def pause(self, job_name: str | None = None, *, group: str | None = None) -> None:
        """Let no worker start jobs of this queue (of this name, of this group); running ones finish."""
        await self._store.pause(self.name, checked_pause(job_name, group))
        await self._store.bus.publish(
            [QueuePaused(queue_name=self.name, at=self._clock.now(), job_name=job_name, group=group)]
        )

    async def resume(self, job_name: str | None = None, *, group: str | None = None) -> None:
        """Undo exactly this pause: resuming the queue leaves the names that were paused singly."""
        await self._store.resume(self.name, checked_pause(job_name, group))
        await self._store.bus.publish(
            [QueueResumed(queue_name=self.name, at=self._clock.now(), job_name=job_name, group=group)]
        )

    async def get_paused(self) -> Mapping[Pause, datetime | None]:
        """What is paused now, and until when (None: until resumed)."""
        return await self._store.paused(self.name)

    # ------------------------------------------------------ sets of jobs

    async def drain(self, *, delayed: bool = True, group: str | None = None) -> int:
        """Remove the jobs that wait, with `delayed` those to come too, and return how many.

        With `group`, of that group only.
        """
        states = {JobState.WAITING, JobState.WAITING_CHILDREN}
        if flag(delayed, "delayed"):
            states.add(JobState.DELAYED)
        if group is not None:
            checked_name(group, "group")
        where = Where(queue=self.name, states=frozenset(states), group=group)
        removed = await remove_and_release.remove_all(self._store, where, self._clock)
        await self._store.bus.publish([QueueDrained(queue_name=self.name, at=self._clock.now(), group=group)])
        return removed

    async def clean(self, state: JobState | str, grace: Duration = 0, limit: int = 1_000) -> int:
        """Remove up to `limit` jobs in `state` that are at least `grace` old, and return how many.

        The age counts from a job's end, or from its add if it has not finished. Active jobs are not to be
        cleaned.
        """
        wanted = one_of(state, "state", JobState)
        if wanted not in _CLEANABLE:
            raise InvalidOptionError("state", state, f"one of {', '.join(sorted(_CLEANABLE))}")
        where = Where(queue=self.name, states=frozenset({wanted}), older_than=duration(grace, "grace"))
        most = whole(limit, "limit", least=1)
        return await remove_and_release.remove_all(self._store, where, self._clock, limit=most)

    async def obliterate(self, *, force: bool = False) -> None:
        """Remove every trace of the queue: jobs, schedules, pauses, turns, rate windows.

        Raises InvalidJobStateError if a job is active, unless `force`; then its worker loses the lease.
        """
        if not flag(force, "force"):
            whole_queue = Pause()
            was_paused = whole_queue in await self._store.paused(self.name)
            # Paused first: between the look and the removal no worker can start a job.
            await self._store.pause(self.name, whole_queue)
            try:
                await remove_and_release.refuse_active(self._store, self.name)
            except BaseException:
                if not was_paused:
                    await self.resume()
                raise
        # First, so that none of them adds a job to a queue that is gone.
        await self._schedules.forget()
        await remove_and_release.forget(self._store, self.name, self._clock)
        await worker_registry.sweep(self._store, self.name, spare_young=False)

    async def retry_jobs(self, state: JobState | str = JobState.FAILED) -> int:
        """Run all failed (completed, cancelled) jobs again, with all their attempts, and return how many.

        A parent that failed for one of them is reopened, and is not among those counted.
        """
        wanted = one_of(state, "state", JobState)
        if wanted not in TERMINAL:
            raise InvalidOptionError("state", state, f"one of {', '.join(sorted(TERMINAL))}")
        return await make_all_wait(self._store, self.name, wanted, Change(retry=True), self._clock)

    async def promote_jobs(self) -> int:
        """Let all delayed jobs run now, and return how many."""
        sooner = Change(delay=timedelta(0))
        return await make_all_wait(self._store, self.name, JobState.DELAYED, sooner, self._clock)

    async def cancel(self, job_id: str) -> bool:
        """Cancel a job, at once if it is not running; else its handler is cancelled within a second.

        Its unfinished children are cancelled, too, and theirs. False if it has finished, or there is none.
        A handler that ends before it receives this ends as it does: `wait_until_finished` says how.
        """
        return await cancel.cancel(self._store, self._key(job_id), self._clock)

    async def remove(self, job_id: str) -> bool:
        """Remove a job, and say whether it was there.

        Raises InvalidJobStateError if it is active: cancel it first.
        """
        return await remove_and_release.remove(self._store, self._key(job_id), self._clock)

    async def remove_deduplication_key(self, key: str) -> bool:
        """Let the next add with this key add a job, and say whether a job held it.

        The key of a job that was added by its payload is its `Job.deduplication_key`.
        """
        return await deduplication.release(self._store, self.name, key)

    async def redrive(self, *, ids: Iterable[str] | None = None, limit: int | None = None) -> int:
        """Send the dead letters that wait in this queue back to where they came from, and return how many.

        All of them, or the ones with these `ids`, or the first `limit`. A job that is still there, failed, is
        retried where it is; one that has been removed is added again under its old id, with its data and its
        options. Either has all its attempts, and its dead letter is removed. It stays, and is not counted,
        where another job has that id or that deduplication key now. A call that dies on the way loses nothing
        and doubles nothing.
        """
        given = None if ids is None else several(ids, "ids", str, '"01a2…"')
        wanted = None if given is None else frozenset(checked_name(one, "ids") for one in given)
        most = None if limit is None else whole(limit, "limit", least=1)
        return await redrive.redrive(self._store, self.name, self._clock, ids=wanted, limit=most)

    def _key(self, job_id: object) -> JobKey:
        return JobKey(self.name, checked_name(job_id, "job_id"))

    def _checked_after(self, after: object) -> JobRecord | None:
        if after is None:
            return None
        if not isinstance(after, Job) or after.queue_name != self.name:
            raise InvalidOptionError("after", after, "it is the last job of the page before, of this queue")
        return after._record  # noqa: SLF001 - a job is its record, to us


def _states(given: Iterable[JobState | str]) -> frozenset[JobState] | None:
    return frozenset(one_of(state, "states", JobState) for state in given) or None
