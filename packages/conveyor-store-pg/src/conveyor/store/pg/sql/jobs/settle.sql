-- Apply outcomes to jobs that no other job depends on, in one step, if all of them are such jobs and held by the
-- given leases; else nothing happens. Jobs to be removed leave the outcome behind that a repeat is known by.
with m as materialized (
  select coalesce(%(now)s::timestamptz, clock_timestamp()) as now
),
found as materialized (
  select j.seq, g.*
    from unnest(
      %(queues)s::text[],
      %(ids)s::text[],
      %(tokens)s::text[],
      %(states)s::text[],
      %(ended)s::boolean[],
      %(attempts)s::int[],
      %(stalls)s::int[],
      %(reports)s::text[],
      %(delays)s::bigint[],
      %(run_at)s::timestamptz[],
      %(ages)s::bigint[],
      %(counts)s::int[],
      %(removed)s::boolean[]
    ) g (queue, id, token, state, ended, attempt, stalls, report, delay, run_at, age, keep_count, removed)
   cross join lateral (
     select seq
       from {schema}.conveyor_jobs
      where queue = g.queue
        and id = g.id
     offset 0
   ) j
   order by j.seq
),
held as materialized (
  select
    f.*,
    (select now from m) as now,
    case
      when f.delay is not null then (select now from m) + f.delay * interval '1 microsecond'
      else coalesce(f.run_at, j.run_at)
    end as due
    from found f
   cross join lateral (
     select run_at
       from {schema}.conveyor_jobs
      where seq = f.seq
        and state || '' = 'active'
        and token = f.token
        and parent_id is null
        and unique_key is null
        and grp is null
        and pending = 0
     offset 0
        for update
   ) j
),
complete as materialized (
  select count(*) = cardinality(%(ids)s::text[]) as yes
    from held
),
gone as (
  delete from {schema}.conveyor_jobs j
   where j.seq = any(array(select seq from held where removed))
     and (select yes from complete)
),
remembered as (
  insert into {schema}.conveyor_tombstones (queue, id, token, state, at)
  select h.queue, h.id, h.token, h.state, h.now
    from held h, complete c
   where h.removed
     and c.yes
  on conflict (queue, id, token) do update
    set state = excluded.state,
        at = excluded.at
),
kept as (
  update {schema}.conveyor_jobs j
     set state = case when h.ended then h.state when h.due > h.now then 'delayed' else 'waiting' end,
         attempt = h.attempt,
         stalled = j.stalled + h.stalls,
         started = false,
         run_at = case when not h.ended and h.due > h.now then h.due end,
         delay = null,
         token = null,
         lease_until = null,
         locked_by = null,
         cancel_requested = j.cancel_requested and not h.ended,
         finished_at = case when h.ended then h.now end,
         expires_at = h.now + h.age * interval '1 microsecond',
         keep_count = h.keep_count,
         settled_token = h.token,
         settled_state = h.state,
         settled_at = h.now,
         report = coalesce(h.report::json, j.report)
    from held h
   where j.seq = any(array[h.seq])
     and not h.removed
     and (select yes from complete)
)
select yes
  from complete
