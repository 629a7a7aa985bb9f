delete from {schema}.conveyor_queues q
 where queue = %(queue)s
   and picks = 0
   and not limited
   and (
     select true
       from {schema}.conveyor_groups
      where queue = %(queue)s
      order by grp
      limit 1
   ) is null
   and (
     select true
       from {schema}.conveyor_subqueues
      where queue = %(queue)s
      order by grp, name
      limit 1
   ) is null
