"""Move jobs as time passes: those that are due, and those whose lease has run out."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from conveyor.core.store import Advanced, JobKey, JobState
from conveyor.store.pg.groups import Transition, record_transitions
from conveyor.store.pg.rows import known_instant, moment
from conveyor.store.pg.statements import Session


async def advance(session: Session, now: datetime | None, queues: Collection[str], limit: int) -> Advanced:
    """Move jobs that are due and jobs whose lease has run out."""
    now = await moment(session, now)
    if not queues:
        return Advanced(now=now, due=(), stalled=())
    names = sorted(queues)
    due = await session.ask("make_waiting", queues=names, now=now, limit=limit)
    lapsed = await session.ask("reclaim_expired_leases", queues=names, now=now, limit=limit)
    transitions = [
        Transition(queue, group, name, JobState.DELAYED.value, JobState.WAITING.value)
        for queue, _, name, group in due
        if group is not None
    ] + [
        Transition(queue, group, name, JobState.ACTIVE.value, state)
        for queue, _, name, group, state, _ in lapsed
        if group is not None
    ]
    await record_transitions(session, transitions)
    wait: timedelta | None = timedelta(0)
    if limit not in {len(due), len(lapsed)}:
        [(following,)] = await session.ask("next_deadline", queues=names)
        wait = None if following is None else max(known_instant(following) - now, timedelta(0))
    return Advanced(
        now=now,
        due=[JobKey(queue, id) for queue, id, *_ in due],
        stalled=[JobKey(queue, id) for queue, id, *_, started in lapsed if started],
        unstarted=[JobKey(queue, id) for queue, id, *_, started in lapsed if not started],
        wait=wait,
    )
