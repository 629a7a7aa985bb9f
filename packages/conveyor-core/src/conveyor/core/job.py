"""Job: what `add` returns, and what a handler receives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from conveyor.core._handle.handled_job import HandledJob
from conveyor.core._jobs.dependencies import FAILED
from conveyor.core._jobs.lookup import read
from conveyor.core._jobs.parent_outcome import failure_of
from conveyor.core._jobs.payload import MAX_BYTES, Payload
from conveyor.core._jobs.run_context import from_threads
from conveyor.core.store import JobState, Where

if TYPE_CHECKING:
    from conveyor.core._jobs.run_context import RunContext
    from conveyor.core.clock import Clock
    from conveyor.core.store import JobRecord, Store

#: The type of the data, and that of the result.
T = TypeVar("T", default=Any)
R = TypeVar("R", default=Any)

_PAGE = 1_000


class Job(HandledJob[T, R], Generic[T, R]):
    """A job as it was when last read, and what can be done with it.

    The properties are a snapshot: `refresh` reads the job again. Inside a handler that is a plain function,
    and so runs in a thread, the methods block and return their results themselves.

    A handler writes under its job's lease. Once its run is over, the job that it was given can be read, and
    dealt with as by any program (`retry`, `remove`, `cancel`, `promote`, …), but what writes for the run
    raises LeaseLostError: progress, logs and data, `discard`, `add_children`, `move_to_delayed` and
    `move_to_failed`.
    """

    def __init__(
        self,
        store: Store,
        record: JobRecord,
        payload: Payload[T],
        clock: Clock,
        *,
        result: Payload[R] | None = None,
        deduplicated: bool = False,
        max_bytes: int = MAX_BYTES,
        run: RunContext | None = None,
    ) -> None:
        """Made by queues and workers."""
        self._store = store
        self._record = record
        self._payload = payload
        self._result = Payload() if result is None else result
        self._clock = clock
        self._max_bytes = max_bytes
        self._run = run
        self._data = None
        self._decoded = False
        self._snapshot = None
        self._read_since = False
        #: Whether `add` found this job there already, by its id or by its deduplication key.
        self.deduplicated = deduplicated

    @from_threads
    async def refresh(self) -> Job[T, R]:
        """Read the job again, and return it.

        Raises JobNotFoundError if it has been removed.
        """
        self._took(await self._read())
        return self

    @from_threads
    async def get_parent(self) -> Job[Any] | None:
        """The job that waits for this one, as it is now; None without one, or if it has been removed."""
        if self._record.parent is None:
            return None
        record = await read(self._store, self._record.parent)
        return None if record is None else self._relative(record)

    @from_threads
    async def get_dependencies(self) -> list[Job[Any]]:
        """The jobs that this one waits for, or waited for, in their order; those removed are left out."""
        return await self._relatives()

    @from_threads
    async def get_children_values(self) -> dict[str, Any]:
        """The results of this job's completed children, by their ids, in their order."""
        children = await self._relatives()
        return {child.id: child.return_value for child in children if child.state is JobState.COMPLETED}

    @from_threads
    async def get_failed_children(self) -> dict[str, str]:
        """Why this job's failed children failed, by their ids, in their order; "cancelled" if they were."""
        return {
            child.id: failure_of(child._record).message  # noqa: SLF001 - a job is its record, to us
            for child in await self._relatives()
            if child.state in FAILED
        }

    def _relative(self, record: JobRecord) -> Job[Any]:
        return Job(self._store, record, Payload[Any](), self._clock, max_bytes=self._max_bytes)

    async def _relatives(self) -> list[Job[Any]]:
        found: list[JobRecord] = []
        children = Where(parent=self._key)
        while page := await self._store.find(children, limit=_PAGE, after=found[-1] if found else None):
            found += page
        order = {job_id: n for n, job_id in enumerate(self.children_ids)}
        found.sort(key=lambda record: order.get(record.id, len(order)))
        return [self._relative(record) for record in found]
