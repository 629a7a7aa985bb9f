-- Prolong the leases that are held, write what their holders want written, and say who should stop.
with m as materialized (
  select coalesce(%(now)s::timestamptz, clock_timestamp()) as now
),
held as materialized (
  select j.seq, e.n, e.payload, e.report, e.started, j.cancel_requested
    from unnest(
      %(numbers)s::int[],
      %(queues)s::text[],
      %(ids)s::text[],
      %(tokens)s::text[],
      %(payloads)s::text[],
      %(reports)s::text[],
      %(started)s::boolean[]
    ) e (n, queue, id, token, payload, report, started)
    join {schema}.conveyor_jobs j
      on j.queue = e.queue
     and j.id = e.id
   where j.state = 'active'
     and j.token = e.token
   order by j.seq
     for update of j
),
renewed as (
  update {schema}.conveyor_jobs j
     set lease_until = m.now + %(lease)s * interval '1 microsecond',
         payload = coalesce(h.payload::jsonb, j.payload),
         report = coalesce(h.report::json, j.report),
         started = j.started or h.started
    from held h, m
   where j.seq = h.seq
)
select n, cancel_requested
  from held
