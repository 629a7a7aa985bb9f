-- The tables, idea by idea: jobs, tombstones, pauses, rate limits, groups and their fair share, events.
-- Durations are whole microseconds: an interval of a day would be 23 or 25 hours now and then.

create sequence {schema}.conveyor_jobs_seq;

create table {schema}.conveyor_jobs (
  seq bigint primary key,
  queue text collate "C" not null,
  id text collate "C" not null,
  name text collate "C" not null,
  priority integer not null,
  lifo boolean not null,
  ageing bigint,
  delay bigint,
  run_at timestamptz,
  grp text collate "C",
  group_max_size integer,
  unique_key text collate "C",
  unique_for bigint,
  parent_queue text collate "C",
  parent_id text collate "C",
  state text collate "C" not null,
  sort_key double precision not null,
  -- -seq for lifo jobs, seq for the others: their order within a sort key.
  tie_break bigint not null,
  holds_key boolean not null,
  unique_until timestamptz,
  pending integer not null,
  released boolean not null,
  token text collate "C",
  lease_until timestamptz,
  locked_by text,
  attempt integer not null default 0,
  stalled integer not null default 0,
  started boolean not null default false,
  cancel_requested boolean not null default false,
  created_at timestamptz not null,
  processed_at timestamptz,
  finished_at timestamptz,
  expires_at timestamptz,
  keep_count integer,
  -- The outcome that was applied last: a repeated settle is known by it.
  settled_token text collate "C",
  settled_state text collate "C",
  settled_at timestamptz,
  payload jsonb not null,
  options json not null,
  report json not null
) with (
  fillfactor = 80,
  -- Every job leaves dead rows behind, and a claim reads past those at the head of its index.
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_cost_delay = 1,
  autovacuum_analyze_scale_factor = 0.05
);

alter sequence {schema}.conveyor_jobs_seq owned by {schema}.conveyor_jobs.seq;

-- Jobs by identity: insert, settle, renew, a claim by ids.
create unique index conveyor_jobs_id
  on {schema}.conveyor_jobs (queue, id);

-- A unique key has one holder: insert.
create unique index conveyor_jobs_key
  on {schema}.conveyor_jobs (queue, unique_key)
  where holds_key;

-- A claim among the jobs without a group: claim.sql, find_candidates.sql.
create index conveyor_jobs_waiting
  on {schema}.conveyor_jobs (queue, sort_key, tie_break)
  where state = 'waiting' and grp is null;

-- The same for one name, when not all may be claimed: find_candidates.sql, claimable_names.sql. Its collation
-- is as in conveyor_jobs_added.
create index conveyor_jobs_waiting_name
  on {schema}.conveyor_jobs (queue collate "POSIX", name, sort_key, tie_break)
  where state = 'waiting' and grp is null;

-- A claim within one sub-queue: find_candidates_in_groups.sql; and the first job of each: refresh_subqueues.sql.
create index conveyor_jobs_waiting_subqueue
  on {schema}.conveyor_jobs (queue, grp, name, sort_key, tie_break)
  where state = 'waiting' and grp is not null;

-- The waiting jobs of all groups in the order of claims: Order.CLAIM. Its collation is as in conveyor_jobs_added.
create index conveyor_jobs_waiting_grouped
  on {schema}.conveyor_jobs (queue collate "POSIX", sort_key, tie_break)
  where state = 'waiting' and grp is not null;

-- Jobs that come due: make_waiting.sql, claim_wait.sql, next_deadline.sql.
create index conveyor_jobs_run_at
  on {schema}.conveyor_jobs (queue, run_at)
  where state = 'delayed';

-- Leases that run out: reclaim_expired_leases.sql, next_deadline.sql; how many jobs are active: count_active.sql.
create index conveyor_jobs_lease_until
  on {schema}.conveyor_jobs (queue, lease_until)
  where state = 'active';

-- The children of a parent, in the order they were added: Where.parent, count_unreleased.sql. Of an expression,
-- because a plan that has the order from the primary key reads all other jobs on its way.
create index conveyor_jobs_parent
  on {schema}.conveyor_jobs (parent_queue, parent_id, (seq + 0))
  where parent_id is not null;

-- Jobs of one state in the order they were added: sets of them, Order.ADDED, Order.NEWEST, and counts. The
-- collation is C by another name, so that only a statement that asks for it by that name comes by this index:
-- where nothing is known of the table, it looks better than any made for one state, and so claims read all that
-- waits.
create index conveyor_jobs_added
  on {schema}.conveyor_jobs (queue collate "POSIX", state collate "POSIX", (seq + 0));

-- Finished jobs, those that have a retention apart from the others: Order.FINISHED and EARLIEST,
-- Where.unretained. As a number, because a plan takes a condition of two parts to pieces, and then does not
-- know it again.
create index conveyor_jobs_finished
  on {schema}.conveyor_jobs (queue, state, ((expires_at is null and keep_count is null)::int), finished_at, seq)
  where finished_at is not null;

-- Retention by age: Where.expired.
create index conveyor_jobs_expires_at
  on {schema}.conveyor_jobs (queue, expires_at)
  where expires_at is not null;

-- Retention by count: Where.expired.
create index conveyor_jobs_keep_count
  on {schema}.conveyor_jobs (queue, state, finished_at, seq)
  where keep_count is not null;

-- The last outcome of jobs that are gone.
create table {schema}.conveyor_tombstones (
  queue text collate "C" not null,
  id text collate "C" not null,
  token text collate "C" not null,
  state text collate "C" not null,
  at timestamptz not null,
  primary key (queue, id, token)
);

