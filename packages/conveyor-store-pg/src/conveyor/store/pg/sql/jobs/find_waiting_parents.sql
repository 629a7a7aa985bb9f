-- Which of these wait for their children; they stay so until this step is over.
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
)
select queue, id
  from {schema}.conveyor_jobs
 where seq = any(array(select seq from found))
   and state = 'waiting-children'
 order by seq
   for update
