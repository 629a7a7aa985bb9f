"""Pausing a queue, or one name or group of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from sqlite3 import Connection

from conveyor.core.store import Pause
from conveyor.store.sqlite.rows import read, written
from conveyor.store.sqlite.statements import ask, run


def pause(db: Connection, now: datetime, queue: str, what: Pause, for_: timedelta | None) -> None:
    """Begin a pause, or prolong it."""
    kind, target = _stored(what)
    resumes_at = None if for_ is None else written(now + for_)
    run(db, "pause", queue=queue, kind=kind, target=target, resumes_at=resumes_at, now=written(now))


def resume(db: Connection, now: datetime, queue: str, what: Pause) -> None:
    """End a pause."""
    del now  # it ends whenever it would have
    kind, target = _stored(what)
    run(db, "resume", queue=queue, kind=kind, target=target)


def paused(db: Connection, now: datetime, queue: str) -> dict[Pause, datetime | None]:
    """The pauses that have not ended."""
    found: dict[Pause, datetime | None] = {}
    for kind, target, resumes_at in ask(db, "find_pauses", queue=queue, now=written(now)):
        what = Pause(name=target if kind == "name" else None, group=target if kind == "group" else None)
        found[what] = None if resumes_at is None else read(resumes_at)
    return found


def _stored(what: Pause) -> tuple[str, str]:
    if what.name is not None:
        return "name", what.name
    if what.group is not None:
        return "group", what.group
    return "queue", ""
