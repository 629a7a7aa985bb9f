update {schema}.conveyor_groups
   set paused = false
 where queue = %(queue)s
   and grp = %(group)s
