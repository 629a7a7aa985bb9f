-- Copy to the sub-queues of these groups what is true of their groups now. The groups are locked by now.
update {schema}.conveyor_subqueues l
   set last_served = g.last_served,
       active = g.active,
       paused = g.paused,
       throttled_for = g.throttled_for
  from unnest(%(queues)s::text[], %(groups)s::text[]) m (queue, grp)
 cross join lateral (
   select last_served, active, paused, throttled_for
     from {schema}.conveyor_groups
    where queue = m.queue
      and grp = m.grp
   offset 0
 ) g
 where l.queue = any(array[m.queue])
   and l.grp = any(array[m.grp])
   and (l.last_served, l.active, l.paused, l.throttled_for) is distinct from (g.last_served, g.active, g.paused, g.throttled_for)
