"""Company for a job that is claimed: other jobs of its name, or of its group, to run in one batch with it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from conveyor.core._jobs.ids import new_token
from conveyor.core.store import JobState, Order, Pause, Where

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from conveyor.core._engine.run import Run
    from conveyor.core.store import Claim, Claimed, JobRecord, Store

_log: Final = logging.getLogger("conveyor.worker")

_WAITING: Final = frozenset({JobState.WAITING})
#: How many waiting jobs are looked at for each one without a group that is wanted: they cannot be asked for.
_LOOKED_AT: Final = 4


async def same_name(store: Store, claim: Claim, lead: JobRecord, count: int) -> Claimed:
    """Up to `count` jobs of the lead's name: an ordinary claim, under every limit."""
    return await store.claim(replace(claim, count=count, token=new_token(), names=frozenset({lead.name})))


async def same_group(store: Store, claim: Claim, lead: JobRecord, count: int) -> Claimed | None:
    """Up to `count` waiting jobs of the lead's group, most urgent first, by their ids; None: there are none.

    A claim by ids passes over pauses and due times: see `held_up`. It is for workers without limits, over
    which it passes as well.
    """
    where = Where(queue=claim.queue, group=lead.group, states=_WAITING)
    limit = count if lead.group is not None else count * _LOOKED_AT
    found = await store.find(where, limit=limit, order=Order.CLAIM)
    ids = [record.id for record in found if record.group == lead.group][:count]
    if not ids:
        return None
    return await store.take(
        claim.queue,
        ids,
        token=new_token(),
        lease=claim.lease,
        worker=claim.worker,
        started=claim.started,
    )


async def held_up(store: Store, runs: Sequence[Run], now: datetime) -> list[Run]:
    """Which of these, just claimed by their ids, should not have been.

    They were waiting when they were found; somebody may have paused or delayed them since, or given them
    children.
    """
    if not runs:
        return []
    try:
        # Read after the claim: a pause that had returned before it binds it, as it does any other.
        paused = await store.paused(runs[0].record.queue)
    except Exception as error:  # noqa: BLE001 - nobody knows: then all go back, whatever it is
        _log.debug("what is paused cannot be read: %s", error)
        return list(runs)
    return [run for run in runs if not _runnable(run.record, now, paused)]


def _runnable(record: JobRecord, now: datetime, paused: Mapping[Pause, datetime | None]) -> bool:
    held_up = record.pending > 0 or (record.run_at is not None and record.run_at > now)
    return not held_up and paused.keys().isdisjoint(
        {Pause(), Pause(name=record.name), Pause(group=record.group)}
    )
