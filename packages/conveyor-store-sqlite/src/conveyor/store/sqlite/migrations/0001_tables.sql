-- The tables, idea by idea: jobs, tombstones, pauses, rate limits, groups and their fair share, events.
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
  -- The bits of the sort key, a float, as a number of the same order: JSON would round the float.
  sort_key integer not null,
  -- -seq for lifo jobs, seq for the others: their order within a sort key.
  tie_break integer not null,
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

-- A claim among the jobs without a group: jobs_oldest.sql.
create index conveyor_jobs_waiting
  on conveyor_jobs (queue, sort_key, tie_break, state, grp)
  where state = 'waiting' and grp is null;

-- The same for one name, when not all may be claimed: jobs_oldest.sql, ungrouped_names.sql.
create index conveyor_jobs_waiting_name
  on conveyor_jobs (queue, name, sort_key, tie_break, state, grp)
  where state = 'waiting' and grp is null;

-- A claim within one sub-queue: jobs_oldest.sql, and the triggers that keep conveyor_subqueues.
create index conveyor_jobs_waiting_subqueue
  on conveyor_jobs (queue, grp, name, sort_key, tie_break, state)
  where state = 'waiting' and grp is not null;

-- Jobs that come due: find_due.sql, claim_wait.sql.
create index conveyor_jobs_run_at
  on conveyor_jobs (queue, run_at, state)
  where state = 'delayed';

-- Leases that run out: find_expired_leases.sql; how many jobs are active: count_active.sql.
create index conveyor_jobs_lease_until
  on conveyor_jobs (queue, lease_until, state)
  where state = 'active';

-- The children of a parent: Where.parent, count_unreleased.sql; jobs that wait for children have no other index.
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

-- Sets of jobs, by indexes that end with the row's number, which is the order in which jobs were added. One for
-- each state, and none for all: a statement that finds its rows by something else must not go by their state
-- instead.

-- The jobs of a state, as they were added: Order.ADDED and NEWEST; those that wait for children have theirs.
create index conveyor_jobs_all_waiting
  on conveyor_jobs (queue, state)
  where state = 'waiting';

create index conveyor_jobs_all_delayed
  on conveyor_jobs (queue, state)
  where state = 'delayed';

create index conveyor_jobs_all_active
  on conveyor_jobs (queue, state)
  where state = 'active';

create index conveyor_jobs_all_completed
  on conveyor_jobs (queue, state)
  where state = 'completed';

create index conveyor_jobs_all_failed
  on conveyor_jobs (queue, state)
  where state = 'failed';

create index conveyor_jobs_all_cancelled
  on conveyor_jobs (queue, state)
  where state = 'cancelled';

-- Waiting jobs with a group, whatever their names: Order.CLAIM.
create index conveyor_jobs_waiting_grouped
  on conveyor_jobs (queue, sort_key, tie_break, state, grp)
  where state = 'waiting' and grp is not null;

-- The jobs of a group: Where.group.
create index conveyor_jobs_group
  on conveyor_jobs (queue, grp)
  where grp is not null;

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

-- Pauses of queues, names and groups.
create table conveyor_pauses (
  queue text not null,
  -- 'queue', 'name' or 'group'; the target is empty for a queue.
  kind text not null,
  target text not null,
  -- Null: not before it is resumed.
  resumes_at text,
  primary key (queue, kind, target)
) strict, without rowid;

-- Pauses that end by themselves: forget_pauses.sql, claim_wait.sql.
create index conveyor_pauses_resumes_at
  on conveyor_pauses (queue, kind, resumes_at)
  where resumes_at is not null;

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

-- The longest window that a claim has registered.
create table conveyor_windows (
  queue text not null,
  kind text not null,
  longest integer not null,
  primary key (queue, kind)
) strict, without rowid;

-- Groups: their fair share, their limits, and their sub-queues. A queue without groups has no row here.
-- Triggers keep them, so that they are exact whatever statement moves a job.

-- A queue that knows a group, from the insert of the first one. `picks` counts the jobs that claims have picked;
-- `ungrouped_last_served` is the number of the latest pick without a group.
create table conveyor_queues (
  queue text primary key,
  picks integer not null default 0,
  ungrouped_last_served integer not null default 0
) strict, without rowid;

