select t.queue, t.id, t.token, t.state
  from unnest(%(queues)s::text[], %(ids)s::text[], %(tokens)s::text[]) e (queue, id, token)
 cross join lateral (
   select queue, id, token, state
     from {schema}.conveyor_tombstones
    where queue = e.queue
      and id = e.id
      and token = e.token
   offset 0
 ) t
