-- Leases that ran out are taken back: their jobs return to where they were.
with lost as materialized (
  select seq
    from {schema}.conveyor_jobs
   where queue = any(%(queues)s::text[])
     and state = 'active'
     and lease_until <= %(now)s
   order by lease_until
   limit %(limit)s
     for update skip locked
),
moved as (
  update {schema}.conveyor_jobs j
     set state = case
           when j.pending > 0 then 'waiting-children'
           when j.run_at > %(now)s then 'delayed'
           else 'waiting'
         end,
         run_at = case when j.pending > 0 or j.run_at > %(now)s then j.run_at end,
         stalled = j.stalled + 1,
         token = null,
         lease_until = null,
         locked_by = null
    from lost l
   where j.seq = l.seq
  returning j.queue, j.id, j.name, j.grp, j.state
)
select * from moved
