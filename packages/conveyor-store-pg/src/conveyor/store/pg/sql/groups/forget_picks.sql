-- A queue that knows no group counts no picks; the row of one without limits goes by forget_queue.sql.
update {schema}.conveyor_queues q
   set picks = 0,
       ungrouped_last_served = 0
 where queue = %(queue)s
   and picks > 0
   and (
     select true
       from {schema}.conveyor_groups
      where queue = %(queue)s and known
      order by grp
      limit 1
   ) is null
