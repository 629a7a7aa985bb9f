-- Which of these wait for their children; they stay so until this step is over.
select j.queue, j.id
  from unnest(%(queues)s::text[], %(ids)s::text[]) e (queue, id)
  join {schema}.conveyor_jobs j
    on j.queue = e.queue
   and j.id = e.id
 where j.state = 'waiting-children'
 order by j.seq
   for update of j