create table conveyor_groups (
  queue text not null,
  grp text not null,
  -- Whether it has a share: from its first job, or its first pick, until it is forgotten.
  known integer not null default 0,
  -- The number of its latest pick; 0: it was never served.
  last_served integer not null default 0,
  waiting integer not null default 0,
  delayed integer not null default 0,
  active integer not null default 0,
  paused integer not null default 0,
  -- Passed over by claims of this rate until then; an optimisation, and never more than that.
  throttled_for text not null default '',
  throttled_until text,
  primary key (queue, grp)
) strict, without rowid;

-- Whether a queue knows any group: forget_picks.sql.
create index conveyor_groups_known
  on conveyor_groups (queue)
  where known = 1;

-- Groups that are to be looked at again: unthrottle_groups.sql, claim_wait.sql.
create index conveyor_groups_throttled
  on conveyor_groups (queue, throttled_until)
  where throttled_for <> '';

-- The group that has waited longest: forget_groups.sql.
create index conveyor_groups_waiting
  on conveyor_groups (queue, last_served)
  where waiting > 0;

-- Groups that may be forgotten: forget_groups.sql.
create index conveyor_groups_idle
  on conveyor_groups (queue, known, last_served)
  where waiting = 0 and delayed = 0 and active = 0;

-- Sub-queues: the waiting jobs of one name in one group. The sort key and tie break of the first, and the
-- newest job of that sort key (minus its seq). The other columns are copies of the group's.
create table conveyor_subqueues (
  number integer primary key,
  queue text not null,
  grp text not null,
  name text not null,
  sort_key integer not null,
  tie_break integer not null,
  newest integer not null,
  last_served integer not null,
  active integer not null,
  paused integer not null,
  throttled_for text not null,
  unique (queue, grp, name)
) strict;

-- The next sub-queues among those whose group was served before: subqueues_served.sql,
-- subqueue_classes_served.sql.
create index conveyor_subqueues_served
  on conveyor_subqueues (queue, name, throttled_for, active, sort_key, last_served)
  where paused = 0 and last_served > 0;

-- The next sub-queues among those whose group was never served, oldest first: subqueues_never_served.sql,
-- subqueue_classes_never_served.sql.
create index conveyor_subqueues_never_served
  on conveyor_subqueues (queue, name, throttled_for, active, sort_key, tie_break)
  where paused = 0 and last_served = 0;

-- The same, newest first: subqueues_never_served_newest.sql.
create index conveyor_subqueues_never_served_newest
  on conveyor_subqueues (queue, name, throttled_for, active, sort_key, newest)
  where paused = 0 and last_served = 0;

create trigger conveyor_jobs_inserted
  after insert on conveyor_jobs
  when new.grp is not null
begin
  insert into conveyor_queues (queue)
  values (new.queue)
  on conflict do nothing;

  insert into conveyor_groups (queue, grp, known, waiting, delayed, active, paused)
  values (
    new.queue,
    new.grp,
    1,
    new.state = 'waiting',
    new.state = 'delayed',
    new.state = 'active',
    exists (select 1 from conveyor_pauses where queue = new.queue and kind = 'group' and target = new.grp)
  )
  on conflict do update
    set known = 1,
        waiting = waiting + excluded.waiting,
        delayed = delayed + excluded.delayed,
        active = active + excluded.active;

  insert into conveyor_subqueues (queue, grp, name, sort_key, tie_break, newest, last_served, active, paused, throttled_for)
  select new.queue, new.grp, new.name, new.sort_key, new.tie_break, -new.seq, g.last_served, g.active, g.paused, g.throttled_for
    from conveyor_groups g
   where g.queue = new.queue
     and g.grp = new.grp
     and new.state = 'waiting'
  on conflict (queue, grp, name) do update
    set tie_break = case when excluded.sort_key < sort_key then excluded.tie_break else min(excluded.tie_break, tie_break) end,
        newest = case when excluded.sort_key < sort_key then excluded.newest else min(excluded.newest, newest) end,
        sort_key = excluded.sort_key
  where excluded.sort_key <= sort_key;
end;

create trigger conveyor_jobs_moved
  after update of state, sort_key on conveyor_jobs
  when new.grp is not null and (new.state <> old.state or new.sort_key <> old.sort_key)
