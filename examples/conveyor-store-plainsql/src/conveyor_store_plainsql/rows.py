"""The tables, and how a job is a row of one: the only place that knows the columns.

Instants are whole microseconds since 1970 and durations whole microseconds, so that any database has a type
for them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from conveyor.core.store import JobKey, JobRecord, JobState
from conveyor.store.sql import MICROSECOND, Row, known_state

VERSION = 1
TABLES = """
create table conveyor_jobs (
  seq integer primary key autoincrement,
  queue text not null,
  id text not null,
  name text not null,
  payload text not null,
  options text not null,
  report text not null,
  priority integer not null,
  lifo integer not null,
  ageing integer,
  delay integer,
  run_at integer,
  group_name text,
  group_max_size integer,
  unique_key text,
  unique_for integer,
  parent_queue text,
  parent_id text,
  state text not null,
  sort_key real not null,
  holds_key integer not null,
  unique_until integer,
  pending integer not null,
  released integer not null,
  token text,
  lease_until integer,
  locked_by text,
  attempt integer not null default 0,
  stalled integer not null default 0,
  started integer not null default 0,
  cancel_requested integer not null default 0,
  created_at integer not null,
  processed_at integer,
  finished_at integer,
  expires_at integer,
  keep_count integer,
  settled_token text,
  settled_state text,
  settled_at integer,
  unique (queue, id)
);
create unique index conveyor_jobs_key on conveyor_jobs (queue, unique_key) where holds_key = 1;
create index conveyor_jobs_waiting on conveyor_jobs (queue, sort_key) where state = 'waiting';
create index conveyor_jobs_run_at on conveyor_jobs (queue, run_at) where state = 'delayed';
create index conveyor_jobs_lease on conveyor_jobs (queue, lease_until) where state = 'active';
create index conveyor_jobs_parent on conveyor_jobs (parent_queue, parent_id) where parent_id is not null;
create table conveyor_tombstones (
  queue text not null,
  id text not null,
  token text not null,
  state text not null,
  at integer not null,
  primary key (queue, id, token)
);
create table conveyor_pauses (
  queue text not null,
  kind text not null,
  target text not null,
  until integer,
  primary key (queue, kind, target)
);
create table conveyor_starts (
  queue text not null,
  kind text not null,
  target text not null,
  at integer not null,
  starts integer not null,
  primary key (queue, kind, target, at)
);
create table conveyor_windows (
  queue text not null,
  kind text not null,
  longest integer not null,
  primary key (queue, kind)
);
create table conveyor_queues (
  queue text primary key,
  picks integer not null default 0,
  ungrouped integer not null default 0
);
create table conveyor_groups (
  queue text not null,
  group_name text not null,
  last_served integer not null default 0,
  primary key (queue, group_name)
);
"""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DURATIONS = frozenset({"ageing", "delay", "unique_for"})
FLAGS = frozenset({"lifo", "holds_key", "released", "started", "cancel_requested"})
OF_RECORDS = [field.name for field in fields(JobRecord)]
OF_ROWS = [field.name for field in fields(Row)]
#: What is no column: what has another name there, a parent, which is two, and what `Row` notes.
NO_COLUMNS = frozenset({"group", "parent", "reset", "rewritten", "before"})


def stored(value: Any) -> Any:
    """The value as a column has it."""
    if isinstance(value, datetime):
        return (value - EPOCH) // MICROSECOND
    return value // MICROSECOND if isinstance(value, timedelta) else value


def instant(column: int) -> datetime:
    """The instant that a column has."""
    return EPOCH + column * MICROSECOND


def all_stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Named values as their columns have them; a parent's are two."""
    found = {name: stored(value) for name, value in values.items()}
    if "parent" in found:
        found["parent_queue"], found["parent_id"] = found["parent"] or (None, None)
        found["group_name"] = found["group"]
    return {name: value for name, value in found.items() if name not in NO_COLUMNS}


def record(columns: Mapping[str, Any]) -> JobRecord:
    """The job of a row. Raises ValueError or OverflowError for one that cannot be read."""
    values = _read(columns, OF_RECORDS)
    parent = None if columns["parent_id"] is None else JobKey(columns["parent_queue"], columns["parent_id"])
    values["state"] = JobState(values["state"])
    return JobRecord(**values, parent=parent, group=columns["group_name"])


def row(columns: Mapping[str, Any]) -> Row:
    """What a step has to know of a job; what cannot be read of it does not stop the step."""
    values = _read(columns, OF_ROWS, lenient=True)
    values |= {"payload": None, "report": None}  # what is put there is written in their stead
    values["state"] = known_state(values["state"])
    parent = None if columns["parent_id"] is None else (columns["parent_queue"], columns["parent_id"])
    return Row(**values, parent=parent, group=columns["group_name"])


def _read(columns: Mapping[str, Any], names: Iterable[str], *, lenient: bool = False) -> dict[str, Any]:
    values = {name: columns[name] for name in names if name not in NO_COLUMNS}
    for name, value in values.items():
        try:
            if name in FLAGS:
                values[name] = bool(value)
            elif value is not None and name.endswith(("_at", "_until")):
                values[name] = instant(value)
            elif value is not None and name in DURATIONS:
                values[name] = value * MICROSECOND
        except (TypeError, OverflowError):
            if not lenient:
                raise
            values[name] = None
    return values
