"""Writing to jobs from outside of their runs: what was read is replaced, or nothing is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.lookup import read
from conveyor.core._jobs.report import Report
from conveyor.core.errors import InvalidJobStateError, JobNotFoundError
from conveyor.core.store import Change, JobState, Where

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from conveyor.core.store import JobKey, JobRecord, Store

#: The states of a job that waits, for its turn, its time or its children.
ASIDE: Final = frozenset({JobState.WAITING, JobState.DELAYED, JobState.WAITING_CHILDREN})


async def edit_report(
    store: Store, key: JobKey, edit: Callable[[Report], object], states: frozenset[JobState]
) -> JobRecord:
    """Edit the report of a job in one of these states, none of which is active, and return the job.

    The job can be claimed and changed meanwhile: if another writer was quicker, what that one left is edited.
    Pinned by test_writers_at_once_lose_nothing.

    Raises JobNotFoundError, InvalidJobStateError.
    """
    while True:
        record = await _found(store, key)
        if record.state not in states:
            hint = "while it runs, only its handler may do this" if record.state is JobState.ACTIVE else ""
            raise InvalidJobStateError(key.id, record.state, tuple(sorted(states)), hint)
        report = Report.of(record)
        edit(report)
        text = report.encode(final=record.state.terminal)
        unchanged = Where(
            queue=key.queue,
            ids=frozenset({key.id}),
            states=frozenset({record.state}),
            report=record.report,
        )
        if await store.update(unchanged, Change(report=text)):
            return replace(record, report=text)


async def change(store: Store, key: JobKey, change: Change, states: Collection[JobState]) -> JobRecord:
    """Apply a change to a job in one of these states, and return the job.

    Raises JobNotFoundError, InvalidJobStateError.
    """
    where = Where(queue=key.queue, ids=frozenset({key.id}), states=frozenset(states))
    applied = await store.update(where, change)
    found = await _found(store, key)
    if applied:
        return found
    if change.retry and found.state in states and found.unique_key is not None:
        # It is in a state that would do.
        holder = Where(queue=key.queue, unique_key=found.unique_key)
        for other in await store.find(holder, limit=1):
            hint = f"it cannot be retried while job {other.id!r} holds its deduplication key"
            raise InvalidJobStateError(key.id, found.state, (), hint)
    raise InvalidJobStateError(key.id, found.state, tuple(states))


async def _found(store: Store, key: JobKey) -> JobRecord:
    record = await read(store, key)
    if record is None:
        raise JobNotFoundError(key.queue, key.id)
    return record