begin
  insert into conveyor_groups (queue, grp, paused)
  select
    new.queue,
    new.grp,
    exists (select 1 from conveyor_pauses where queue = new.queue and kind = 'group' and target = new.grp)
   where new.state in ('waiting', 'delayed', 'active')
  on conflict do nothing;

  update conveyor_groups
     set waiting = waiting + (new.state = 'waiting') - (old.state = 'waiting'),
         delayed = delayed + (new.state = 'delayed') - (old.state = 'delayed'),
         active = active + (new.state = 'active') - (old.state = 'active')
   where queue = new.queue
     and grp = new.grp
     and new.state <> old.state;

  delete from conveyor_subqueues
   where queue = new.queue
     and grp = new.grp
     and name = new.name
     and 'waiting' in (old.state, new.state);

  insert into conveyor_subqueues (queue, grp, name, sort_key, tie_break, newest, last_served, active, paused, throttled_for)
  select
    new.queue,
    new.grp,
    new.name,
    h.sort_key,
    h.tie_break,
    -max(
      abs(h.tie_break),
      (
        select abs(l.tie_break)
          from conveyor_jobs l
         where l.queue = new.queue
           and l.grp = new.grp
           and l.name = new.name
           and l.state = 'waiting'
           and l.sort_key = h.sort_key
         order by l.tie_break desc
         limit 1
      )
    ),
    g.last_served,
    g.active,
    g.paused,
    g.throttled_for
    from conveyor_groups g,
         (
           select j.sort_key, j.tie_break
             from conveyor_jobs j
            where j.queue = new.queue
              and j.grp = new.grp
              and j.name = new.name
              and j.state = 'waiting'
            order by j.sort_key, j.tie_break
            limit 1
         ) h
   where g.queue = new.queue
     and g.grp = new.grp
     and 'waiting' in (old.state, new.state);
end;

create trigger conveyor_jobs_deleted
  after delete on conveyor_jobs
  when old.grp is not null and old.state in ('waiting', 'delayed', 'active')
begin
  update conveyor_groups
     set waiting = waiting - (old.state = 'waiting'),
         delayed = delayed - (old.state = 'delayed'),
         active = active - (old.state = 'active')
   where queue = old.queue
     and grp = old.grp;

  delete from conveyor_subqueues
   where queue = old.queue
     and grp = old.grp
     and name = old.name
     and old.state = 'waiting';

  insert into conveyor_subqueues (queue, grp, name, sort_key, tie_break, newest, last_served, active, paused, throttled_for)
  select
    old.queue,
    old.grp,
    old.name,
    h.sort_key,
    h.tie_break,
    -max(
      abs(h.tie_break),
      (
        select abs(l.tie_break)
          from conveyor_jobs l
         where l.queue = old.queue
           and l.grp = old.grp
           and l.name = old.name
           and l.state = 'waiting'
           and l.sort_key = h.sort_key
         order by l.tie_break desc
         limit 1
      )
    ),
    g.last_served,
    g.active,
    g.paused,
    g.throttled_for
    from conveyor_groups g,
         (
           select j.sort_key, j.tie_break
             from conveyor_jobs j
            where j.queue = old.queue
              and j.grp = old.grp
              and j.name = old.name
              and j.state = 'waiting'
            order by j.sort_key, j.tie_break
            limit 1
         ) h
   where g.queue = old.queue
     and g.grp = old.grp
     and old.state = 'waiting';
end;

create trigger conveyor_groups_changed
  after update of last_served, active, paused, throttled_for on conveyor_groups
  when new.last_served <> old.last_served
    or new.active <> old.active
    or new.paused <> old.paused
    or new.throttled_for <> old.throttled_for
begin
  update conveyor_subqueues
     set last_served = new.last_served,
         active = new.active,
         paused = new.paused,
         throttled_for = new.throttled_for
   where queue = new.queue
     and grp = new.grp;
end;

create trigger conveyor_pauses_began
  after insert on conveyor_pauses
  when new.kind = 'group'
begin
  update conveyor_groups
     set paused = 1
   where queue = new.queue
     and grp = new.target;
end;

create trigger conveyor_pauses_ended
  after delete on conveyor_pauses
  when old.kind = 'group'
begin
  update conveyor_groups
     set paused = 0
   where queue = old.queue
     and grp = old.target;
end;

-- Events for other processes, written only while one of them listens.

create table conveyor_events (
  id integer primary key autoincrement,
  -- The handle that published them, and needs not read them here.
  source text not null,
  at text not null,
  body text not null
) strict;

-- Events that all have had time to read: delete_old_events.sql.
create index conveyor_events_at
  on conveyor_events (at);

create table conveyor_listeners (
  handle text primary key,
  -- JSON: the kinds of events wanted, by queue.
  wanted text not null,
  -- A handle that does not renew this in time is gone.
  expires_at text not null
) strict, without rowid;