-- Those that need not be remembered any more: forget_ended.sql.
create index conveyor_tombstones_at
  on {schema}.conveyor_tombstones (queue, at);

-- Pauses of queues, names and groups.
create table {schema}.conveyor_pauses (
  queue text collate "C" not null,
  -- 'queue', 'name' or 'group'; the target is empty for a queue.
  kind text collate "C" not null,
  target text collate "C" not null,
  -- Null: not before it is resumed.
  resumes_at timestamptz,
  primary key (queue, kind, target)
);

-- Pauses that end by themselves: forget_ended.sql, claim_wait.sql, end_group_pauses.sql.
create index conveyor_pauses_resumes_at
  on {schema}.conveyor_pauses (queue, kind, resumes_at)
  where resumes_at is not null;

-- Starts of jobs, for rate limits. `total` counts all starts of a scope up to and including that instant,
-- so that those of a window are a difference of two rows.
create table {schema}.conveyor_starts (
  queue text collate "C" not null,
  -- 'queue' or 'group'; the target is empty for a queue.
  kind text collate "C" not null,
  target text collate "C" not null,
  at timestamptz not null,
  starts bigint not null,
  total bigint not null,
  primary key (queue, kind, target, at)
);

-- Starts that no window needs: forget_starts.sql.
create index conveyor_starts_at
  on {schema}.conveyor_starts (queue, kind, at);

-- The longest window that a claim has registered.
create table {schema}.conveyor_windows (
  queue text collate "C" not null,
  kind text collate "C" not null,
  longest bigint not null,
  primary key (queue, kind)
);

-- Groups: their fair share, their limits, and their sub-queues.
-- groups.py keeps them: whatever moves a job of a group locks the group's row first.

-- The row that the claims of a queue with limits or groups lock, one after another. `picks` counts the jobs
-- that claims have picked; `ungrouped_last_served` is the number of the latest pick without a group.
create table {schema}.conveyor_queues (
  queue text collate "C" primary key,
  picks bigint not null default 0,
  ungrouped_last_served bigint not null default 0,
  -- Whether any claim had a limit: then they go one after another, so that counts stay true.
  limited boolean not null default false
) with (fillfactor = 50);

create table {schema}.conveyor_groups (
  queue text collate "C" not null,
  grp text collate "C" not null,
  -- Whether it has a share: from its first job, or its first pick, until it is forgotten.
  known boolean not null default false,
  -- The number of its latest pick; 0: it was never served.
  last_served bigint not null default 0,
  waiting integer not null default 0,
  delayed integer not null default 0,
  active integer not null default 0,
  paused boolean not null default false,
  -- Passed over by claims of this rate until then; an optimisation, and never more than that.
  throttled_for text collate "C" not null default '',
  throttled_until timestamptz,
  primary key (queue, grp)
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 500
);

-- Whether a queue knows any group: claim_preconditions.sql, forget_queue.sql.
create index conveyor_groups_known
  on {schema}.conveyor_groups (queue, grp)
  where known;

-- Groups that are to be looked at again: unthrottle_groups.sql, claim_wait.sql.
create index conveyor_groups_throttled
  on {schema}.conveyor_groups (queue, throttled_for, throttled_until)
  where throttled_for <> '';

-- The group that has waited longest: forget_groups.sql.
create index conveyor_groups_waiting
  on {schema}.conveyor_groups (queue, last_served)
  where waiting > 0;

-- Groups that may be forgotten: forget_groups.sql.
create index conveyor_groups_idle
  on {schema}.conveyor_groups (queue, last_served)
  where waiting = 0 and delayed = 0 and active = 0;

-- Sub-queues: the waiting jobs of one name in one group. The sort key and tie break of the first, and the
-- newest job of that sort key (minus its seq). The other columns are copies of the group's.
create table {schema}.conveyor_subqueues (
  queue text collate "C" not null,
  grp text collate "C" not null,
  name text collate "C" not null,
  sort_key double precision not null,
  tie_break bigint not null,
  newest bigint not null,
  last_served bigint not null,
  active integer not null,
  paused boolean not null,
  throttled_for text collate "C" not null,
  primary key (queue, grp, name)
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 500
);

-- The next sub-queues among those whose group was served before: find_candidates_in_groups.sql,
-- subqueue_classes_served.sql.
create index conveyor_subqueues_served
  on {schema}.conveyor_subqueues (queue, name, throttled_for, active, sort_key, last_served)
  where not paused and last_served > 0;

-- The next sub-queues among those whose group was never served, oldest first: find_candidates_in_groups.sql,
-- subqueue_classes_never_served.sql.
create index conveyor_subqueues_never_served
  on {schema}.conveyor_subqueues (queue, name, throttled_for, active, sort_key, tie_break)
  where not paused and last_served = 0;

-- The same, newest first: find_candidates_in_groups.sql.
create index conveyor_subqueues_never_served_newest
  on {schema}.conveyor_subqueues (queue, name, throttled_for, active, sort_key, newest)
  where not paused and last_served = 0;

-- Who listens to which events; bus.py keeps it. It is worth nothing after a crash: those who listen say so
-- again when they are connected again.
create unlogged table {schema}.conveyor_listeners (
  handle text collate "C" primary key,
  -- The kinds of events wanted, by queue; null: all of them.
  wanted json not null,
  expires_at timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
