-- Events for other processes, written only while one of them listens.

create table conveyor_events (
  id integer primary key autoincrement,
  -- The handle that tells them, and hears them without this table.
  source text not null,
  at text not null,
  body text not null
) strict;

-- Events that everybody has had time to read: prune.sql.
create index conveyor_events_at
  on conveyor_events (at);

create table conveyor_listeners (
  handle text primary key,
  -- JSON: the kinds of events wanted, by queue.
  wanted text not null,
  -- A handle that does not renew this is gone.
  until text not null
) strict, without rowid;
