-- A queue that knows no group has no turns; one without limits needs no line either.
update {schema}.conveyor_queues q
   set turns = 0,
       served = 0
 where queue = %(queue)s
   and turns > 0
   and (
     select true
       from {schema}.conveyor_groups
      where queue = %(queue)s and known
      order by grp
      limit 1
   ) is null
