"""Company for a job that is claimed: other jobs of its name, or of its group, to run in one batch with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from conveyor.core.errors import StoreError
from conveyor.core.ids import new_token
from conveyor.core.jobs import JobState
from conveyor.core.store import Claimed, Order, Pause, Where

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from conveyor.core.jobs import JobRecord
    from conveyor.core.store import Claim, Store

_WAITING: Final = frozenset({JobState.WAITING})
#: How many waiting jobs are looked at for each one without a group that is wanted: they cannot be asked for.
_LOOKED_AT: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """What was claimed for a batch, and what of that is to go back at once."""

    claimed: Claimed
    back: Sequence[JobRecord] = ()


async def same_name(store: Store, claim: Claim, lead: JobRecord, count: int) -> Company:
    """Up to `count` jobs of the lead's name: an ordinary claim, under every limit."""
    request = replace(claim, count=count, token=new_token(), names=frozenset({lead.name}))
    return Company(claimed=await store.claim(request))


async def same_group(store: Store, claim: Claim, lead: JobRecord, count: int) -> Company | None:
    """Up to `count` waiting jobs of the lead's group, most urgent first, by their ids; None: there are none.

    A claim by ids passes over pauses and due times, so what it should not have taken is to go back. It is
    for workers without limits, over which it passes as well.
    """
    where = Where(queue=claim.queue, group=lead.group, states=_WAITING)
    limit = count if lead.group is not None else count * _LOOKED_AT
    found = await store.find(where, limit=limit, order=Order.CLAIM)
    ids = [record.id for record in found if record.group == lead.group][:count]
    if not ids:
        return None
    claimed = await store.claim(replace(claim, count=len(ids), token=new_token(), ids=frozenset(ids)))
    paused: Mapping[Pause, datetime | None]
    try:
        # Read after the claim: a pause that had returned before it binds it, as it does any other.
        paused = await store.paused(claim.queue)
    except StoreError:
        paused = {Pause(): None}  # nobody knows: then they go back
    # It was waiting when it was found; somebody may have delayed it since, or given it children.
    kept = [record for record in claimed.jobs if _runnable(record, claimed.now, paused)]
    back = [record for record in claimed.jobs if not _runnable(record, claimed.now, paused)]
    return Company(claimed=replace(claimed, jobs=kept), back=back)


def _runnable(record: JobRecord, now: datetime, paused: Mapping[Pause, datetime | None]) -> bool:
    held_up = record.pending > 0 or (record.run_at is not None and record.run_at > now)
    return not held_up and paused.keys().isdisjoint(
        {Pause(), Pause(name=record.name), Pause(group=record.group)}
    )
