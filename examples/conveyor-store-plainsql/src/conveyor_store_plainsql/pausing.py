"""Pauses of a queue, of names and of groups."""

from datetime import datetime, timedelta
from sqlite3 import Connection

from conveyor.core.store import Pause
from conveyor.store.sql import PauseKey, pause_of
from conveyor_store_plainsql.rows import instant, stored

PAUSE = """
insert into conveyor_pauses (queue, kind, target, until) values (:queue, :kind, :target, :until)
    on conflict (queue, kind, target) do update set until = case
         when conveyor_pauses.until <= :now then excluded.until
         when conveyor_pauses.until < excluded.until then excluded.until
         when excluded.until is null then null
         else conveyor_pauses.until
       end
"""


def pause(db: Connection, now: datetime, queue: str, what: Pause, for_: timedelta | None) -> None:
    until = None if for_ is None else stored(now + for_)
    values = {"queue": queue, "until": until, "now": stored(now)}
    db.execute(PAUSE, values | PauseKey.of(what)._asdict())


def resume(db: Connection, _now: datetime, queue: str, what: Pause) -> None:
    sql = "delete from conveyor_pauses where queue = ? and kind = ? and target = ?"
    db.execute(sql, (queue, *PauseKey.of(what)))


def paused(db: Connection, now: datetime, queue: str) -> dict[Pause, datetime | None]:
    sql = "select kind, target, until from conveyor_pauses where queue = ? and (until is null or until > ?)"
    found = db.execute(sql, (queue, stored(now)))
    return {
        pause_of(kind, target): None if until is None else instant(until) for kind, target, until in found
    }
