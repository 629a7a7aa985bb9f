"""Reading one job by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conveyor.core.store import Where

if TYPE_CHECKING:
    from conveyor.core.store import JobKey, JobRecord, Store


async def read(store: Store, key: JobKey) -> JobRecord | None:
    """The job as it is now, or None."""
    found = await store.find(Where(queue=key.queue, ids=frozenset({key.id})), limit=1)
    return found[0] if found else None
