"""What a queue makes of what is added to it: records for the store, and jobs of what the store has."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, Self

from typing_extensions import TypeVar

from conveyor.core._jobs import deduplication
from conveyor.core._jobs.dead_letters import checked_dead_letter
from conveyor.core._jobs.ids import new_job_id
from conveyor.core.durations import Duration, duration
from conveyor.core.errors import InvalidOptionError
from conveyor.core.events import JobDelayed, JobWaiting
from conveyor.core.job import Job
from conveyor.core.options import Parsed, checked_name, parse
from conveyor.core.store import JobKey, JobRecord, JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conveyor.core._jobs.payload import Payload
    from conveyor.core.clock import Clock
    from conveyor.core.events import Event
    from conveyor.core.store import Inserted, Retention, Store

T = TypeVar("T", default=Any)
R = TypeVar("R", default=Any)

#: Jobs' places differ by fractions of the period: with a shorter one, not by enough to be told apart.
_SHORTEST_AGEING: Final = timedelta(milliseconds=1)


class Intake(Generic[T, R]):
    """How jobs get into one queue of a store."""

    def __init__(
        self,
        queue: str,
        store: Store,
        *,
        payload: Payload[T],
        result: Payload[R],
        defaults: Mapping[str, Any],
        ageing: timedelta | None,
        max_bytes: int,
        clock: Clock,
        keep: Retention | None = None,
    ) -> None:
        self.queue = queue
        self._store = store
        self._payload = payload
        self._result = result
        self._defaults = defaults
        self._keep = keep
        self._standard = self._checked(defaults)
        self._ageing = ageing
        self._max_bytes = max_bytes
        self._clock = clock

    def of_store(self, store: Store) -> Self:
        """The same for that store."""
        other = copy(self)
        other._store = store  # noqa: SLF001 - its own
        return other

    async def add(self, given: Sequence[tuple[str, T | None, Mapping[str, Any]]]) -> list[Job[T, R]]:
        """Add jobs (name, data, options) in one step, tell of them, and return them in order."""
        parsed = [self.parsed(options) for _, _, options in given]
        records = [
            self.record(name, data, options) for (name, data, _), options in zip(given, parsed, strict=True)
        ]
        if not records:
            return []
        inserted = await self._store.insert(records)
        await self._announce(inserted, records)
        standing = await self.standing(
            [
                (record, options, found.key)
                for record, options, found in zip(records, parsed, inserted, strict=True)
                if not found.created
            ]
        )
        return [
            # One that stood in the way and has been removed since: what is known of it is its identity.
            # One that was created, and replaced by a later one of this call: as it is now.
            self.seen(
                standing.get(found.key.id)
                or (
                    as_stored(record, found)
                    if found.created
                    else replace(record, id=found.key.id, state=found.state, created_at=found.created_at)
                ),
                deduplicated=not found.created,
            )
            for record, found in zip(records, inserted, strict=True)
        ]

    def parsed(self, options: Mapping[str, Any]) -> Parsed:
        """These options of `add` over the queue's own. Raises InvalidOptionError."""
        if not options:
            return self._standard
        merged = {**self._defaults, **options}
        # Either kind of timing given here replaces the other kind given as a default.
        for here, there in (("delay", "run_at"), ("run_at", "delay")):
            if options.get(here) is not None and there not in options:
                merged.pop(there, None)
        return self._checked(merged)

    def _checked(self, options: Mapping[str, Any]) -> Parsed:
        parsed = parse(options)
        checked_dead_letter(parsed.settings.dead_letter, self.queue)
        if self._keep is None:
            return parsed
        return replace(parsed, settings=replace(parsed.settings, queue_keep=self._keep))

    def record(self, name: str, data: T | None, options: Parsed) -> JobRecord:
        """The record of a job that is to be added. Raises InvalidOptionError or PayloadError."""
        checked_name(name, "name")
        payload = self._payload.encode(data, self._max_bytes)
        dedup, group = options.deduplication, options.group
        if options.lifo and self._ageing is not None:
            # Of two jobs of one priority the older has the better place, however little it is older.
            raise InvalidOptionError("lifo", True, "in a queue with ageing the oldest goes first")  # noqa: FBT003
        return JobRecord(
            queue=self.queue,
            id=options.job_id or new_job_id(),
            name=name,
            payload=payload,
            options=options.settings.encode(),
            priority=options.priority,
            lifo=options.lifo,
            ageing=self._ageing,
            delay=options.delay or None,
            run_at=options.run_at,
            group=None if group is None else group.id,
            group_max_size=None if group is None else group.max_size,
            unique_key=deduplication.key_of(dedup, name, payload),
            unique_for=None if dedup is None else dedup.ttl,
        )

    async def _announce(self, inserted: Sequence[Inserted], records: Sequence[JobRecord]) -> None:
        at = self._clock.now()
        events: list[Event] = []
        for found, record in zip(inserted, records, strict=True):
            if found.created:
                kind = JobDelayed if found.state is JobState.DELAYED else JobWaiting
                events.append(kind(queue_name=record.queue, job_id=record.id, at=at))
        if events:
            await self._store.bus.publish(events)

    async def standing(self, duplicates: Sequence[tuple[JobRecord, Parsed, JobKey]]) -> dict[str, JobRecord]:
        """The jobs that were there before, by id, once they have taken what replaces their data."""
        if not duplicates:
            return {}
        found = await deduplication.replace_holders(self._store, self.queue, duplicates, self._clock)
        return {record.id: record for record in found}

    def seen(self, record: JobRecord, *, deduplicated: bool = False) -> Job[T, R]:
        """The job of a record, for whoever asks the queue for it."""
        return Job(
            self._store,
            record,
            self._payload,
            self._clock,
            result=self._result,
            deduplicated=deduplicated,
            max_bytes=self._max_bytes,
        )


def as_stored(record: JobRecord, found: Inserted) -> JobRecord:
    """A record as the store has it now that it is added."""
    run_at = record.run_at if record.delay is None else found.created_at + record.delay
    return replace(
        record,
        state=found.state,
        created_at=found.created_at,
        delay=None,
        run_at=run_at if found.state is JobState.DELAYED else None,
        holds_key=record.unique_key is not None,
    )


def checked_defaults(given: object) -> dict[str, Any]:
    """The options of `default_job_options=`, which are checked as those of `add`.

    Raises InvalidOptionError for what is no mapping.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidOptionError("default_job_options", given, 'give the keywords of add: {"attempts": 3}')
    return dict(given)


def checked_ageing(given: Duration) -> timedelta:
    """The period of `ageing=`. Raises InvalidOptionError."""
    period = duration(given, "ageing", zero=False)
    if period < _SHORTEST_AGEING:
        raise InvalidOptionError("ageing", given, "the period is a millisecond at least")
    return period
