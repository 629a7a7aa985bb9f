"""Adding jobs to a queue: their records go to the store, and what the store has comes back as jobs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Self

from typing_extensions import TypeVar

from conveyor.core._jobs import deduplication
from conveyor.core._jobs.builder import as_identified, as_stored
from conveyor.core._jobs.settlements import event_for
from conveyor.core.job import Job

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from conveyor.core._jobs.builder import RecordBuilder
    from conveyor.core._jobs.payload import Payload
    from conveyor.core.clock import Clock
    from conveyor.core.job_options import Parsed
    from conveyor.core.store import JobKey, JobRecord, Store

T = TypeVar("T", default=Any)
R = TypeVar("R", default=Any)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueuer(Generic[T, R]):
    """Adds jobs to one queue of a store."""

    store: Store
    builder: RecordBuilder[T]
    result: Payload[R]
    clock: Clock

    def of_store(self, store: Store) -> Self:
        """The same for that store."""
        return replace(self, store=store)

    async def add(self, given: Sequence[tuple[str, T | None, Mapping[str, Any]]]) -> list[Job[T, R]]:
        """Add jobs (name, data, options) in one step, publish their events, and return them in order."""
        parsed = [self.builder.parsed(options) for _, _, options in given]
        records = [
            self.builder.record(name, data, options)
            for (name, data, _), options in zip(given, parsed, strict=True)
        ]
        if not records:
            return []
        inserted = await self.store.insert(records)
        at = self.clock.now()
        if events := [event_for(found, at) for found in inserted if found.created]:
            await self.store.bus.publish(events)
        existing = await self.existing(
            [
                (record, options, found.key)
                for record, options, found in zip(records, parsed, inserted, strict=True)
                if not found.created
            ]
        )
        return [
            # One that was created, and replaced by a later one of this call: as it is now.
            self.job_of(
                existing.get(found.key.id)
                or (as_stored(record, found) if found.created else as_identified(record, found)),
                deduplicated=not found.created,
            )
            for record, found in zip(records, inserted, strict=True)
        ]

    async def existing(self, duplicates: Sequence[tuple[JobRecord, Parsed, JobKey]]) -> dict[str, JobRecord]:
        """The jobs that were there before, by id, once they have taken what replaces their data."""
        if not duplicates:
            return {}
        found = await deduplication.replace_holders(self.store, self.builder.queue, duplicates, self.clock)
        return {record.id: record for record in found}

    def job_of(self, record: JobRecord, *, deduplicated: bool = False) -> Job[T, R]:
        """The job of a record, as the queue returns it."""
        return Job(
            self.store,
            record,
            self.builder.payload,
            self.clock,
            result=self.result,
            deduplicated=deduplicated,
            max_bytes=self.builder.max_bytes,
        )
