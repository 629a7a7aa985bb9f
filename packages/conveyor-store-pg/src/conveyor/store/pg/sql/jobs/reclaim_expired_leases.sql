-- Leases that ran out are taken back: their jobs return to where they were.
with lost as materialized (
  select j.seq, j.started
    from unnest(%(queues)s::text[]) q (queue)
   cross join lateral (
     select seq, lease_until, started
       from {schema}.conveyor_jobs
      where queue = q.queue
        and state = 'active'
        and lease_until <= %(now)s
      order by lease_until
      limit %(limit)s
        for update skip locked
   ) j
   order by j.lease_until
   limit %(limit)s
),
moved as (
  update {schema}.conveyor_jobs j
     set state = case
           when j.pending > 0 then 'waiting-children'
           when j.run_at > %(now)s then 'delayed'
           else 'waiting'
         end,
         run_at = case when j.pending > 0 or j.run_at > %(now)s then j.run_at end,
         stalled = j.stalled + l.started::int,
         started = false,
         token = null,
         lease_until = null,
         locked_by = null
    from lost l
   where j.seq = any(array[l.seq])
  returning j.queue, j.id, j.name, j.grp, j.state, l.started
)
select * from moved
