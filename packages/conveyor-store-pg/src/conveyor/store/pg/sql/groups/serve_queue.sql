update {schema}.conveyor_queues
   set picks = %(turns)s,
       ungrouped_last_served = %(served)s
 where queue = %(queue)s
