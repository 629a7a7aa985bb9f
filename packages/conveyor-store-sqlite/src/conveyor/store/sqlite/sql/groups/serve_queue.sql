update conveyor_queues
   set picks = :turns,
       ungrouped_last_served = :served
 where queue = :queue
