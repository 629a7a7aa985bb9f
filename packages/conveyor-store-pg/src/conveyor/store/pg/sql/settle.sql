-- Apply outcomes to jobs that nobody else depends on, in one step, if all of them are such jobs and held by the
-- given leases; else nothing happens. Jobs to be removed leave the outcome behind that a repeat is known by.
with m as materialized (
  select coalesce(%(now)s::timestamptz, clock_timestamp()) as now
),
held as materialized (
  select
    j.seq,
    g.*,
    m.now,
    case
      when g.delay is not null then m.now + g.delay * interval '1 microsecond'
      else coalesce(g.run_at, j.run_at)
    end as due
    from m,
         unnest(
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
    join {schema}.conveyor_jobs j
      on j.queue = g.queue
     and j.id = g.id
   where j.state = 'active'
     and j.token = g.token
     and j.parent_id is null
     and j.unique_key is null
     and j.grp is null
     and j.pending = 0
   order by j.seq
     for update of j
),
complete as materialized (
  select count(*) = cardinality(%(ids)s::text[]) as yes
    from held
),
gone as (
  delete from {schema}.conveyor_jobs j
   using held h, complete c
   where j.seq = h.seq
     and h.removed
     and c.yes
),
buried as (
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
    from held h, complete c
   where j.seq = h.seq
     and not h.removed
     and c.yes
)
select yes
  from complete
