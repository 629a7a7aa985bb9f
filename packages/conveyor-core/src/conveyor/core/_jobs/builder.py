"""Records of jobs that are to be added to a queue, made of names, data and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Generic

from typing_extensions import TypeVar

from conveyor.core._jobs import deduplication
from conveyor.core._jobs.dead_letters import checked_dead_letter
from conveyor.core._jobs.ids import new_job_id
from conveyor.core.durations import Duration, duration
from conveyor.core.errors import InvalidOptionError
from conveyor.core.job_options import Parsed, checked_name, parse
from conveyor.core.store import JobRecord, JobState, replaced

if TYPE_CHECKING:
    from conveyor.core._jobs.payload import Payload
    from conveyor.core.store import Inserted, Retention

T = TypeVar("T", default=Any)

#: Jobs' places differ by fractions of the period: with a shorter one, not by enough to be told apart.
_SHORTEST_AGEING: Final = timedelta(milliseconds=1)


class RecordBuilder(Generic[T]):
    """Makes the records of jobs that are to be added to one queue."""

    def __init__(
        self,
        queue: str,
        *,
        payload: Payload[T],
        defaults: Mapping[str, Any],
        ageing: timedelta | None,
        max_bytes: int,
        keep: Retention | None = None,
    ) -> None:
        self.queue: Final = queue
        self.payload: Final = payload
        self.max_bytes: Final = max_bytes
        self._defaults = defaults
        self._keep = keep
        self._standard = self._checked(defaults)
        self._standard_text = self._standard.settings.encode()
        self._ageing = ageing

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
        payload = self.payload.encode(data, self.max_bytes)
        dedup, group = options.deduplication, options.group
        if options.lifo and self._ageing is not None:
            # Of two jobs of one priority the older has the better place, however little it is older.
            raise InvalidOptionError("lifo", True, "in a queue with ageing the oldest goes first")  # noqa: FBT003
        return JobRecord(
            queue=self.queue,
            id=options.job_id or new_job_id(),
            name=name,
            payload=payload,
            options=self._standard_text if options is self._standard else options.settings.encode(),
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


def as_stored(record: JobRecord, found: Inserted) -> JobRecord:
    """A record as the store has it now that it is added."""
    run_at = record.run_at if record.delay is None else found.created_at + record.delay
    return replaced(
        record,
        state=found.state,
        created_at=found.created_at,
        delay=None,
        run_at=run_at if found.state is JobState.DELAYED else None,
        holds_key=record.unique_key is not None,
    )


def as_identified(record: JobRecord, found: Inserted) -> JobRecord:
    """A record as which a job is known that stood in the way of that one, and has been removed since."""
    return replaced(record, id=found.key.id, state=found.state, created_at=found.created_at)


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
