-- Pauses of groups that are over; and the groups and lanes that go on. Groups are locked in order, as by all
-- who lock several.
with ended as (
  delete from {schema}.conveyor_pauses
   where queue = %(queue)s
     and kind = 'group'
     and until <= %(now)s
  returning target
),
locked as materialized (
  select g.grp
    from {schema}.conveyor_groups g
    join ended e
      on e.target = g.grp
   where g.queue = %(queue)s
   order by g.grp
     for update of g
),
groups as (
  update {schema}.conveyor_groups g
     set paused = false
    from locked l
   where g.queue = %(queue)s
     and g.grp = l.grp
)
update {schema}.conveyor_lanes n
   set paused = false
  from locked l
 where n.queue = %(queue)s
   and n.grp = l.grp
