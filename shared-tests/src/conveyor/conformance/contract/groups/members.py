"""What the tests of groups work with."""

from __future__ import annotations

from typing import Any

from conveyor.conformance.kit.make import (
    AT_ONCE,
    at,
    claim_jobs,
    completed,
    job,
    settle,
)
from conveyor.core.store import JobRecord, Store, Where

Q = Where(queue="q")


def member(id: str, **fields: Any) -> JobRecord:
    """A job of the group that its id begins with: "g1" is one of group "g", and "-1" of none."""
    return job(id, group=None if id[0] == "-" else id[0], **fields)


def members(*names: str, **fields: Any) -> list[JobRecord]:
    """Jobs of the groups that their ids begin with."""
    return [member(name, **fields) for name in names]


async def run(store: Store, second: float = 0, **fields: Any) -> str:
    """Claim one job, complete and remove it, and return its id; "" when there is none."""
    found = await claim_jobs(store, now=at(second), **fields)
    if not found:
        return ""
    await settle(store, completed(found[0], retention=AT_ONCE), now=at(second))
    return found[0].id


async def run_all(store: Store, second: float = 0, **fields: Any) -> list[str]:
    """Run jobs one by one until there are none, and return their ids."""
    order: list[str] = []
    while ran := await run(store, second, **fields):
        order.append(ran)
    return order
