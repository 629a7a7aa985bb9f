delete from conveyor_queues
 where queue = :queue
