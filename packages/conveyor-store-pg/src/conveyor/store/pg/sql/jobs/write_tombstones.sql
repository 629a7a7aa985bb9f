insert into {schema}.conveyor_tombstones (queue, id, token, state, at)
select queue, id, token, state, %(now)s
  from unnest(%(queues)s::text[], %(ids)s::text[], %(tokens)s::text[], %(states)s::text[])
    g (queue, id, token, state)
on conflict (queue, id, token) do update
  set state = excluded.state,
      at = excluded.at
