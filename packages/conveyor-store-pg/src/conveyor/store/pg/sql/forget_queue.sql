delete from {schema}.conveyor_queues q
 where queue = %(queue)s
   and turns = 0
   and not limited
   and not exists (select from {schema}.conveyor_groups where queue = %(queue)s)
   and not exists (select from {schema}.conveyor_lanes where queue = %(queue)s)
