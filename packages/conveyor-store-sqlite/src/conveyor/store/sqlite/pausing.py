"""Pausing a queue, or one name or group of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from sqlite3 import Connection

from conveyor.core.store import Pause
from conveyor.store.sql import PauseKey, pause_of
from conveyor.store.sqlite.rows import read, written
from conveyor.store.sqlite.statements import ask, run


def pause(db: Connection, now: datetime, queue: str, what: Pause, for_: timedelta | None) -> None:
    """Begin a pause, or prolong it."""
    resumes_at = None if for_ is None else written(now + for_)
    run(db, "pause", queue=queue, **PauseKey.of(what)._asdict(), resumes_at=resumes_at, now=written(now))


def resume(db: Connection, now: datetime, queue: str, what: Pause) -> None:
    """End a pause."""
    del now  # it ends whenever it would have
    run(db, "resume", queue=queue, **PauseKey.of(what)._asdict())


def paused(db: Connection, now: datetime, queue: str) -> dict[Pause, datetime | None]:
    """The pauses that have not ended."""
    found = ask(db, "find_pauses", queue=queue, now=written(now))
    return {
        pause_of(kind, target): None if resumes_at is None else read(resumes_at)
        for kind, target, resumes_at in found
    }
