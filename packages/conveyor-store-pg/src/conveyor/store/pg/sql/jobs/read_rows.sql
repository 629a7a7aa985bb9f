-- What a step has to know of jobs to move them, in the order of jobs.row_of, which are locked.
with found as materialized (
  select j.seq
    from unnest(%(queues)s::text[], %(ids)s::text[]) e (queue, id)
   cross join lateral (
     select seq
       from {schema}.conveyor_jobs
      where queue = e.queue
        and id = e.id
     offset 0
   ) j
   order by j.seq
)
select
  {include row_columns}
  from found f
 cross join lateral (
   select *
     from {schema}.conveyor_jobs
    where seq = f.seq
   offset 0
      for update
 ) j
