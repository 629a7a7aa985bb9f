update {schema}.conveyor_queues
   set picks = %(picks)s,
       ungrouped_last_served = %(ungrouped_last_served)s
 where queue = %(queue)s
