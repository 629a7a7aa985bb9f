-- Parents in the store wait for their new children too.
update {schema}.conveyor_jobs j
   set pending = j.pending + e.children
  from unnest(%(queues)s::text[], %(ids)s::text[], %(children)s::int[]) e (queue, id, children)
 where j.queue = any(array[e.queue])
   and j.id = any(array[e.id])
   and j.state = 'waiting-children'
