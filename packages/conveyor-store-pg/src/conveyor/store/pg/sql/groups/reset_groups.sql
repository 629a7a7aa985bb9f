-- The groups that a cleared queue still has are reset: not paused, and never served.
with locked as materialized (
  select grp
    from {schema}.conveyor_groups
   where queue = %(queue)s
     and (paused or last_served > 0)
   order by grp
     for update
)
update {schema}.conveyor_groups
   set paused = false,
       last_served = 0
 where queue = %(queue)s
   and grp = any(array(select grp from locked))
returning grp
