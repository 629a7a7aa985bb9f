-- Pauses of groups that are over; and the groups and lanes that go on.
with ended as (
  delete from {schema}.conveyor_pauses
   where queue = %(queue)s
     and kind = 'group'
     and until <= %(now)s
  returning target
),
groups as (
  update {schema}.conveyor_groups g
     set paused = false
    from ended e
   where g.queue = %(queue)s
     and g.grp = e.target
)
update {schema}.conveyor_lanes l
   set paused = false
  from ended e
 where l.queue = %(queue)s
   and l.grp = e.target
