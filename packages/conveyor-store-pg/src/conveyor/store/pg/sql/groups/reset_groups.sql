-- The groups that a cleared queue still has begin anew: not paused, and without a turn.
with locked as materialized (
  select grp
    from {schema}.conveyor_groups
   where queue = %(queue)s
     and (paused or served > 0)
   order by grp
     for update
)
update {schema}.conveyor_groups
   set paused = false,
       served = 0
 where queue = %(queue)s
   and grp = any(array(select grp from locked))
returning grp
