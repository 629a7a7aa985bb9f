-- Groups: their turns, their limits, and the heads of their lanes.
-- groups.py keeps them: whatever moves a job of a group locks the group's row first.

-- What the claims of a queue that has limits or groups take turns at: whoever holds this row claims.
-- `turns` is the number of the latest turn, `served` that of the latest turn of the jobs without a group.
create table {schema}.conveyor_queues (
  queue text collate "C" primary key,
  turns bigint not null default 0,
  served bigint not null default 0,
  -- Whether any claim carried a limit: then all of them stand in line, so that counts stay true.
  limited boolean not null default false
) with (fillfactor = 50);

create table {schema}.conveyor_groups (
  queue text collate "C" not null,
  grp text collate "C" not null,
  -- Whether it takes part in turns: from its first job, or its first turn, until it is forgotten.
  known boolean not null default false,
  -- The number of its latest turn; 0: none yet.
  served bigint not null default 0,
  waiting integer not null default 0,
  delayed integer not null default 0,
  active integer not null default 0,
  paused boolean not null default false,
  -- Passed over by claims of this rate until then; an optimisation, and never more than that.
  parked_for text collate "C" not null default '',
  parked_until timestamptz,
  primary key (queue, grp)
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 500
);

-- Whether a queue knows any group: gate.sql, forget_queue.sql.
create index conveyor_groups_known
  on {schema}.conveyor_groups (queue, grp)
  where known;

-- Groups that are to be looked at again: unpark.sql, wait.sql.
create index conveyor_groups_parked
  on {schema}.conveyor_groups (queue, parked_for, parked_until)
  where parked_for <> '';

-- The group that has waited longest: forget_groups.sql.
create index conveyor_groups_waiting
  on {schema}.conveyor_groups (queue, served)
  where waiting > 0;

-- Groups that may be forgotten: forget_groups.sql.
create index conveyor_groups_idle
  on {schema}.conveyor_groups (queue, served)
  where waiting = 0 and delayed = 0 and active = 0;

-- The waiting jobs of one name in one group: the rank and place of the first, and the newest job of that
-- rank (minus its seq). The other columns are copies of the group's.
create table {schema}.conveyor_lanes (
  queue text collate "C" not null,
  grp text collate "C" not null,
  name text collate "C" not null,
  rank double precision not null,
  place bigint not null,
  newest bigint not null,
  served bigint not null,
  active integer not null,
  paused boolean not null,
  parked_for text collate "C" not null,
  primary key (queue, grp, name)
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 500
);

-- The next lanes among those whose group has had a turn: look_by_turns.sql, kinds_served.sql.
create index conveyor_lanes_served
  on {schema}.conveyor_lanes (queue, name, parked_for, active, rank, served)
  where not paused and served > 0;

-- The next lanes among those whose group has not, oldest first: look_by_turns.sql, kinds_fresh.sql.
create index conveyor_lanes_fresh
  on {schema}.conveyor_lanes (queue, name, parked_for, active, rank, place)
  where not paused and served = 0;

-- The same, newest first: look_by_turns.sql.
create index conveyor_lanes_fresh_newest
  on {schema}.conveyor_lanes (queue, name, parked_for, active, rank, newest)
  where not paused and served = 0;
