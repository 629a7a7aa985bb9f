-- When the next job of these queues is due, or the next lease runs out.
select least(
  (
    select min(n.run_at)
      from unnest(%(queues)s::text[]) q (queue)
     cross join lateral (
       select run_at
         from {schema}.conveyor_jobs
        where queue = q.queue
          and state = 'delayed'
        order by run_at
        limit 1
     ) n
  ),
  (
    select min(n.lease_until)
      from unnest(%(queues)s::text[]) q (queue)
     cross join lateral (
       select lease_until
         from {schema}.conveyor_jobs
        where queue = q.queue
          and state = 'active'
        order by lease_until
        limit 1
     ) n
  )
) at time zone 'UTC'
