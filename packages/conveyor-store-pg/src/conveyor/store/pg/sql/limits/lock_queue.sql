-- Lock the claims of a queue: the one that has written this is the only one until it commits.
insert into {schema}.conveyor_queues as q (queue, limited)
values (%(queue)s, %(limited)s)
on conflict (queue) do update
  set limited = true
where excluded.limited
  and not q.limited
