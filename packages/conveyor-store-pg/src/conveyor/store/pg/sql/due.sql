-- Jobs that are due become waiting; each with its name and group, and those that somebody is at are left.
with due as materialized (
  select seq
    from {schema}.conveyor_jobs
   where queue = any(%(queues)s::text[])
     and state = 'delayed'
     and run_at <= %(now)s
   order by run_at
   limit %(limit)s
     for update skip locked
),
moved as (
  update {schema}.conveyor_jobs j
     set state = 'waiting',
         run_at = null
    from due d
   where j.seq = d.seq
  returning j.queue, j.id, j.name, j.grp
)
select * from moved
