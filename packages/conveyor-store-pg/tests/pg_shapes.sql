-- One queue with a backlog of jobs of one shape, and jobs in all states: so many more of them. The schema, what a
-- job of the backlog is (state, name and group), and the numbers stand in for the words in braces.
set synchronous_commit = off;
set search_path = {schema};

insert into conveyor_jobs (
  seq, queue, id, name, priority, lifo, run_at, grp, unique_key, parent_queue, parent_id, state, sort_key, tie_break,
  holds_key, pending, released, token, lease_until, locked_by, attempt, started, created_at, finished_at, expires_at,
  settled_token, settled_state, settled_at, payload, options, report
)
select
  n,
  'q',
  'j' || n,
  name,
  0,
  false,
  case
    when state = 'delayed' and lapsed then '2029-12-31 23:00+00'::timestamptz
    when state = 'delayed' then '2030-01-02 00:00+00'::timestamptz + n * interval '1 s'
  end,
  grp,
  key,
  case when parent is not null then 'q' end,
  parent,
  state,
  case when key is null then 0 else 1 end,
  n,
  key is not null,
  case when state = 'waiting-children' then 1 else 0 end,
  false,
  case when state = 'active' then 't' || n end,
  case
    when state = 'active' and lapsed then '2029-12-31 23:00+00'::timestamptz
    when state = 'active' then '2030-01-02 00:00+00'::timestamptz + n * interval '1 s'
  end,
  case when state = 'active' then 'w' end,
  0,
  state = 'active',
  '2029-12-01 00:00+00',
  case when state = 'completed' then '2029-12-01 00:00+00'::timestamptz + n * interval '1 s' end,
  case
    when state = 'completed' and n > 200000 then '2029-12-31 00:00+00'::timestamptz
    -- kept for long, so that by default none of the first half goes
    when state = 'completed' and n <= 25000 then '2130-01-01 00:00+00'::timestamptz
  end,
  case when state = 'completed' then 't' || n end,
  case when state = 'completed' then state end,
  case when state = 'completed' then '2029-12-01 00:00+00'::timestamptz + n * interval '1 s' end,
  '{}', '{}', '{}'
  from (
    select n, {state} as state, {name} as name, {group} as grp, null as key, null as parent, false as lapsed
      from generate_series({backlog}) n
    union all
    -- the live ones of n % 10: 0 to 3 active, 4 active and lapsed, 5 due, 6 waiting with a key, 7 with a child, 8
    select
      n,
      (array['active', 'active', 'active', 'active', 'active', 'delayed', 'waiting', 'waiting-children',
        'waiting', 'completed'])[n % 10 + 1],
      'work',
      null,
      case when n % 10 = 6 then 'key-' || n end,
      case when n % 10 = 8 then 'j' || n - 1 end,
      n % 10 in (4, 5)
      from generate_series({live}) n
  ) made;
select setval('conveyor_jobs_seq', 300000);

truncate conveyor_queues, conveyor_groups, conveyor_subqueues;
insert into conveyor_queues (queue, picks, ungrouped_last_served)
select distinct queue, 1000, 1 from conveyor_jobs where grp is not null;
insert into conveyor_groups (queue, grp, known, last_served, waiting)
select queue, grp, true, substr(grp, 2)::int % 2 * substr(grp, 2)::int, count(*)
  from conveyor_jobs where grp is not null group by queue, grp;
insert into conveyor_subqueues (queue, grp, name, sort_key, tie_break, newest, last_served, active, paused, throttled_for)
select j.queue, j.grp, j.name, 0, min(j.tie_break), -max(j.tie_break), min(g.last_served), 0, false, ''
  from conveyor_jobs j join conveyor_groups g using (queue, grp) group by j.queue, j.grp, j.name;
insert into conveyor_tombstones (queue, id, token, state, at)
select 'q', 'x' || n, 't' || n, 'completed', '2029-12-31 23:59+00' from generate_series({live}) n;
