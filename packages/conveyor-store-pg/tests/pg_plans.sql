-- A hundred thousand finished jobs and twice as many live ones, in queues that have and have not groups.
set synchronous_commit = off;
set maintenance_work_mem = '256MB';

create temporary table made as select indexname, indexdef from pg_indexes
 where schemaname = 'public' and tablename = 'conveyor_jobs'
   and indexname not in ('conveyor_jobs_pkey');
do $$ declare i record; begin
  for i in select indexname from made loop execute format('drop index %I', i.indexname); end loop;
end $$;

-- n is the seq: plain's are odd, grouped's even; those above a million are live.
insert into conveyor_jobs (
  seq, queue, id, name, priority, lifo, run_at, grp, unique_key, parent_queue, parent_id, state, sort_key, tie_break,
  holds_key, pending, released, token, lease_until, locked_by, attempt, started, created_at, finished_at, expires_at,
  keep_count, settled_token, settled_state, settled_at, payload, options, report
)
select
  n,
  queue,
  'j' || n,
  'name-' || k % 5,
  k % 7,
  false,
  case when state = 'delayed' then '2030-01-01 01:00+00'::timestamptz + k * interval '1 s' end,
  grp,
  case when k % 10 = 3 then 'key-' || n end,
  case when k % 10 = 4 then queue end,
  case when k % 10 = 4 then 'parent-' || k / 100 end,
  state,
  k % 7,
  n,
  live and k % 10 = 3,
  case when state = 'waiting-children' then 3 else 0 end,
  not live,
  case when state = 'active' then 't' || n end,
  case when state = 'active' then '2030-01-01 01:00+00'::timestamptz + k * interval '1 s' end,
  case when state = 'active' then 'w' end,
  0,
  state = 'active',
  '2030-01-01 00:00+00',
  case when not live then '2029-12-01 00:00+00'::timestamptz + n * interval '1 s' end,
  case when not live and k % 2 = 0 then '2030-02-01 00:00+00'::timestamptz + n * interval '1 s' end,
  case when k < 2000 and k % 4 = 1 then 100 end,
  case when not live then 't' || n end,
  case when not live then state end,
  case when not live then '2029-12-01 00:00+00'::timestamptz + n * interval '1 s' end,
  '{}', '{}', '{}'
  from (
    select
      n,
      n / 2 as k,
      n > 1000000 as live,
      case when n % 2 = 1 then 'plain' else 'grouped' end as queue,
      case when n % 2 = 0 and (n / 2) % 3 > 0 then 'g' || (n / 2) % 5003 end as grp,
      case
        when n <= 1000000 then (array['completed', 'completed', 'completed', 'failed', 'cancelled'])[n / 2 % 5 + 1]
        else (array[
          'waiting', 'waiting', 'waiting', 'waiting', 'waiting', 'waiting', 'waiting', 'delayed', 'delayed',
          case when n % 40 < 20 then 'active' else 'waiting-children' end
        ])[n / 2 % 10 + 1]
      end as state
      from (select generate_series(1, 100000) union all select generate_series(1000001, 1200000)) as numbers (n)
  ) made;

do $$ declare i record; begin
  for i in select indexdef from made loop execute i.indexdef; end loop;
end $$;
select setval('conveyor_jobs_seq', 2000000);

insert into conveyor_queues (queue, picks, ungrouped_last_served, limited) values ('grouped', 10000, 7, true);
insert into conveyor_groups (queue, grp, known, last_served, waiting, delayed, active, paused)
select queue, grp, true,
  case when substr(grp, 2)::int % 2 = 0 then 0 else substr(grp, 2)::int end,
  count(*) filter (where state = 'waiting'),
  count(*) filter (where state = 'delayed'),
  count(*) filter (where state = 'active'),
  substr(grp, 2)::int % 100 = 1
  from conveyor_jobs where grp is not null and state in ('waiting', 'delayed', 'active') group by queue, grp;
insert into conveyor_groups (queue, grp, known) select 'grouped', 'idle-' || n, true from generate_series(1, 5) n;
insert into conveyor_subqueues (queue, grp, name, sort_key, tie_break, newest, last_served, active, paused, throttled_for)
select distinct on (j.queue, j.grp, j.name) j.queue, j.grp, j.name, j.sort_key, j.tie_break, -j.tie_break, g.last_served, g.active, g.paused, ''
  from conveyor_jobs j join conveyor_groups g using (queue, grp)
 where j.state = 'waiting' and j.grp is not null
 order by j.queue, j.grp, j.name, j.sort_key, j.tie_break;
-- A small queue beside the large ones, and the pauses, starts and outcomes of many.
insert into conveyor_pauses (queue, kind, target, resumes_at)
select 'grouped', 'group', grp, case when substr(grp, 2)::int % 200 = 1 then '2031-01-01 00:00+00'::timestamptz end from conveyor_groups where paused;
insert into conveyor_pauses (queue, kind, target) values ('grouped', 'name', 'name-0');
insert into conveyor_pauses (queue, kind, target, resumes_at)
select 'q' || n, 'queue', '', '2031-01-01 00:00+00'::timestamptz from generate_series(1, 2000) n;
insert into conveyor_starts (queue, kind, target, at, starts, total)
select 'grouped', 'group', 'g' || n % 5003, '2030-01-01 00:00+00'::timestamptz - n * interval '1 ms', 1, 100000 - n
  from generate_series(1, 50000) n;
insert into conveyor_starts (queue, kind, target, at, starts, total)
select 'grouped', 'queue', '', '2030-01-01 00:00+00'::timestamptz - n * interval '1 ms', 1, 100000 - n
  from generate_series(1, 50000) n;
insert into conveyor_windows values ('grouped', 'queue', 3600000000), ('grouped', 'group', 3600000000);
insert into conveyor_tombstones (queue, id, token, state, at)
select 'grouped', 'x' || n, 't' || n, 'completed', '2030-01-01 00:00+00'::timestamptz - n * interval '1 ms' from generate_series(1, 50000) n;
