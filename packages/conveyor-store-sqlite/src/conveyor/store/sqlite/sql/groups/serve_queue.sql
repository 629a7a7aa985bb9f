update conveyor_queues
   set turns = :turns,
       served = :served
 where queue = :queue
