-- Jobs that are due become waiting; each with its name and group, and those that another call has locked are left.
with due as materialized (
  select j.seq
    from unnest(%(queues)s::text[]) q (queue)
   cross join lateral (
     select seq, run_at
       from {schema}.conveyor_jobs
      where queue = q.queue
        and state = 'delayed'
        and run_at <= %(now)s
      order by run_at
      limit %(limit)s
        for update skip locked
   ) j
   order by j.run_at
   limit %(limit)s
),
moved as (
  update {schema}.conveyor_jobs j
     set state = 'waiting',
         run_at = null
   where j.seq = any(array(select seq from due))
  returning j.queue, j.id, j.name, j.grp
)
select * from moved
