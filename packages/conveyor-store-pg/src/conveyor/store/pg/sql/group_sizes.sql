select g.queue, g.grp, g.waiting + g.delayed
  from unnest(%(queues)s::text[], %(groups)s::text[]) m (queue, grp)
  join {schema}.conveyor_groups g
    on g.queue = m.queue
   and g.grp = m.grp
