select t.queue, t.id, t.token, t.state
  from unnest(%(queues)s::text[], %(ids)s::text[], %(tokens)s::text[]) e (queue, id, token)
  join {schema}.conveyor_tombstones t
    on t.queue = e.queue
   and t.id = e.id
   and t.token = e.token
