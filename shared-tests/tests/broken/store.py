"""What broken stores are made of, and how each says what catches it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from conveyor.core.store import (
    Claim,
    Claimed,
    JobKey,
    JobRecord,
    Lease,
    Outcome,
    Where,
)
from conveyor.store.memory import MemoryStore

MANY = 100_000
Now = datetime | None


@dataclass(frozen=True)
class Bug:
    """A store with one bug, the area that catches it, and a test there that fails."""

    store: type[MemoryStore]
    area: str
    test: str

    def __str__(self) -> str:
        return f"{self.store.__name__}-{self.area}"


BUGS: list[Bug] = []
Class = type[MemoryStore]


def caught_by(area: str, test: str) -> Callable[[Class], Class]:
    """Say which test of which area catches a store's bug."""

    def decorate(store: Class) -> Class:
        BUGS.append(Bug(store, area, test))
        return store

    return decorate


class Broken(MemoryStore):
    """What the broken stores share: ways to look around."""

    async def look(self, key: JobKey, now: Now) -> JobRecord | None:
        """The job as it is."""
        where = Where(queue=key.queue, ids=frozenset({key.id}))
        return next(iter(await MemoryStore.find(self, where, limit=1, now=now)), None)

    async def current(self, lease: Lease, now: Now) -> Lease:
        """The lease on that job now, whoever holds it."""
        found = await self.look(lease.key, now)
        return lease if found is None or found.token is None else found.lease

    async def to_the_end(self, key: JobKey, now: Now) -> None:
        """Take a job out and put it back in, behind all others."""
        found = await self.look(key, now)
        if found is not None:
            await MemoryStore.delete(self, Where(queue=key.queue, ids=frozenset({key.id})), limit=1, now=now)
            await MemoryStore.insert(self, [found], now=now)

    async def lease(self, request: Claim, ids: Collection[str], now: Now) -> Claimed:
        """Take these jobs as the request says."""
        return await MemoryStore.take(
            self,
            request.queue,
            ids,
            token=request.token,
            lease=request.lease,
            worker=request.worker,
            started=request.started,
            now=now,
        )

    def row(self, key: JobKey) -> Any:
        """The store's own row."""
        return self._data().row(key.queue, key.id)


def with_lease(outcome: Outcome, lease: Lease) -> Outcome:
    """The same outcome for another lease on the job."""
    return replace(outcome, lease=lease)
