-- Groups: their turns, their limits, and the heads of their lanes. A queue without groups has no row here.
-- Triggers keep them, so that they are exact whatever statement moves a job.

-- A queue that knows a group, from the insert of the first one. `turns` is the number of the latest turn, `served` that of the latest
-- turn of the jobs without a group.
create table conveyor_queues (
  queue text primary key,
  turns integer not null default 0,
  served integer not null default 0
) strict, without rowid;

create table conveyor_groups (
  queue text not null,
  grp text not null,
  -- Whether it takes part in turns: from its first job, or its first turn, until it is forgotten.
  known integer not null default 0,
  -- The number of its latest turn; 0: none yet.
  served integer not null default 0,
  waiting integer not null default 0,
  delayed integer not null default 0,
  active integer not null default 0,
  paused integer not null default 0,
  -- Passed over by claims of this rate until then; an optimisation, and never more than that.
  parked_for text not null default '',
  parked_until text,
  primary key (queue, grp)
) strict, without rowid;

-- Whether a queue knows any group: forget_turns.sql.
create index conveyor_groups_known
  on conveyor_groups (queue)
  where known = 1;

-- Groups that are to be looked at again: unpark.sql, wait.sql.
create index conveyor_groups_parked
  on conveyor_groups (queue, parked_until)
  where parked_for <> '';

-- The group that has waited longest: forget_groups.sql.
create index conveyor_groups_waiting
  on conveyor_groups (queue, served)
  where waiting > 0;

-- Groups that may be forgotten: forget_groups.sql.
create index conveyor_groups_idle
  on conveyor_groups (queue, known, served)
  where waiting = 0 and delayed = 0 and active = 0;

-- The waiting jobs of one name in one group: the rank and place of the first, and the newest job of that
-- rank (minus its seq). The other columns are copies of the group's.
create table conveyor_lanes (
  lane integer primary key,
  queue text not null,
  grp text not null,
  name text not null,
  rank integer not null,
  place integer not null,
  newest integer not null,
  served integer not null,
  active integer not null,
  paused integer not null,
  parked_for text not null,
  unique (queue, grp, name)
) strict;

-- The next lanes among those whose group has had a turn: lanes_served.sql, kinds_served.sql.
create index conveyor_lanes_served
  on conveyor_lanes (queue, name, parked_for, active, rank, served)
  where paused = 0 and served > 0;

-- The next lanes among those whose group has not, oldest first: lanes_fresh.sql, kinds_fresh.sql.
create index conveyor_lanes_fresh
  on conveyor_lanes (queue, name, parked_for, active, rank, place)
  where paused = 0 and served = 0;

-- The same, newest first: lanes_fresh_newest.sql.
create index conveyor_lanes_fresh_newest
  on conveyor_lanes (queue, name, parked_for, active, rank, newest)
  where paused = 0 and served = 0;

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

  insert into conveyor_lanes (queue, grp, name, rank, place, newest, served, active, paused, parked_for)
  select new.queue, new.grp, new.name, new.rank, new.place, -new.seq, g.served, g.active, g.paused, g.parked_for
    from conveyor_groups g
   where g.queue = new.queue
     and g.grp = new.grp
     and new.state = 'waiting'
  on conflict (queue, grp, name) do update
    set place = case when excluded.rank < rank then excluded.place else min(excluded.place, place) end,
        newest = case when excluded.rank < rank then excluded.newest else min(excluded.newest, newest) end,
        rank = excluded.rank
  where excluded.rank <= rank;
end;

create trigger conveyor_jobs_moved
  after update of state, rank on conveyor_jobs
  when new.grp is not null and (new.state <> old.state or new.rank <> old.rank)
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

  delete from conveyor_lanes
   where queue = new.queue
     and grp = new.grp
     and name = new.name
     and 'waiting' in (old.state, new.state);

  insert into conveyor_lanes (queue, grp, name, rank, place, newest, served, active, paused, parked_for)
  select
    new.queue,
    new.grp,
    new.name,
    h.rank,
    h.place,
    -max(
      abs(h.place),
      (
        select abs(l.place)
          from conveyor_jobs l
         where l.queue = new.queue
           and l.grp = new.grp
           and l.name = new.name
           and l.state = 'waiting'
           and l.rank = h.rank
         order by l.place desc
         limit 1
      )
    ),
    g.served,
    g.active,
    g.paused,
    g.parked_for
    from conveyor_groups g,
         (
           select j.rank, j.place
             from conveyor_jobs j
            where j.queue = new.queue
              and j.grp = new.grp
              and j.name = new.name
              and j.state = 'waiting'
            order by j.rank, j.place
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

  delete from conveyor_lanes
   where queue = old.queue
     and grp = old.grp
     and name = old.name
     and old.state = 'waiting';

  insert into conveyor_lanes (queue, grp, name, rank, place, newest, served, active, paused, parked_for)
  select
    old.queue,
    old.grp,
    old.name,
    h.rank,
    h.place,
    -max(
      abs(h.place),
      (
        select abs(l.place)
          from conveyor_jobs l
         where l.queue = old.queue
           and l.grp = old.grp
           and l.name = old.name
           and l.state = 'waiting'
           and l.rank = h.rank
         order by l.place desc
         limit 1
      )
    ),
    g.served,
    g.active,
    g.paused,
    g.parked_for
    from conveyor_groups g,
         (
           select j.rank, j.place
             from conveyor_jobs j
            where j.queue = old.queue
              and j.grp = old.grp
              and j.name = old.name
              and j.state = 'waiting'
            order by j.rank, j.place
            limit 1
         ) h
   where g.queue = old.queue
     and g.grp = old.grp
     and old.state = 'waiting';
end;

create trigger conveyor_groups_changed
  after update of served, active, paused, parked_for on conveyor_groups
  when new.served <> old.served
    or new.active <> old.active
    or new.paused <> old.paused
    or new.parked_for <> old.parked_for
begin
  update conveyor_lanes
     set served = new.served,
         active = new.active,
         paused = new.paused,
         parked_for = new.parked_for
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
