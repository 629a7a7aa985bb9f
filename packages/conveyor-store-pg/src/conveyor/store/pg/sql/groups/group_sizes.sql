select m.queue, m.grp, g.waiting + g.delayed
  from unnest(%(queues)s::text[], %(groups)s::text[]) m (queue, grp)
 cross join lateral (
   select waiting, delayed
     from {schema}.conveyor_groups
    where queue = m.queue
      and grp = m.grp
   offset 0
 ) g
