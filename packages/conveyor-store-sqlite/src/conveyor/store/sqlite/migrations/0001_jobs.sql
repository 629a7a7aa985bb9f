-- Jobs, and what the rules about them need to remember.
-- Instants are ISO 8601 text in UTC with microseconds, and sort as text; durations are whole microseconds.

create table conveyor_jobs (
  seq integer primary key autoincrement,
  queue text not null,
  id text not null,
  name text not null,
  priority integer not null,
  lifo integer not null,
  ageing integer,
  delay integer,
  run_at text,
  grp text,
  group_max_size integer,
  unique_key text,
  unique_for integer,
  parent_queue text,
  parent_id text,
  state text not null,
  -- The bits of the rank, a float, as a number of the same order: JSON would round the float.
  rank integer not null,
  -- -seq for lifo jobs, seq for the others: their order within a rank.
  place integer not null,
  holds_key integer not null,
  unique_until text,
  pending integer not null,
  released integer not null,
  token text,
  lease_until text,
  locked_by text,
  attempt integer not null default 0,
  stalled integer not null default 0,
  started integer not null default 0,
  cancel_requested integer not null default 0,
  created_at text not null,
  processed_at text,
  finished_at text,
  expires_at text,
  keep_count integer,
  -- The outcome that was applied last: a repeated settle is known by it.
  settled_token text,
  settled_state text,
  settled_at text,
  -- Behind all others: what stands behind a long text is read through all of it.
  payload text not null,
  options text not null,
  report text not null
) strict;

-- The partial indexes below end with the columns of their conditions, which SQLite reads all the same:
-- from the row, if they are not in the index.

-- Jobs by identity: insert, settle, renew, a claim by ids.
create unique index conveyor_jobs_id
  on conveyor_jobs (queue, id);

-- A unique key has one holder: insert.
create unique index conveyor_jobs_key
  on conveyor_jobs (queue, unique_key)
  where holds_key = 1;

-- A claim among the jobs without a group: first.sql.
create index conveyor_jobs_waiting
  on conveyor_jobs (queue, rank, place, state, grp)
  where state = 'waiting' and grp is null;

-- The same for one name, when not all may be claimed: first.sql, names.sql.
create index conveyor_jobs_waiting_name
  on conveyor_jobs (queue, name, rank, place, state, grp)
  where state = 'waiting' and grp is null;

-- A claim within one lane of a group: first.sql, and the triggers that keep conveyor_lanes.
create index conveyor_jobs_waiting_lane
  on conveyor_jobs (queue, grp, name, rank, place, state)
  where state = 'waiting' and grp is not null;

-- Jobs that come due: due.sql, wait.sql.
create index conveyor_jobs_run_at
  on conveyor_jobs (queue, run_at, state)
  where state = 'delayed';

-- Leases that run out: stalled.sql; how many jobs are active: active.sql.
create index conveyor_jobs_lease_until
  on conveyor_jobs (queue, lease_until, state)
  where state = 'active';

-- The children of a parent: Where.parent, unreleased.sql; jobs that wait for children have no other index.
create index conveyor_jobs_parent
  on conveyor_jobs (parent_queue, parent_id)
  where parent_id is not null;

-- Jobs that wait for children: sets of them.
create index conveyor_jobs_waiting_children
  on conveyor_jobs (queue, state)
  where state = 'waiting-children';

-- Finished jobs, those that have a retention apart from the others: Order.FINISHED and EARLIEST, Where.unretained.
create index conveyor_jobs_finished
  on conveyor_jobs (queue, state, (expires_at is null and keep_count is null), finished_at)
  where finished_at is not null;

-- Retention by age: Where.expired.
create index conveyor_jobs_expires_at
  on conveyor_jobs (queue, expires_at)
  where expires_at is not null;

-- Retention by count: Where.expired.
create index conveyor_jobs_keep_count
  on conveyor_jobs (queue, state, finished_at, keep_count)
  where keep_count is not null;

-- The last outcome of jobs that are gone.
create table conveyor_tombstones (
  queue text not null,
  id text not null,
  token text not null,
  state text not null,
  at text not null,
  primary key (queue, id, token)
) strict, without rowid;

-- Those that need not be remembered any more: forget_tombstones.sql.
create index conveyor_tombstones_at
  on conveyor_tombstones (queue, at);

create table conveyor_pauses (
  queue text not null,
  -- 'queue', 'name' or 'group'; the target is empty for a queue.
  kind text not null,
  target text not null,
  -- Null: until resumed.
  until text,
  primary key (queue, kind, target)
) strict, without rowid;

-- Pauses that end by themselves: forget_pauses.sql, wait.sql.
create index conveyor_pauses_until
  on conveyor_pauses (queue, kind, until)
  where until is not null;

-- Starts of jobs, for rate limits. `total` counts all starts of a scope up to and including that instant,
-- so that those of a window are a difference of two rows.
create table conveyor_starts (
  queue text not null,
  -- 'queue' or 'group'; the target is empty for a queue.
  kind text not null,
  target text not null,
  at text not null,
  starts integer not null,
  total integer not null,
  primary key (queue, kind, target, at)
) strict, without rowid;

-- Starts that no window needs: forget_starts.sql.
create index conveyor_starts_at
  on conveyor_starts (queue, kind, at);

-- The longest window that a claim has carried.
create table conveyor_windows (
  queue text not null,
  kind text not null,
  longest integer not null,
  primary key (queue, kind)
) strict, without rowid;
