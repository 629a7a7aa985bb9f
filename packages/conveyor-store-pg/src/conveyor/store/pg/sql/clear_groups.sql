-- The groups that a cleared queue still has begin anew: not paused, and without a turn.
with locked as materialized (
  select grp
    from {schema}.conveyor_groups
   where queue = %(queue)s
     and (paused or served > 0)
   order by grp
     for update
)
update {schema}.conveyor_groups g
   set paused = false,
       served = 0
  from locked l
 where g.queue = %(queue)s
   and g.grp = l.grp
returning g.grp
