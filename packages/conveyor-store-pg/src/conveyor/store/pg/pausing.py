"""Pausing a queue, or one name or group of it."""

from __future__ import annotations

from datetime import datetime, timedelta

from conveyor.core.store import Pause
from conveyor.store.pg.groups import copy_to_subqueues
from conveyor.store.pg.rows import instant, moment
from conveyor.store.pg.statements import Session
from conveyor.store.sql import PauseKey, pause_of


async def pause(
    session: Session, now: datetime | None, queue: str, what: Pause, for_: timedelta | None
) -> None:
    """Begin a pause, or prolong it."""
    now = await moment(session, now)
    resumes_at = None if for_ is None else now + for_
    await session.run("pause", queue=queue, **PauseKey.of(what)._asdict(), resumes_at=resumes_at, now=now)
    if what.group is not None:
        await session.run("pause_group", queue=queue, group=what.group)
        await copy_to_subqueues(session, [(queue, what.group)])


async def resume(session: Session, queue: str, what: Pause) -> None:
    """End a pause."""
    await session.run("resume", queue=queue, **PauseKey.of(what)._asdict())
    if what.group is not None:
        await session.run("resume_group", queue=queue, group=what.group)
        await copy_to_subqueues(session, [(queue, what.group)])


async def paused(session: Session, now: datetime | None, queue: str) -> dict[Pause, datetime | None]:
    """The pauses that have not ended."""
    found = await session.ask("find_pauses", queue=queue, now=now)
    return {pause_of(kind, target): instant(resumes_at) for kind, target, resumes_at in found}
