-- Have all lanes of these groups say of their group what is true now. The groups are locked by now.
update {schema}.conveyor_lanes l
   set served = g.served,
       active = g.active,
       paused = g.paused,
       throttled_for = g.throttled_for
  from unnest(%(queues)s::text[], %(groups)s::text[]) m (queue, grp)
 cross join lateral (
   select served, active, paused, throttled_for
     from {schema}.conveyor_groups
    where queue = m.queue
      and grp = m.grp
   offset 0
 ) g
 where l.queue = any(array[m.queue])
   and l.grp = any(array[m.grp])
   and (l.served, l.active, l.paused, l.throttled_for) is distinct from (g.served, g.active, g.paused, g.throttled_for)
