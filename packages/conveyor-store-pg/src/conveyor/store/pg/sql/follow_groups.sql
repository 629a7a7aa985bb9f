-- Have all lanes of these groups say of their group what is true now. The groups are locked by now.
update {schema}.conveyor_lanes l
   set served = g.served,
       active = g.active,
       paused = g.paused,
       parked_for = g.parked_for
  from unnest(%(queues)s::text[], %(groups)s::text[]) m (queue, grp)
  join {schema}.conveyor_groups g
    on g.queue = m.queue
   and g.grp = m.grp
 where l.queue = m.queue
   and l.grp = m.grp
   and (l.served, l.active, l.paused, l.parked_for) is distinct from (g.served, g.active, g.paused, g.parked_for)
