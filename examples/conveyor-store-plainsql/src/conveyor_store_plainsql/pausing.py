"""Pauses of a queue and of names, by what they are of: '' the whole queue, 'n' and a name."""

from datetime import datetime, timedelta
from sqlite3 import Connection

from conveyor.core.store import Pause
from conveyor_store_plainsql.rows import instant, stored

PAUSE = """
insert into conveyor_pauses (queue, name, until) values (:queue, :name, :until)
    on conflict (queue, name) do update set until = case
         when conveyor_pauses.until <= :now then excluded.until
         when conveyor_pauses.until < excluded.until then excluded.until
         when excluded.until is null then null
         else conveyor_pauses.until
       end
"""


def pause(db: Connection, now: datetime, queue: str, what: Pause, for_: timedelta | None) -> None:
    until = None if for_ is None else stored(now + for_)
    db.execute(PAUSE, {"queue": queue, "name": _name(what), "until": until, "now": stored(now)})


def resume(db: Connection, _now: datetime, queue: str, what: Pause) -> None:
    db.execute("delete from conveyor_pauses where queue = ? and name = ?", (queue, _name(what)))


def paused(db: Connection, now: datetime, queue: str) -> dict[Pause, datetime | None]:
    found = db.execute(
        "select name, until from conveyor_pauses where queue = ? and (until is null or until > ?)",
        (queue, stored(now)),
    )
    return {
        Pause(name=name[1:] if name else None): None if until is None else instant(until)
        for name, until in found
    }


def _name(what: Pause) -> str:
    return "" if what.name is None else f"n{what.name}"
