update {schema}.conveyor_queues
   set turns = %(turns)s,
       served = %(served)s
 where queue = %(queue)s
