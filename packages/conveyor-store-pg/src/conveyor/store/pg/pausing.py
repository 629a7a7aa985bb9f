"""Pausing a queue, or one name or group of it."""

from __future__ import annotations

from datetime import datetime, timedelta

from conveyor.core.store import Pause
from conveyor.store.pg.groups import follow
from conveyor.store.pg.rows import instant, moment
from conveyor.store.pg.statements import Session


async def pause(
    session: Session, now: datetime | None, queue: str, what: Pause, for_: timedelta | None
) -> None:
    """Begin a pause, or prolong it."""
    now = await moment(session, now)
    kind, target = _stored(what)
    resumes_at = None if for_ is None else now + for_
    await session.run("pause", queue=queue, kind=kind, target=target, resumes_at=resumes_at, now=now)
    if what.group is not None:
        await session.run("pause_group", queue=queue, group=target)
        await follow(session, [(queue, target)])


async def resume(session: Session, queue: str, what: Pause) -> None:
    """End a pause."""
    kind, target = _stored(what)
    await session.run("resume", queue=queue, kind=kind, target=target)
    if what.group is not None:
        await session.run("resume_group", queue=queue, group=target)
        await follow(session, [(queue, target)])


async def paused(session: Session, now: datetime | None, queue: str) -> dict[Pause, datetime | None]:
    """The pauses that have not ended."""
    found: dict[Pause, datetime | None] = {}
    for kind, target, resumes_at in await session.ask("find_pauses", queue=queue, now=now):
        what = Pause(name=target if kind == "name" else None, group=target if kind == "group" else None)
        found[what] = instant(resumes_at)
    return found


def _stored(what: Pause) -> tuple[str, str]:
    if what.name is not None:
        return "name", what.name
    if what.group is not None:
        return "group", what.group
    return "queue", ""
