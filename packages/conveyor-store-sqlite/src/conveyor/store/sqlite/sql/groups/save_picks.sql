update conveyor_queues
   set picks = :picks,
       ungrouped_last_served = :ungrouped_last_served
 where queue = :queue
