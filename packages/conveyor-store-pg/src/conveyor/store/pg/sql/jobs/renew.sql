-- Prolong the leases that are held, write what their holders want written, and say who should stop.
with m as materialized (
  select coalesce(%(now)s::timestamptz, clock_timestamp()) as now
),
found as materialized (
  select j.seq, e.n, e.token, e.payload, e.report, e.started
    from unnest(
      %(numbers)s::int[],
      %(queues)s::text[],
      %(ids)s::text[],
      %(tokens)s::text[],
      %(payloads)s::text[],
      %(reports)s::text[],
      %(started)s::boolean[]
    ) e (n, queue, id, token, payload, report, started)
   cross join lateral (
     select seq
       from {schema}.conveyor_jobs
      where queue = e.queue
        and id = e.id
     offset 0
   ) j
   order by j.seq
),
held as materialized (
  select f.*, j.cancel_requested
    from found f
   cross join lateral (
     select cancel_requested
       from {schema}.conveyor_jobs
      where seq = f.seq
        and state || '' = 'active'
        and token = f.token
     offset 0
        for update
   ) j
),
renewed as (
  update {schema}.conveyor_jobs j
     set lease_until = (select now from m) + %(lease)s * interval '1 microsecond',
         payload = coalesce(h.payload::jsonb, j.payload),
         report = coalesce(h.report::json, j.report),
         started = j.started or h.started
    from held h
   where j.seq = any(array[h.seq])
)
select n, cancel_requested
  from held
